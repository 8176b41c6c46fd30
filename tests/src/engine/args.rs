//! The arguments of `vllm serve`, as far as an operator sets them, with argparse's error texts.
//!
//! **Architecture invariant**: plain parsing, no I/O.

use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;
use std::time::Duration;

/// What vLLM serves when it is not told.
pub const DEFAULT_MODEL: &str = "Qwen/Qwen3-0.6B";

/// The length of the simulated model.
const DEFAULT_MODEL_LEN: u64 = 4096;

/// What a value has to look like.
#[derive(Clone, Copy)]
enum Takes {
    Text,
    /// A whole number.
    Int,
    /// A whole number of 1 and above.
    Count,
    Float,
}

/// Flags with a value that the simulation takes and does not act on.
const IGNORED_WITH_VALUE: &[(&str, Takes)] = &[
    ("--block-size", Takes::Count),
    ("--chat-template", Takes::Text),
    ("--data-parallel-size", Takes::Count),
    ("--download-dir", Takes::Text),
    ("--dtype", Takes::Text),
    ("--gpu-memory-utilization", Takes::Float),
    ("--hf-overrides", Takes::Text),
    ("--kv-cache-dtype", Takes::Text),
    ("--load-format", Takes::Text),
    ("--max-num-batched-tokens", Takes::Count),
    ("--pipeline-parallel-size", Takes::Count),
    ("--quantization", Takes::Text),
    ("--revision", Takes::Text),
    ("--seed", Takes::Int),
    ("--swap-space", Takes::Float),
    ("--tensor-parallel-size", Takes::Count),
    ("--tokenizer", Takes::Text),
    ("--uvicorn-log-level", Takes::Text),
];

/// Flags with a value that the simulation acts on.
const KNOWN: &[&str] = &[
    "--api-key",
    "--host",
    "--max-model-len",
    "--max-num-seqs",
    "--model",
    "--port",
    "--served-model-name",
    "--shutdown-timeout",
];

/// Short forms of flags.
const SHORT: &[(&str, &str)] = &[
    ("-dp", "--data-parallel-size"),
    ("-pp", "--pipeline-parallel-size"),
    ("-q", "--quantization"),
    ("-tp", "--tensor-parallel-size"),
];

/// Switches that the simulation takes and does not act on.
const IGNORED_SWITCHES: &[&str] = &[
    "--disable-log-requests",
    "--enable-auto-tool-choice",
    "--enable-chunked-prefill",
    "--enable-log-requests",
    "--enable-prefix-caching",
    "--enforce-eager",
    "--no-enable-prefix-caching",
    "--trust-remote-code",
];

/// What the simulation acts on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineArgs {
    /// The model that is loaded.
    pub model: String,
    /// The names it is served under; by default its own.
    pub served_model_names: Vec<String>,
    /// Address to listen on; by default all.
    pub host: IpAddr,
    /// Port to listen on.
    pub port: u16,
    /// Requests that run at once.
    pub max_num_seqs: usize,
    /// Tokens that a prompt and its answer may have together; only told, not enforced.
    pub max_model_len: u64,
    /// What `/v1` demands as a bearer token.
    pub api_key: Option<String>,
    /// How long requests in flight may take after SIGTERM.
    pub shutdown_timeout: Duration,
}

impl EngineArgs {
    /// Reads what follows `vllm`. The error is what vLLM would print.
    pub fn parse(arguments: &[String]) -> Result<Self, String> {
        let mut words = arguments.iter().map(String::as_str).peekable();
        match words.next() {
            Some("serve") => {}
            other => {
                return Err(usage(&format!(
                    "argument subparser: invalid choice: {:?} (choose from 'serve')",
                    other.unwrap_or_default()
                )));
            }
        }
        let first_is_flag = words.peek().is_some_and(|word| word.starts_with('-'));
        let mut args = Self {
            model: String::new(),
            served_model_names: Vec::new(),
            host: Ipv4Addr::UNSPECIFIED.into(),
            port: 8000,
            max_num_seqs: 256,
            max_model_len: DEFAULT_MODEL_LEN,
            api_key: None,
            shutdown_timeout: Duration::ZERO,
        };
        let mut unrecognized = Vec::new();
        while let Some(word) = words.next() {
            if !is_flag(word) {
                if args.model.is_empty() {
                    word.clone_into(&mut args.model);
                } else {
                    unrecognized.push(word);
                }
                continue;
            }
            let (name, attached) =
                word.split_once('=').map_or((word, None), |(name, value)| (name, Some(value)));
            let flag = match SHORT.iter().find(|(short, _)| *short == name) {
                Some((_, long)) => (*long).to_owned(),
                None => name.replace('_', "-"),
            };
            if IGNORED_SWITCHES.contains(&flag.as_str()) {
                continue;
            }
            let ignored = IGNORED_WITH_VALUE.iter().find(|(ignored, _)| *ignored == flag);
            if ignored.is_none() && !KNOWN.contains(&flag.as_str()) {
                unrecognized.push(word);
                continue;
            }
            let value = match attached {
                Some(value) => value,
                None => words
                    .next_if(|next| !is_flag(next))
                    .ok_or_else(|| usage(&format!("argument {flag}: expected one argument")))?,
            };
            match flag.as_str() {
                "--model" => value.clone_into(&mut args.model),
                "--served-model-name" => {
                    args.served_model_names.push(value.to_owned());
                    while let Some(more) = words.next_if(|next| !is_flag(next)) {
                        args.served_model_names.push(more.to_owned());
                    }
                }
                "--host" => args.host = host(value)?,
                "--port" => args.port = number(&flag, value, "int")?,
                "--max-num-seqs" => args.max_num_seqs = at_least_one(&flag, value)?,
                "--max-model-len" => {
                    args.max_model_len = length(value).ok_or_else(|| invalid(&flag, value, "int"))?;
                }
                "--api-key" => args.api_key = Some(value.to_owned()),
                "--shutdown-timeout" => {
                    args.shutdown_timeout = Duration::from_secs(number(&flag, value, "int")?);
                }
                _ => match ignored.map_or(Takes::Text, |(_, takes)| *takes) {
                    Takes::Text => {}
                    Takes::Int => drop(number::<i64>(&flag, value, "int")?),
                    Takes::Count => drop(at_least_one(&flag, value)?),
                    Takes::Float => drop(number::<f64>(&flag, value, "float")?),
                },
            }
        }
        if !unrecognized.is_empty() {
            return Err(usage(&format!("unrecognized arguments: {}", unrecognized.join(" "))));
        }
        // It looks at the words and not at what they mean.
        if !args.served_model_names.is_empty() && first_is_flag {
            return Err("ValueError: `model` should be provided as the first positional argument when using `vllm serve`. i.e. `vllm serve <model> --<arg> <value>`.".into());
        }
        if args.model.is_empty() {
            DEFAULT_MODEL.clone_into(&mut args.model);
        }
        if args.served_model_names.is_empty() {
            args.served_model_names.push(args.model.clone());
        }
        Ok(args)
    }
}

/// As argparse sees it: what starts with a dash and is no negative number.
fn is_flag(word: &str) -> bool {
    word.len() > 1 && word.starts_with('-') && word.parse::<f64>().is_err()
}

fn number<T: FromStr>(flag: &str, value: &str, kind: &str) -> Result<T, String> {
    value.parse().map_err(|_| invalid(flag, value, kind))
}

fn at_least_one(flag: &str, value: &str) -> Result<usize, String> {
    match number(flag, value, "int")? {
        0 => Err(usage(&format!("argument {flag}: must be at least 1"))),
        count => Ok(count),
    }
}

/// An address, or the one name that needs no resolver.
fn host(value: &str) -> Result<IpAddr, String> {
    if value == "localhost" { Ok(Ipv4Addr::LOCALHOST.into()) } else { number("--host", value, "address") }
}

/// A length as vLLM reads it: `4096`, `4k` is 4000 and `4K` is 4096. `-1` and `auto` leave it to the engine.
fn length(value: &str) -> Option<u64> {
    if matches!(value, "-1" | "auto") {
        return Some(DEFAULT_MODEL_LEN);
    }
    let (digits, factor) = match value.strip_suffix(['k', 'K', 'm', 'M']) {
        None => (value, 1),
        Some(digits) => match value.as_bytes()[digits.len()] {
            b'k' => (digits, 1000),
            b'K' => (digits, 1024),
            b'm' => (digits, 1_000_000),
            _ => (digits, 1 << 20),
        },
    };
    digits.parse::<u64>().ok()?.checked_mul(factor).filter(|length| *length > 0)
}

fn invalid(flag: &str, value: &str, kind: &str) -> String {
    usage(&format!("argument {flag}: invalid {kind} value: '{value}'"))
}

fn usage(error: &str) -> String {
    format!("usage: vllm serve [model_tag] [options]\nvllm: error: {error}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<EngineArgs, String> {
        EngineArgs::parse(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn what_is_left_out_is_vllms_own_default() {
        let args = parse("serve").unwrap();
        assert_eq!((args.model.as_str(), args.port, args.max_num_seqs), (DEFAULT_MODEL, 8000, 256));
        assert_eq!(args.served_model_names, [DEFAULT_MODEL]);
    }

    #[test]
    fn each_way_to_write_a_flag() {
        let args = parse("serve m --port=9 --max_num_seqs 3 --served-model-name a b --enforce-eager --dtype auto --shutdown-timeout 5").unwrap();
        assert_eq!((args.model.as_str(), args.port, args.max_num_seqs), ("m", 9, 3));
        assert_eq!(args.served_model_names, ["a", "b"]);
        assert_eq!(args.shutdown_timeout, Duration::from_secs(5));
    }

    #[test]
    fn short_flags_names_and_lengths() {
        let args =
            parse("serve m -tp 2 -pp=2 --host localhost --seed -1 --served-model-name a -q awq").unwrap();
        assert_eq!((args.model.as_str(), args.host), ("m", Ipv4Addr::LOCALHOST.into()));
        assert_eq!(args.served_model_names, ["a"]);
        for (length, tokens) in
            [("8192", 8192), ("16k", 16_000), ("16K", 16_384), ("auto", 4096), ("-1", 4096)]
        {
            let args = parse(&format!("serve --max-model-len {length}")).unwrap();
            assert_eq!(args.max_model_len, tokens, "{length}");
        }
    }

    #[test]
    fn errors_are_argparses() {
        for (line, says) in [
            ("serve m --foo --bar=1", "vllm: error: unrecognized arguments: --foo --bar=1"),
            ("serve m extra", "unrecognized arguments: extra"),
            ("serve --port", "argument --port: expected one argument"),
            ("serve --port x", "argument --port: invalid int value: 'x'"),
            ("serve -tp two", "argument --tensor-parallel-size: invalid int value: 'two'"),
            ("serve --tensor-parallel-size 0", "argument --tensor-parallel-size: must be at least 1"),
            ("serve --pipeline-parallel-size=-1", "--pipeline-parallel-size: invalid int value: '-1'"),
            ("serve --gpu-memory-utilization most", "invalid float value: 'most'"),
            ("serve --max-model-len 0", "argument --max-model-len: invalid int value: '0'"),
            ("serve --host nowhere", "argument --host: invalid address value: 'nowhere'"),
            ("serve -tp --port 9", "argument --tensor-parallel-size: expected one argument"),
            ("serve m -x", "unrecognized arguments: -x"),
            ("serve --max-num-seqs 0", "must be at least 1"),
            ("bench", "invalid choice"),
        ] {
            let error = parse(line).unwrap_err();
            assert!(error.contains(says), "{line}: {error}");
            assert!(error.starts_with("usage: vllm serve"), "{error}");
        }
        let error = parse("serve --port 1 m --served-model-name=a").unwrap_err();
        assert!(
            error.starts_with("ValueError: `model` should be provided as the first positional"),
            "{error}"
        );
    }
}
