//! `vllm-operator status`: all VLLMClusters at one look.
//!
//! Architecture invariant: reads one list and nothing else: what is shown is what each cluster says of itself.

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::Context as _;
use kube::api::ListParams;
use kube::{Api, ResourceExt as _};
use serde::Serialize;

use crate::api::names::{CONDITION_READY, CONDITION_SCALING_CONFLICT, CONDITION_STALLED};
use crate::api::{AutoscalingStatus, VLLMCluster, VLLMClusterStatus};
use crate::args::{Output, StatusArgs};

use super::connect::{Again, connect};

/// Nothing could be read.
const UNREADABLE: u8 = 2;
const HEADER: [&str; 7] = ["NAMESPACE", "NAME", "SERVING", "WANTED", "BOUNDS", "DRIVEN BY", "NOTE"];

/// Shows the clusters of `args`. Exit code 0, or 2 where they cannot be read.
pub async fn run(args: StatusArgs) -> ExitCode {
    match shown(&args).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            UNREADABLE.into()
        }
    }
}

async fn shown(args: &StatusArgs) -> anyhow::Result<()> {
    let (client, default_namespace) = connect(&args.connection, Again::Soon).await?;
    let namespace = args.namespace.as_deref().unwrap_or(&default_namespace);
    let (api, place): (Api<VLLMCluster>, _) = if args.all_namespaces {
        (Api::all(client), "all namespaces".to_owned())
    } else {
        (Api::namespaced(client, namespace), format!("namespace {namespace}"))
    };
    let clusters = api.list(&ListParams::default()).await;
    let clusters = clusters.with_context(|| format!("cannot list the VLLMClusters of {place}"))?;
    let rows: Vec<_> = clusters.items.iter().map(Row::new).collect();
    let text = match args.output {
        Output::Json => serde_json::to_string_pretty(&rows)? + "\n",
        Output::Text if rows.is_empty() => {
            eprintln!(
                "no VLLMClusters in {place}{}",
                if args.all_namespaces { "" } else { "; -A shows all namespaces" }
            );
            return Ok(());
        }
        Output::Text => table(&rows),
    };
    std::io::stdout().write_all(text.as_bytes()).context("cannot write the clusters")
}

/// What is shown of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    namespace: String,
    name: String,
    /// Replicas that are ready.
    serving: i32,
    /// `spec.replicas`.
    wanted: Option<i32>,
    /// The least that the cluster and what drives it allow.
    min_replicas: i32,
    /// The most; `None` without a bound.
    max_replicas: Option<i32>,
    /// Kind and name of what drives the count.
    driven_by: Option<String>,
    /// What is worth a look; empty where nothing is.
    note: String,
}

impl Row {
    fn new(cluster: &VLLMCluster) -> Self {
        let none = VLLMClusterStatus::default();
        let status = cluster.status.as_ref().unwrap_or(&none);
        let driver = status.autoscaling.as_ref();
        let least = cluster.spec.min_replicas.unwrap_or(1);
        let (min_replicas, max_replicas) = driver.map_or((least, cluster.spec.max_replicas), |driver| {
            (driver.min_replicas, Some(driver.max_replicas))
        });
        Self {
            namespace: cluster.namespace().unwrap_or_default(),
            name: cluster.name_any(),
            serving: status.ready_replicas,
            wanted: cluster.spec.replicas,
            min_replicas,
            max_replicas,
            driven_by: driver.map(|driver| format!("{}/{}", driver.kind.to_lowercase(), driver.name)),
            note: note(cluster, status, driver, (min_replicas, max_replicas)),
        }
    }

    fn cells(&self) -> [String; 7] {
        let Self { namespace, name, serving, wanted, min_replicas, max_replicas, driven_by, note } = self;
        let number = |number: &Option<i32>| number.map_or_else(String::new, |number| number.to_string());
        [
            namespace.clone(),
            name.clone(),
            serving.to_string(),
            number(wanted),
            format!("{min_replicas}-{}", number(max_replicas)),
            driven_by.clone().unwrap_or_else(|| "-".into()),
            note.clone(),
        ]
    }
}

/// The first that is worth a look: what does not work goes before what is only at its end.
fn note(
    cluster: &VLLMCluster,
    status: &VLLMClusterStatus,
    driver: Option<&AutoscalingStatus>,
    (least, most): (i32, Option<i32>),
) -> String {
    let holds = |kind: &str, wanted: &str| {
        status.conditions.iter().find(|condition| condition.type_ == kind && condition.status == wanted)
    };
    if cluster.metadata.deletion_timestamp.is_some() {
        return "is being deleted".into();
    }
    if cluster.metadata.generation != status.observed_generation {
        return "not taken up yet".into();
    }
    for (kind, status) in
        [(CONDITION_STALLED, "True"), (CONDITION_READY, "False"), (CONDITION_SCALING_CONFLICT, "True")]
    {
        if let Some(condition) = holds(kind, status) {
            return format!("{}: {}", condition.reason, condition.message);
        }
    }
    match (driver, cluster.spec.replicas) {
        (Some(driver), _) if driver.paused => "autoscaling is paused".into(),
        (Some(_), Some(wanted)) if Some(wanted) == most && wanted == least => {
            "pinned: least and most are the same".into()
        }
        (Some(_), Some(wanted)) if Some(wanted) == most => "at its maximum".into(),
        (Some(_), Some(wanted)) if wanted == least => "at its minimum".into(),
        _ => String::new(),
    }
}

/// Columns as wide as their widest cell.
fn table(rows: &[Row]) -> String {
    let mut lines = vec![HEADER.map(str::to_owned)];
    lines.extend(rows.iter().map(Row::cells));
    let width =
        |column: usize| lines.iter().map(|cells| cells[column].chars().count()).max().unwrap_or_default();
    let widths: [usize; 7] = std::array::from_fn(width);
    let line = |cells: &[String; 7]| {
        let padded = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        padded.collect::<Vec<_>>().join("   ").trim_end().to_owned() + "\n"
    };
    lines.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn row(spec: &Value, status: &Value) -> Row {
        let cluster = json!({
            "apiVersion": crate::api::names::API_VERSION, "kind": "VLLMCluster",
            "metadata": {"namespace": "team", "name": "chat", "generation": 2}, "spec": spec, "status": status,
        });
        Row::new(&serde_json::from_value(cluster).expect("a cluster"))
    }

    fn status(change: impl FnOnce(&mut Value)) -> Value {
        let mut status = json!({
            "observedGeneration": 2, "readyReplicas": 2,
            "autoscaling": {"kind": "ScaledObject", "name": "so", "minReplicas": 1, "maxReplicas": 4, "paused": false},
        });
        change(&mut status);
        status
    }

    #[test]
    fn what_is_worth_a_look_is_told() {
        let note = |replicas: i32, status: Value| {
            row(&json!({"replicas": replicas, "maxReplicas": 9}), &status).note
        };
        assert_eq!(note(2, status(|_| {})), "");
        assert_eq!(note(4, status(|_| {})), "at its maximum");
        assert_eq!(note(1, status(|_| {})), "at its minimum");
        assert_eq!(
            note(2, status(|status| status["autoscaling"]["paused"] = json!(true))),
            "autoscaling is paused"
        );
        assert_eq!(note(2, status(|status| status["autoscaling"]["maxReplicas"] = json!(1))), "");
        assert_eq!(note(2, status(|status| status["observedGeneration"] = json!(1))), "not taken up yet");
        let condition = |kind: &str, holds: &str| {
            status(|status| {
                status["conditions"] = json!([{
                    "type": kind, "status": holds, "reason": "Why", "message": "a sentence",
                    "lastTransitionTime": "2026-01-01T00:00:00Z",
                }]);
            })
        };
        assert_eq!(note(2, condition("Ready", "False")), "Why: a sentence");
        assert_eq!(note(2, condition("Ready", "True")), "");
        assert_eq!(note(2, condition("Stalled", "True")), "Why: a sentence");
        assert_eq!(note(2, condition("ScalingConflict", "True")), "Why: a sentence");
    }

    #[test]
    fn a_table_has_a_line_for_each() {
        let driven = row(&json!({"replicas": 4, "maxReplicas": 9}), &status(|_| {}));
        let alone = row(&json!({"replicas": 1}), &json!({"observedGeneration": 2, "readyReplicas": 1}));
        let wanted = "\
NAMESPACE   NAME   SERVING   WANTED   BOUNDS   DRIVEN BY         NOTE
team        chat   2         4        1-4      scaledobject/so   at its maximum
team        chat   1         1        1-       -
";
        assert_eq!(table(&[driven, alone]), wanted);
    }
}
