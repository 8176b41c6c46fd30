//! The arguments of `vllm serve`, as far as an operator sets them, with argparse's error texts.
//!
//! **Architecture invariant**: plain parsing, no I/O.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

/// What vLLM serves when it is not told.
pub const DEFAULT_MODEL: &str = "Qwen/Qwen3-0.6B";

/// Flags with a value that the simulation takes and does not act on.
const IGNORED_WITH_VALUE: &[&str] = &[
    "--block-size",
    "--chat-template",
    "--data-parallel-size",
    "--download-dir",
    "--dtype",
    "--gpu-memory-utilization",
    "--hf-overrides",
    "--kv-cache-dtype",
    "--load-format",
    "--max-model-len",
    "--max-num-batched-tokens",
    "--pipeline-parallel-size",
    "--quantization",
    "--revision",
    "--seed",
    "--swap-space",
    "--tensor-parallel-size",
    "--tokenizer",
    "--uvicorn-log-level",
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
        let mut args = Self {
            model: String::new(),
            served_model_names: Vec::new(),
            host: Ipv4Addr::UNSPECIFIED.into(),
            port: 8000,
            max_num_seqs: 256,
            api_key: None,
            shutdown_timeout: Duration::ZERO,
        };
        let mut unrecognized = Vec::new();
        while let Some(word) = words.next() {
            let Some(stripped) = word.strip_prefix("--") else {
                if args.model.is_empty() {
                    word.clone_into(&mut args.model);
                } else {
                    unrecognized.push(word);
                }
                continue;
            };
            let (name, attached) =
                stripped.split_once('=').map_or((stripped, None), |(name, value)| (name, Some(value)));
            let flag = format!("--{}", name.replace('_', "-"));
            if IGNORED_SWITCHES.contains(&flag.as_str()) {
                continue;
            }
            let known = IGNORED_WITH_VALUE.contains(&flag.as_str())
                || matches!(
                    flag.as_str(),
                    "--model"
                        | "--served-model-name"
                        | "--host"
                        | "--port"
                        | "--max-num-seqs"
                        | "--api-key"
                        | "--shutdown-timeout"
                );
            if !known {
                unrecognized.push(word);
                continue;
            }
            let value = match attached {
                Some(value) => value,
                None => words
                    .next_if(|next| !next.starts_with("--"))
                    .ok_or_else(|| usage(&format!("argument {flag}: expected one argument")))?,
            };
            match flag.as_str() {
                "--model" => value.clone_into(&mut args.model),
                "--served-model-name" => {
                    args.served_model_names.push(value.to_owned());
                    while let Some(more) = words.next_if(|next| !next.starts_with("--")) {
                        args.served_model_names.push(more.to_owned());
                    }
                }
                "--host" => args.host = number(&flag, value)?,
                "--port" => args.port = number(&flag, value)?,
                "--max-num-seqs" => {
                    args.max_num_seqs = number(&flag, value)?;
                    if args.max_num_seqs == 0 {
                        return Err(usage("argument --max-num-seqs: must be at least 1"));
                    }
                }
                "--api-key" => args.api_key = Some(value.to_owned()),
                "--shutdown-timeout" => args.shutdown_timeout = Duration::from_secs(number(&flag, value)?),
                _ => {}
            }
        }
        if !unrecognized.is_empty() {
            return Err(usage(&format!("unrecognized arguments: {}", unrecognized.join(" "))));
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

fn number<T: std::str::FromStr>(flag: &str, value: &str) -> Result<T, String> {
    value.parse().map_err(|_| usage(&format!("argument {flag}: invalid value: '{value}'")))
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
    fn errors_are_argparses() {
        for (line, says) in [
            ("serve m --foo --bar=1", "vllm: error: unrecognized arguments: --foo --bar=1"),
            ("serve m extra", "unrecognized arguments: extra"),
            ("serve --port", "argument --port: expected one argument"),
            ("serve --port x", "argument --port: invalid value: 'x'"),
            ("serve --max-num-seqs 0", "must be at least 1"),
            ("bench", "invalid choice"),
        ] {
            let error = parse(line).unwrap_err();
            assert!(error.contains(says), "{line}: {error}");
            assert!(error.starts_with("usage: vllm serve"), "{error}");
        }
    }
}
