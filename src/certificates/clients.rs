//! The file with the CAs of whoever may call the webhooks, read again as it changes.
//!
//! **Architecture invariant:** the first read fails hard; whatever goes wrong later leaves those in force that were. Read
//! and compared, never watched: a mounted Secret changes by the swap of a link.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use certs::Clients;
use tokio::time::sleep;
use tracing::{info, warn};

/// How often it is read. The kubelet brings a changed Secret within a minute; a few seconds more are nothing.
const PERIOD: Duration = Duration::from_secs(5);

/// The file, and who is let in by it.
#[derive(Debug)]
pub struct ClientFile {
    path: PathBuf,
    text: Vec<u8>,
    clients: Arc<Clients>,
}

impl ClientFile {
    /// Reads the file at `path`; `None` if none is named.
    pub fn open(path: Option<&Path>, names: &[String]) -> anyhow::Result<Option<Self>> {
        let Some(path) = path else { return Ok(None) };
        let what = || format!("--client-ca-file {}", path.display());
        let text = std::fs::read(path).with_context(what)?;
        let clients = Clients::new(&text, names.to_vec()).with_context(what)?;
        Ok(Some(Self { path: path.to_owned(), text, clients: Arc::new(clients) }))
    }

    /// Who is let in: follows the file as long as [`follow`](Self::follow) is polled.
    pub fn clients(&self) -> Arc<Clients> {
        Arc::clone(&self.clients)
    }

    /// Looks at the file every few seconds.
    pub async fn follow(mut self) {
        let mut told = None;
        loop {
            sleep(PERIOD).await;
            match self.look(tokio::fs::read(&self.path).await) {
                Ok(true) => {
                    info!(file = %self.path.display(), "client certificates are verified by other CAs now");
                }
                Ok(false) => {}
                Err(error) if told.as_ref() == Some(&error) => continue,
                Err(error) => {
                    warn!(file = %self.path.display(), error, "those client CAs stay in force that were");
                    told = Some(error);
                    continue;
                }
            }
            told = None;
        }
    }

    /// Whether what was read is other than before.
    fn look(&mut self, read: std::io::Result<Vec<u8>>) -> Result<bool, String> {
        let text = read.map_err(|error| error.to_string())?;
        if text == self.text {
            return Ok(false);
        }
        self.clients.swap(&text).map_err(|error| error.to_string())?;
        self.text = text;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use certs::Authority;
    use jiff::Timestamp;

    use super::*;

    fn authority() -> String {
        let day = Duration::from_hours(24);
        Authority::generate("clients", Timestamp::now(), day).expect("in range").certificate_pem()
    }

    #[test]
    fn what_cannot_be_read_at_first_is_an_error_and_later_none() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("ca.crt");
        let open = || ClientFile::open(Some(&path), &[]);
        let told = |error: anyhow::Error| format!("{error:#}").replace(&*path.to_string_lossy(), "FILE");
        assert_eq!(
            told(open().expect_err("absent")),
            "--client-ca-file FILE: No such file or directory (os error 2)"
        );
        std::fs::write(&path, "nonsense").expect("written");
        assert_eq!(
            told(open().expect_err("nonsense")),
            "--client-ca-file FILE: it must hold the CA certificates of clients as PEM: it holds none"
        );
        std::fs::write(&path, authority()).expect("written");
        let mut file = open().expect("readable").expect("named");
        let mut look = |text: &[u8]| file.look(Ok(text.to_vec()));
        assert_eq!(look(&std::fs::read(&path).expect("readable")), Ok(false));
        assert!(look(b"nonsense").is_err() && look(b"nonsense").is_err());
        let next = authority();
        assert_eq!(look(next.as_bytes()), Ok(true));
        assert_eq!(look(next.as_bytes()), Ok(false));
        assert!(file.look(Err(std::io::ErrorKind::NotFound.into())).is_err());
        assert!(ClientFile::open(None, &[]).expect("no file").is_none());
    }
}
