//! Replicas that are killed, paused and replaced: who leads then, and after how long.

use std::time::{Duration, Instant};

use anyhow::ensure;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::plane::Plane;
use crate::plane::wait::{Deadline, eventually};

use super::operator::{NAMESPACE, PATIENCE, install, leader, process, processes, rolled_out};
use super::{Row, millis};

/// The lease in seconds: its duration, the deadline of its renewal, and how often it is looked at.
const LEASE: [u64; 3] = [6, 4, 1];
/// The longest until another leads: the lease, a look, and what a busy machine adds to both.
const TAKE_OVER: Duration = Duration::from_secs(LEASE[0] + 2 * LEASE[2] + 1);
/// The longest after a leader has gone in order.
const HAND_OVER: Duration = Duration::from_secs(2);

/// What is done to the replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Blow {
    /// `kill -9` of the leader.
    Leader,
    /// `kill -9` of all.
    All,
    /// The leader is paused for longer than its lease, and resumed.
    Pause,
    /// The leader's pod is deleted.
    Order,
}

const BLOWS: [Blow; 4] = [Blow::Leader, Blow::All, Blow::Pause, Blow::Order];

/// How long it took until another led, by what was done.
#[derive(Default)]
struct Spans([Vec<Duration>; BLOWS.len()]);

/// Deals so many blows, each kind in its turn.
pub async fn try_them(plane: &Plane, trials: usize) -> anyhow::Result<Row> {
    let [duration, deadline, retry] = LEASE.map(|seconds| seconds.to_string());
    let lease = [
        ("LEASE_DURATION_SECONDS", duration.as_str()),
        ("LEASE_RENEW_DEADLINE_SECONDS", deadline.as_str()),
        ("LEASE_RETRY_PERIOD_SECONDS", retry.as_str()),
    ];
    install(plane, &lease).await?;
    create_cluster(plane).await?;
    let (mut spans, mut broken) = (Spans::default(), Vec::new());
    for trial in 0..trials {
        let blow = BLOWS[trial % BLOWS.len()];
        let replicas = 1 + (trial % 3);
        // The count changes at the same moment.
        let scale = scale(plane, replicas);
        let (took, ()) = tokio::try_join!(deal(plane, blow), scale)?;
        let most = if blow == Blow::Order { HAND_OVER } else { TAKE_OVER };
        // All of them start anew, with a Lease that one of those before still holds.
        let most = if blow == Blow::All { most + PATIENCE } else { most };
        if took > most {
            broken.push(format!("trial {trial}, {blow:?}: another led after {} ms", took.as_millis()));
        }
        spans.0[trial % BLOWS.len()].push(took);
        rolled_out(plane).await?;
        end_state(plane, replicas).await?;
        replace_restarted(plane).await?;
    }
    let of = |blow: Blow| millis(&spans.0[BLOWS.iter().position(|found| *found == blow).unwrap_or_default()]);
    Ok(Row {
        what: "kill -9 of the leader, of all; pause past the lease and resume; hand-over in order; real",
        trials,
        tally: None,
        failures: 0,
        figures: format!(
            "a lease of {} s; another leads after kill -9 of the leader: {}; of all: {}; a pause: {}; in order: {}",
            LEASE[0],
            of(Blow::Leader),
            of(Blow::All),
            of(Blow::Pause),
            of(Blow::Order)
        ),
        broken,
    })
}

/// Does it, and waits until another leads: how long that took.
async fn deal(plane: &Plane, blow: Blow) -> anyhow::Result<Duration> {
    let (before, transitions) =
        eventually("somebody leads", Deadline::after(PATIENCE), || leader(plane)).await?;
    let begun = Instant::now();
    let another = || async {
        let (pod, now) = leader(plane).await?;
        // Of all that are killed, the same pod may come to lead again.
        if now > transitions { Ok(()) } else { Err(format!("{pod}, {now} transitions")) }
    };
    match blow {
        Blow::Leader => process(plane, &before)?.signal(Signal::KILL)?,
        Blow::All => {
            for process in processes(plane)?.values() {
                process.signal(Signal::KILL)?;
            }
        }
        Blow::Pause => {
            let paused = process(plane, &before)?;
            paused.signal(Signal::STOP)?;
            eventually("another leads", Deadline::after(PATIENCE), another).await?;
            let took = begun.elapsed();
            paused.signal(Signal::CONT)?;
            let (now, _) = leader(plane).await.map_err(|why| anyhow::anyhow!(why))?;
            ensure!(now != before, "the one that was paused leads again");
            return Ok(took);
        }
        Blow::Order => {
            let pod = format!("pod/{before}");
            plane.kubectl(&["-n", NAMESPACE, "delete", &pod, "--wait=false"]).ok().await?;
            // It serves on for a while before it lets go of the Lease.
            let holds = || async {
                match leader(plane).await {
                    Ok((pod, now)) if pod == before && now == transitions => Err("it leads on".to_owned()),
                    Ok(_) | Err(_) => Ok(()),
                }
            };
            eventually("it does not lead any more", Deadline::after(PATIENCE), holds).await?;
            let let_go = Instant::now();
            eventually("another leads", Deadline::after(PATIENCE), another).await?;
            return Ok(let_go.elapsed());
        }
    }
    eventually("another leads", Deadline::after(PATIENCE), another).await?;
    Ok(begun.elapsed())
}

async fn create_cluster(plane: &Plane) -> anyhow::Result<()> {
    let cluster = json!({
        "apiVersion": "training.distributed-inference.io/v1alpha1", "kind": "VLLMCluster",
        "metadata": {"name": "watched", "namespace": "default"},
        "spec": {"replicas": 1, "accelerator": {"count": 0}},
    })
    .to_string();
    eventually("a cluster is taken", Deadline::after(PATIENCE), || async {
        let applied = plane.kubectl(&["apply", "-f", "-"]).stdin(cluster.as_str()).ok().await;
        applied.map(drop).map_err(|error| format!("{error:#}"))
    })
    .await
}

/// Scales until it is done: while no replica is there, a write may fail.
async fn scale(plane: &Plane, replicas: usize) -> anyhow::Result<()> {
    let replicas = format!("--replicas={replicas}");
    eventually("the count is written", Deadline::after(PATIENCE), || async {
        let scaled = plane.kubectl(&["scale", "vllmcluster/watched", &replicas]).ok().await;
        scaled.map(drop).map_err(|error| format!("{error:#}"))
    })
    .await
}

/// The StatefulSet has the count, its pods are there, and the status says so.
async fn end_state(plane: &Plane, replicas: usize) -> anyhow::Result<()> {
    eventually("the count arrives", Deadline::after(PATIENCE), || async {
        let get = |what: &'static str| async move {
            let text = plane.kubectl(&["get", what, "-o", "json"]).ok().await;
            let text = text.map_err(|error| format!("{error:#}"))?;
            serde_json::from_str::<Value>(&text).map_err(|error| error.to_string())
        };
        let (cluster, set) = (get("vllmcluster/watched").await?, get("statefulset/watched").await?);
        let seen = (&cluster["status"], &set["spec"]["replicas"]);
        let arrived = cluster["spec"]["replicas"] == replicas
            && set["spec"]["replicas"] == replicas
            && cluster["status"]["readyReplicas"] == replicas
            && cluster["status"]["observedGeneration"] == cluster["metadata"]["generation"];
        if arrived { Ok(()) } else { Err(format!("{seen:?}")) }
    })
    .await
}

/// A container that is killed again and again waits ever longer for its next start; a new pod does not.
async fn replace_restarted(plane: &Plane) -> anyhow::Result<()> {
    let pods =
        super::operator::json(plane, &["get", "pods", "-l", "app.kubernetes.io/name=vllm-operator"]).await;
    let pods = pods.map_err(|why| anyhow::anyhow!(why))?;
    let mut replaced = false;
    for pod in pods["items"].as_array().into_iter().flatten() {
        let restarts = pod["status"]["containerStatuses"][0]["restartCount"].as_u64().unwrap_or_default();
        if restarts > 1 {
            let name = format!("pod/{}", pod["metadata"]["name"].as_str().unwrap_or_default());
            plane.kubectl(&["-n", NAMESPACE, "delete", &name]).ok().await?;
            replaced = true;
        }
    }
    if replaced { rolled_out(plane).await } else { Ok(()) }
}
