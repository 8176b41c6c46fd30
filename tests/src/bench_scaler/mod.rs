//! `cargo bench-scaler`: how soon the external scaler has a count raised, beside Prometheus, and what hundreds of
//! ScaledObjects cost the operator.
//!
//! Reading order: [`latency`] (from a queue to the count, by either way), [`many`] (the ScaledObjects), [`sockets`] (the
//! operator's connections).
//!
//! **Architecture invariant**: figures are measured and printed; nothing is judged by time. What makes them void, as a cluster
//! that nobody asks, or a count that changes without a reason, is an error.

pub mod latency;
pub mod many;
pub mod sockets;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::addons;
use crate::parts::{PROFILE, operator_binary};
use crate::plane::{Plane, PlaneOptions};

/// Options of `bench-scaler`.
#[derive(Clone, Debug, Args)]
pub struct BenchScaler {
    /// One of the parts; both where none is named.
    #[command(subcommand)]
    part: Option<Part>,
}

#[derive(Clone, Debug, Subcommand)]
enum Part {
    /// From the first waiting request to the raised count, and back, by the scaler and by Prometheus.
    Latency(latency::Latency),
    /// Many ScaledObjects: processor time, memory and connections of the operator.
    Many(many::Many),
}

/// Measures each part on a plane of its own, and prints its figures.
pub fn main(bench: BenchScaler) -> anyhow::Result<()> {
    let parts = match bench.part {
        Some(part) => vec![part],
        None => vec![Part::Latency(latency::Latency::default()), Part::Many(many::Many::default())],
    };
    tokio::runtime::Runtime::new()?.block_on(async {
        for part in parts {
            let period = match part {
                Part::Latency(_) => None,
                // Three times as often as in most clusters.
                Part::Many(_) => Some(many::POLLING),
            };
            let plane = start(std::env::current_exe()?, period).await?;
            match part {
                Part::Latency(latency) => println!("{}", latency::measure(&plane, &latency).await?),
                Part::Many(many) => println!("{}", many::measure(&plane, &many).await?),
            }
            plane.stop().await?;
            println!();
        }
        println!("{:<34}{}", "build", PROFILE);
        Ok(())
    })
}

/// Starts a plane with KEDA, Prometheus and the operator, whose scaler KEDA can call. HPAs look as often as `hpa_period`
/// says, or as a testbed's do.
pub async fn start(testbed_exe: PathBuf, hpa_period: Option<Duration>) -> anyhow::Result<Plane> {
    let mut options = PlaneOptions::new("bench-scaler", testbed_exe);
    options.operator_exe = Some(tokio::task::spawn_blocking(operator_binary).await??);
    options.hpa_sync_period = hpa_period.unwrap_or(options.hpa_sync_period);
    let plane = Plane::start(options).await?;
    addons::install_keda_and_prometheus(&plane).await?;
    addons::install_operator(&plane).await?;
    addons::wait_for_operator(&plane).await?;
    addons::wait_for_keda_and_prometheus(&plane).await?;
    addons::introduce_scaler(&plane).await?;
    Ok(plane)
}

/// A ScaledObject for the cluster of its name, from one replica to two, on which the HPA acts as soon as it can.
fn scaled_object(name: &str, polling_interval: Duration, trigger: &Value) -> Value {
    let at_once = json!({"stabilizationWindowSeconds": 0});
    json!({
        "apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject", "metadata": {"name": name},
        "spec": {
            "scaleTargetRef": {
                "apiVersion": "training.distributed-inference.io/v1alpha1", "kind": "VLLMCluster", "name": name,
            },
            "minReplicaCount": 1, "maxReplicaCount": 2, "pollingInterval": polling_interval.as_secs(),
            "advanced": {"horizontalPodAutoscalerConfig": {"behavior": {"scaleUp": at_once, "scaleDown": at_once}}},
            "triggers": [trigger],
        },
    })
}

/// The operator's own trigger: ten waiting requests for each replica.
fn queue() -> Value {
    addons::scaler_trigger(&[("signal", "queue"), ("targetValue", "10")])
}
