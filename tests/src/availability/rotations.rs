//! Rotations of the CA and of the leaves under load, one after the other.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;

use crate::plane::Plane;
use crate::plane::wait::{Deadline, eventually};

use super::load::Load;
use super::operator::{NAMESPACE, PATIENCE, failed_calls, install};
use super::{Row, handshakes, millis};

/// How long an API server may take to hear of a changed configuration.
const PROPAGATION: Duration = Duration::from_millis(500);

/// A CA is rotated as soon as the operator's own rules allow for such a leaf. A leaf is renewed when a third of its life is left:
/// longer than an API server may take for the answers that this needs, and to any write that must not be lost.
const SETTINGS: [(&str, &str); 5] = [
    ("CA_LIFE", "28s"),
    ("CA_ROTATION_LEAD", "14s"),
    ("LEAF_LIFE", "6s"),
    ("PROPAGATION_DELAY", "500ms"),
    ("CLOCK_TOLERANCE", "0s"),
];

/// Rotates so often.
pub async fn try_them(plane: &Plane, trials: usize, rate: u32) -> anyhow::Result<Row> {
    install(plane, &SETTINGS).await?;
    let client = plane.client().await?;
    let load = Load::start(&client, rate).await?;
    load.take();
    let before = failed_calls(plane).await?;
    let manifest = handshakes::manifest(PROPAGATION);
    plane.kubectl(&["apply", "-f", "-"]).stdin(manifest).ok().await?;
    let mut spans = Vec::new();
    let secrets = Api::<Secret>::namespaced(client, NAMESPACE);
    let mut signer = signed_by(&secrets).await?;
    for _ in 0..trials {
        let begun = Instant::now();
        signer = eventually("another CA signs", Deadline::after(PATIENCE), || async {
            let now = signed_by(&secrets).await.map_err(|error| error.to_string())?;
            if now == signer { Err("the same".to_owned()) } else { Ok(now) }
        })
        .await?;
        spans.push(begun.elapsed());
    }
    let tally = load.stop().await?;
    let log = plane.logs_dir().join("pods/default_handshakes_handshakes.log");
    let log = std::fs::read_to_string(&log).with_context(|| format!("reading {}", log.display()))?;
    let (made, failed) = handshakes::counts(&log).with_context(|| format!("no counts in {log}"))?;
    let mut broken = Vec::new();
    if failed > 0 || made < trials {
        let told: Vec<_> = log.lines().filter(|line| line.starts_with("failed")).take(5).collect();
        broken.push(format!("{failed} of {made} handshakes failed: {told:?}"));
    }
    Ok(Row {
        what: "rotations of CA and leaves, real",
        trials,
        tally: Some(tally),
        failures: failed_calls(plane).await? - before,
        figures: format!("one after another: {}; {made} new connections verified", millis(&spans)),
        broken,
    })
}

/// The certificate of the CA that signs.
async fn signed_by(secrets: &Api<Secret>) -> kube::Result<Option<Vec<u8>>> {
    let data = secrets.get("vllm-operator-ca").await?.data.unwrap_or_default();
    Ok(data.get("ca.crt").map(|certificate| certificate.0.clone()))
}
