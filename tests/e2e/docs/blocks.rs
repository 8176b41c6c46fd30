//! What stands in fences in README.md and `docs/`: manifests, and commands with what they show.

use std::path::Path;

use anyhow::{Context as _, ensure};

/// The tree.
pub const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// A fenced block.
#[derive(Clone, Debug)]
pub struct Block {
    /// The document's path in the tree.
    pub document: String,
    /// The line of its first fence.
    pub line: usize,
    /// What stands behind the first fence: the language, and how a manifest is to be judged.
    pub info: String,
    /// What stands in it.
    pub text: String,
}

/// A command, and what the document shows of its output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// As one types it, without the prompt.
    pub line: String,
    /// The lines below it.
    pub shown: Vec<String>,
}

/// Every document of users.
pub fn documents() -> anyhow::Result<Vec<String>> {
    let mut all = vec!["README.md".to_owned()];
    for entry in std::fs::read_dir(Path::new(ROOT).join("docs"))? {
        let name = entry?.file_name().into_string().ok().context("a name in UTF-8")?;
        all.push(format!("docs/{name}"));
    }
    all.sort();
    Ok(all)
}

/// The blocks of a document, from top to bottom.
pub fn of(document: &str) -> anyhow::Result<Vec<Block>> {
    let text =
        std::fs::read_to_string(Path::new(ROOT).join(document)).with_context(|| document.to_owned())?;
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    for (at, line) in text.lines().enumerate() {
        match (&mut open, line.strip_prefix("```")) {
            (None, Some(info)) => {
                let (document, info) = (document.to_owned(), info.trim().to_owned());
                open = Some(Block { document, line: at + 1, info, text: String::new() });
            }
            (Some(_), Some("")) => blocks.extend(open.take()),
            (Some(block), _) => {
                block.text.push_str(line);
                block.text.push('\n');
            }
            (None, None) => {}
        }
    }
    ensure!(open.is_none(), "{document}: a fence is not closed");
    Ok(blocks)
}

impl Block {
    /// Where it stands, for errors.
    pub fn place(&self) -> String {
        format!("{}:{}", self.document, self.line)
    }

    /// The language, and the words behind it.
    pub fn language(&self) -> (&str, &str) {
        self.info.split_once(' ').unwrap_or((&self.info, ""))
    }

    /// The commands of a console.
    pub fn commands(&self) -> anyhow::Result<Vec<Command>> {
        let mut commands = Vec::<Command>::new();
        for line in self.text.lines() {
            match (line.strip_prefix("$ "), commands.last_mut()) {
                (_, Some(command)) if goes_on(&command.line) => {
                    command.line.push('\n');
                    command.line.push_str(line);
                }
                (Some(line), _) => commands.push(Command { line: line.to_owned(), shown: Vec::new() }),
                (None, Some(command)) => command.shown.push(line.to_owned()),
                (None, None) => anyhow::bail!("{}: a console begins with a command", self.place()),
            }
        }
        // Between commands an empty line is only air.
        for command in &mut commands {
            while command.shown.last().is_some_and(String::is_empty) {
                command.shown.pop();
            }
        }
        Ok(commands)
    }
}

/// Whether a shell would wait for more of a command: a quote is open, or the end of the line is escaped.
fn goes_on(line: &str) -> bool {
    let mut open = None;
    let mut escaped = false;
    for c in line.chars() {
        match (open, c) {
            _ if escaped => escaped = false,
            (None | Some('"'), '\\') => escaped = true,
            (None, '\'' | '"') => open = Some(c),
            (Some(quote), _) if quote == c => open = None,
            // What follows is a comment.
            (None, '#') => break,
            _ => {}
        }
    }
    open.is_some() || escaped
}

/// What the parser makes of a text, where documents cannot show it.
pub fn parses() -> anyhow::Result<()> {
    let text = "$ a 'b\nc' # it's\nshown\n$ d \\\n  e\n\n";
    let block = Block { document: "d".into(), line: 1, info: "console".into(), text: text.into() };
    let command = |line: &str, shown: &[&str]| Command {
        line: line.into(),
        shown: shown.iter().map(|&line| line.into()).collect(),
    };
    let found = block.commands()?;
    let wanted = [command("a 'b\nc' # it's", &["shown"]), command("d \\\n  e", &[])];
    ensure!(found == wanted, "{found:?}");
    let headless = Block { text: "shown\n".into(), ..block };
    ensure!(headless.commands().is_err(), "output without a command was taken");
    Ok(())
}
