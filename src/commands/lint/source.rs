//! The files to look at.
//!
//! Architecture invariant: reads files and standard input; what is in them is text here.

use std::collections::HashSet;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use walkdir::WalkDir;

/// What a manifest's file name ends in, where a directory is given.
const EXTENSIONS: [&str; 3] = ["yaml", "yml", "json"];
/// Name of standard input, among arguments and in findings.
const STDIN: &str = "-";

/// A text and where it is from.
#[derive(Clone, Debug)]
pub(super) struct Source {
    /// The path as it was reached, or `-`.
    pub(super) name: String,
    /// The whole text, without a byte order mark.
    pub(super) text: String,
    /// Whether a byte order mark stood before it.
    pub(super) has_mark: bool,
}

/// Why there is nothing to look at.
#[derive(Debug, thiserror::Error)]
pub(super) enum SourceError {
    #[error("cannot read {0}: {1}")]
    Read(String, std::io::Error),
    #[error("cannot read {0}: it is no UTF-8 text; save it as UTF-8")]
    NoText(String),
    #[error("{0} holds no *.yaml, *.yml or *.json, so nothing in it was checked; name the files")]
    Empty(String),
}

/// Reads all that the arguments name, each file once; directories with all below them, in the order of names.
pub(super) fn read(arguments: &[PathBuf]) -> (Vec<Source>, Vec<SourceError>) {
    let (mut sources, mut errors) = (Vec::new(), Vec::new());
    let mut seen = HashSet::new();
    for argument in arguments {
        for path in expand(argument, &mut errors) {
            if !seen.insert(path.canonicalize().unwrap_or_else(|_| path.clone())) {
                continue;
            }
            match source(&path) {
                Ok(source) => sources.push(source),
                Err(error) => errors.push(error),
            }
        }
    }
    (sources, errors)
}

/// A directory becomes the manifests below it.
fn expand(argument: &Path, errors: &mut Vec<SourceError>) -> Vec<PathBuf> {
    if argument.as_os_str() == STDIN || !argument.is_dir() {
        return vec![argument.to_owned()];
    }
    let mut paths = Vec::new();
    for entry in WalkDir::new(argument).follow_links(true).sort_by_file_name() {
        match entry {
            Ok(entry) => {
                let extension = entry.path().extension().and_then(|extension| extension.to_str());
                if entry.file_type().is_file()
                    && extension.is_some_and(|extension| EXTENSIONS.contains(&extension))
                {
                    paths.push(entry.into_path());
                }
            }
            Err(error) => {
                let path = error.path().unwrap_or(argument).display().to_string();
                errors.push(SourceError::Read(path, error.into()));
            }
        }
    }
    if paths.is_empty() {
        errors.push(SourceError::Empty(argument.display().to_string()));
    }
    paths
}

fn source(path: &Path) -> Result<Source, SourceError> {
    let name = path.display().to_string();
    let bytes = if path.as_os_str() == STDIN {
        let mut bytes = Vec::new();
        std::io::stdin().lock().read_to_end(&mut bytes).map(|_| bytes)
    } else {
        std::fs::read(path)
    };
    let bytes = bytes.map_err(|error| SourceError::Read(name.clone(), error))?;
    let mut text = String::from_utf8(bytes).map_err(|_| SourceError::NoText(name.clone()))?;
    let has_mark = text.starts_with('\u{feff}');
    if has_mark {
        text.drain(..'\u{feff}'.len_utf8());
    }
    Ok(Source { name, text, has_mark })
}
