//! `vllm-operator completions`: what a shell needs to complete commands and flags, and what kubectl asks its plugin for.
//!
//! Architecture invariant: everything follows from the definition of the command line.

use std::ffi::OsString;
use std::io::Write as _;

use clap_complete::engine::complete;
use clap_complete::generate;

use crate::args::{CompletionsArgs, PLUGIN, command};

/// The name of the program where kubectl asks it what its plugin `vllm` takes.
pub const KUBECTLS: &str = "kubectl_complete-vllm";
/// The name of the program everywhere else.
const PROGRAM: &str = "vllm-operator";
/// Cobra's word for: files may follow where nothing else does.
const FILES_MAY_FOLLOW: &str = ":0";

/// Prints the script of a shell to standard output.
pub fn print(args: &CompletionsArgs) {
    generate(args.shell, &mut command(PROGRAM), PROGRAM, &mut std::io::stdout());
}

/// Prints what may stand in place of the last word, as kubectl reads it: one a line, each with its description behind a tab, and what
/// to do with them.
pub fn print_for_kubectl(words: impl Iterator<Item = OsString>) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout();
    for (value, help) in candidates(words)? {
        writeln!(stdout, "{value}\t{help}")?;
    }
    writeln!(stdout, "{FILES_MAY_FOLLOW}")?;
    Ok(())
}

fn candidates(words: impl Iterator<Item = OsString>) -> anyhow::Result<Vec<(String, String)>> {
    let line: Vec<_> = std::iter::once(OsString::from(PLUGIN)).chain(words).collect();
    let last = line.len() - 1;
    let found = complete(&mut command(PLUGIN), line, last, None)?;
    let shown = found.into_iter().filter(|candidate| !candidate.is_hide_set());
    let texts = shown.map(|candidate| {
        let help = candidate.get_help().map(ToString::to_string).unwrap_or_default();
        (
            candidate.get_value().to_string_lossy().into_owned(),
            help.lines().next().unwrap_or_default().to_owned(),
        )
    });
    Ok(texts.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(words: &[&str]) -> Vec<String> {
        let found = candidates(words.iter().map(OsString::from)).expect("candidates");
        found.into_iter().map(|(value, _)| value).collect()
    }

    #[test]
    fn kubectl_is_told_commands_and_flags() {
        assert_eq!(values(&["st"]), ["status"]);
        assert_eq!(values(&["ru"]), Vec::<String>::new(), "what is no matter of a plugin");
        assert!(values(&["doctor", "--op"]).contains(&"--operator-namespace".to_owned()));
        assert_eq!(values(&["doctor", "--output", "j"]), ["json"]);
    }
}
