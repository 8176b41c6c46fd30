//! The leaf in mounted files, which somebody else renews: cert-manager, as a rule.
//!
//! **Architecture invariant:** files are read and compared, never watched: a mounted Secret changes by a swap of
//! symbolic links, which file notifications miss. Once there is a pair to serve, a bad one never takes its place.

use std::path::{Path, PathBuf};
use std::time::Duration;

use certs::{Bundle, Leaf};
use futures::stream::{BoxStream, StreamExt as _, unfold};
use tokio::time::sleep;
use tracing::info;

use super::run::{Certificates, Turn};
use super::{CertificateError, CertificateSettings, Source, clock, injection, keda};

/// Between two looks at the files. A kubelet takes up to a minute to bring a change here.
const POLL: Duration = Duration::from_secs(2);

/// What is served from files.
#[derive(Default)]
pub struct FromFiles {
    served: Option<Leaf>,
}

/// The pair in the files that `source` names. Without one there is nothing to start with.
pub fn leaf(certificate: &Path, key: &Path) -> Result<Leaf, CertificateError> {
    Leaf::from_pem(&bytes(certificate)?, &bytes(key)?).map_err(|error| bad(certificate, &error))
}

/// The CAs in a file; none without one.
pub fn bundle(path: Option<&Path>) -> Result<Bundle, CertificateError> {
    let Some(path) = path else { return Ok(Bundle::default()) };
    Bundle::parse(&bytes(path)?).map_err(|error| bad(path, &error))
}

/// An item whenever one of the files has other contents than before.
pub fn changes(settings: &CertificateSettings) -> BoxStream<'static, ()> {
    let mut paths: Vec<PathBuf> = settings.ca_file.iter().cloned().collect();
    if let Source::Files { certificate, key } = &settings.source {
        paths.extend([certificate.clone(), key.clone()]);
    }
    if paths.is_empty() {
        return futures::stream::pending().boxed();
    }
    let contents = move || paths.iter().map(|path| std::fs::read(path).ok()).collect::<Vec<_>>();
    unfold((contents(), contents), |(seen, contents)| async move {
        loop {
            sleep(POLL).await;
            let now = contents();
            if now != seen {
                return Some(((), (now, contents)));
            }
        }
    })
    .boxed()
}

impl FromFiles {
    /// Serves what is in the files now, and sees to it that it is trusted, if that is ours to do.
    pub async fn turn(
        &mut self,
        certificates: &Certificates,
        turn: &mut Turn,
    ) -> Result<(), CertificateError> {
        let Certificates { client, settings, metrics, .. } = certificates;
        let Source::Files { certificate, key } = &settings.source else { return Ok(()) };
        let found = match leaf(certificate, key) {
            Ok(found) => Some(found),
            Err(error) => {
                metrics.unusable_files.inc();
                turn.failures.push(error.to_string());
                None
            }
        };
        if let (None, Some(found)) = (&self.served, &found) {
            // The first one is served whatever becomes of the rest: better one that a few do not trust than none.
            self.serve(certificates, found);
        }
        let now = clock::of_the_api_server(client).await?;
        let (configurations, keda) =
            tokio::join!(injection::read(client, settings), keda::read(client, settings));
        let configurations = configurations?;
        turn.note_absent(&configurations);
        let trusted = |leaf: &Leaf, bundles: &[Bundle]| {
            bundles.iter().all(|bundle| leaf.verify(bundle, &settings.server_name(), now).is_ok())
        };
        let ours = match bundle(settings.ca_file.as_deref()) {
            Ok(ours) => {
                certificates.scaler_clients.trust(&ours, now);
                Some(ours)
            }
            Err(error) => {
                turn.failures.push(error.to_string());
                None
            }
        };
        if let Some(ours) = ours.as_ref().filter(|ours| !ours.is_empty()) {
            // Added to what is there and never in place of it: replicas of the other mode may still serve.
            for configuration in configurations.iter().filter(|found| !found.is_injected_by_cert_manager()) {
                turn.inject(client, configuration, |entry| entry.with(ours)).await;
            }
        }
        let carried = injection::carried(&configurations);
        if let Some(found) = found
            && self.served.as_ref().is_some_and(|served| served.chain() != found.chain())
        {
            if trusted(&found, &carried)
                || !self.served.as_ref().is_some_and(|served| trusted(served, &carried))
            {
                self.serve(certificates, &found);
            } else {
                turn.failures.push(format!(
                    "the new certificate in {} is not verified by every caBundle yet; the one before stays in use",
                    certificate.display()
                ));
            }
        }
        if let (Some(keda), Some(ours)) = (keda, &ours) {
            // Its Secret is another's to write: cert-manager's.
            let serving = keda::Serving { leaf: self.served.as_ref(), bundle: ours, at: now };
            keda.turn(certificates, turn, &serving, None).await;
        }
        turn.ready = turn.absent.is_empty()
            && !carried.is_empty()
            && self.served.as_ref().is_some_and(|served| trusted(served, &carried));
        if !turn.ready
            && turn.failures.is_empty()
            && turn.absent.is_empty()
            && ours.is_some_and(|ours| ours.is_empty())
        {
            turn.failures.push(format!(
                "the certificate in {} is not verified by the caBundle of every webhook; annotate the configurations for cert-manager, or give --tls-ca-file",
                certificate.display()
            ));
        }
        Ok(())
    }

    /// What is served.
    #[cfg(test)]
    pub fn served(&self) -> Option<&Leaf> {
        self.served.as_ref()
    }

    fn serve(&mut self, certificates: &Certificates, leaf: &Leaf) {
        info!(not_after = %leaf.not_after(), "serving the certificate from the files");
        certificates.resolver.swap(leaf);
        certificates.metrics.leaf_expiry(leaf.not_after());
        self.served = Some(leaf.clone());
    }
}

fn bytes(path: &Path) -> Result<Vec<u8>, CertificateError> {
    std::fs::read(path).map_err(|error| bad(path, &error))
}

fn bad(path: &Path, error: &dyn std::fmt::Display) -> CertificateError {
    CertificateError::File { path: path.display().to_string(), reason: error.to_string() }
}
