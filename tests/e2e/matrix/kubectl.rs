//! What kubectl refuses by itself, before any request.
//!
//! **Architecture invariant**: that nothing was sent is read off the audit log, not off kubectl's words.

use anyhow::ensure;
use testbed::plane::Plane;

use super::super::suite::kubectl;
use super::axes::{Decider, Kind, Place, Webhook};

/// One call of kubectl's.
pub struct Refusal {
    pub id: String,
    pub kind: Kind,
    pub decider: Decider,
    pub wrong: Vec<String>,
    pub says: String,
}

struct Row {
    kind: Kind,
    name: &'static str,
    verb: &'static str,
    line: &'static str,
    stdin: &'static str,
    says: &'static str,
}

const ROWS: [Row; 7] = [
    Row {
        kind: Kind::Scale,
        name: "negative",
        verb: "scale",
        line: "scale vllmcluster last --replicas=-1",
        stdin: "",
        says: "The --replicas=COUNT flag is required, and COUNT must be greater than or equal to 0",
    },
    Row {
        kind: Kind::Scale,
        name: "text",
        verb: "scale",
        line: "scale vllmcluster last --replicas=five",
        stdin: "",
        says: "invalid argument \"five\"",
    },
    Row {
        kind: Kind::Cluster,
        name: "no-yaml",
        verb: "create",
        line: "create -f -",
        stdin: "apiVersion: [",
        says: "error converting YAML to JSON",
    },
    Row {
        kind: Kind::Cluster,
        name: "no-kind",
        verb: "apply",
        line: "apply -f -",
        stdin: "apiVersion: training.distributed-inference.io/v1alpha1\nmetadata: {name: a}\n",
        says: "kind not set",
    },
    Row {
        kind: Kind::ScaledObject,
        name: "no-api-version",
        verb: "apply --server-side",
        line: "apply --server-side -f -",
        stdin: "kind: ScaledObject\nmetadata: {name: a}\n",
        says: "apiVersion not set",
    },
    Row {
        kind: Kind::HpaV2,
        name: "autoscale-crossed",
        verb: "autoscale",
        line: "autoscale vllmcluster last --min=5 --max=2",
        stdin: "",
        says: "--max=MAXPODS must be larger or equal to --min=MINPODS",
    },
    Row {
        kind: Kind::HpaV1,
        name: "autoscale-without-maximum",
        verb: "autoscale",
        line: "autoscale vllmcluster last --min=5",
        stdin: "",
        says: "required flag(s) \"max\" not set",
    },
];

/// Runs them, each really and as a dry run.
pub async fn cells(plane: &Plane, webhook: Webhook) -> anyhow::Result<Vec<Refusal>> {
    let mut cells = Vec::new();
    for Row { kind, name, verb, line, stdin, says } in &ROWS {
        for dry in ["", " --dry-run=server"] {
            let before = requests(plane)?;
            let line = format!("{line}{dry}");
            let mut call = kubectl(plane, Place::Plain.namespace(), &line);
            if !stdin.is_empty() {
                call = call.stdin(*stdin);
            }
            let output = call.output().await?;
            let sent = requests(plane)? - before;
            ensure!(!output.status.success(), "`{}` went through: {}", output.command, output.stdout);
            let decider = if sent == 0 { Decider::Kubectl } else { Decider::Schema };
            let mut wrong = Vec::new();
            if decider != Decider::Kubectl {
                wrong.push(format!("must be decided by Kubectl, and {sent} requests were sent"));
            }
            if !output.stderr.contains(says) {
                wrong.push(format!("must say: {says}"));
            }
            let dry = if dry.is_empty() { "" } else { "/dry" };
            cells.push(Refusal {
                id: format!("{}/{name}/kubectl {verb}{dry}/{}", kind.label(), webhook.label()),
                kind: *kind,
                decider,
                wrong,
                says: output.stderr.trim_end().to_owned(),
            });
        }
    }
    Ok(cells)
}

/// Writes by kubectl so far, in the namespace of the matrix.
fn requests(plane: &Plane) -> anyhow::Result<usize> {
    let text = std::fs::read_to_string(plane.audit_log())?;
    let ours =
        |line: &&str| line.contains("\"userAgent\":\"kubectl") && line.contains("\"namespace\":\"matrix\"");
    Ok(text.lines().filter(ours).count())
}
