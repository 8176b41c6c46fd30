//! Documents about an installation, one after the other on a plane of their own: with the manifest first, then with Helm.

use anyhow::ensure;
use testbed::addons;
use testbed::parts::operator_binary;
use testbed::plane::wait::{Deadline, eventually};
use testbed::plane::{Plane, PlaneOptions};
use testbed::render::DEPLOY;

use super::place::Place;
use super::typed;
use crate::suite::{PATIENCE, TESTBED, get};

/// The name in the certificate that the API server shows, by `docs/security.md`.
const CLIENT: &str = "kube-apiserver-webhooks";
/// What is judged by `vllm-operator lint` in README.md.
const CHAT: (&str, &str) = ("manifests/chat.yaml", include_str!("fixtures/chat.yaml"));

/// The documents, in the order in which they are run, and what each waits for before it begins.
pub const DOCUMENTS: [(&str, Before); 6] = [
    ("README.md", Before::Nothing),
    ("docs/certificates.md", Before::OperatorServes),
    ("docs/high-availability.md", Before::OperatorServes),
    ("docs/runbooks.md", Before::OperatorServes),
    // The operator demands a certificate of its callers from then on, and KEDA's is drawn anew.
    ("docs/security.md", Before::KedaHasItsCertificate),
    ("docs/install.md", Before::OperatorIsGone),
];

/// What must be so before a document is begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Before {
    /// A cluster without the operator.
    Nothing,
    /// All replicas can be called.
    OperatorServes,
    /// The operator has filled in what KEDA shows to the scaler.
    KedaHasItsCertificate,
    /// What the manifest has installed is removed, and nothing is left of it.
    OperatorIsGone,
}

/// All of them.
pub async fn documents() -> anyhow::Result<()> {
    let mut options = PlaneOptions::new("docs", TESTBED);
    let operator = tokio::task::spawn_blocking(operator_binary).await??;
    options.operator_exe = Some(operator.clone());
    options.webhook_client = Some(CLIENT.to_owned());
    let plane = Plane::start(options).await?;
    addons::install_keda_types(&plane).await?;
    plane.kubectl(&["create", "namespace", "keda"]).ok().await?;
    let authority = std::fs::read_to_string(plane.state_dir().join("pki/ca.crt"))?;
    for (document, before) in DOCUMENTS {
        wait(&plane, before).await?;
        let mut here = Place::new(&plane, &operator, &[CHAT, ("ca.crt", &authority)])?;
        typed(&mut here, document).await?;
    }
    plane.stop().await
}

async fn wait(plane: &Plane, before: Before) -> anyhow::Result<()> {
    match before {
        Before::Nothing => Ok(()),
        Before::OperatorServes => addons::wait_for_operator(plane).await,
        Before::KedaHasItsCertificate => {
            eventually("KEDA has its certificate", Deadline::after(PATIENCE), || async {
                let secret = get(plane, "keda", "secret vllm-operator-scaler").await;
                let secret = secret.map_err(|error| format!("{error:#}"))?;
                if secret["data"]["tls.key"].is_string() {
                    Ok(())
                } else {
                    Err(secret["metadata"].to_string())
                }
            })
            .await
        }
        Before::OperatorIsGone => {
            for manifest in ["keda.yaml", "install.yaml"] {
                let file = format!("{DEPLOY}/{manifest}");
                plane.kubectl(&["delete", "--timeout=60s", "-f", &file]).ok().await?;
            }
            let left = plane.kubectl(&["get", "clusterroles", "-o", "name"]).ok().await?;
            ensure!(!left.contains("vllm-operator"), "{left}");
            Ok(())
        }
    }
}
