//! Servers that go, on real processes: none of them cuts off what it has accepted.
//!
//! Some requests take ten seconds: longer than the pause before SIGTERM, so that only `--shutdown-timeout` and the
//! grace period let them come to their end. Others take a tenth of one: some are always on their way to a server that
//! is told to go, and only the pause lets them in. [`shortened`](super::shortened) takes each of the three away.

use anyhow::ensure;
use serde_json::json;
use testbed::plane::Plane;
use testbed::plane::wait::{Deadline, eventually};

use crate::suite::{PATIENCE, apply, cluster, forget, get, kubectl, namespace, until};

use super::engines::Engines;
use super::{ask, change, gone, settled};

const NS: &str = "drain";
/// Ten tokens a second, so that few tokens take long.
pub const PACE: &str = "env: [{name: SIM_TOKENS_PER_SECOND, value: '10'}]";
/// Name of a load, its clients, and the tokens that each asks for.
const LOADS: [(&str, usize, usize); 3] = [("brisk", 16, 1), ("short", 12, 15), ("long", 20, 100)];

/// Up to 8 and back twice, then another template: no request fails, at the clients or in the engines.
pub async fn nothing_is_cut_off(plane: &Plane) -> anyhow::Result<()> {
    namespace(plane, NS).await?;
    apply(plane, NS, &cluster("a", &format!("replicas: 1\n{PACE}"))).await?;
    until(plane, NS, "vllmcluster/a", &[("/status/readyReplicas", json!(1))]).await?;
    for (name, clients, tokens) in LOADS {
        apply(plane, NS, &load(name, "a", clients, tokens)).await?;
    }
    for _ in 0..2 {
        scale(plane, 8).await?;
        all_are_busy(plane, 8).await?;
        scale(plane, 1).await?;
    }
    scale(plane, 2).await?;
    all_are_busy(plane, 2).await?;
    let pods = uids(plane).await?;
    change(plane, NS, "a", &json!({"args": ["--max-num-seqs=200"]})).await?;
    eventually("both pods are others", Deadline::after(PATIENCE), || async {
        let now = uids(plane).await.map_err(|error| format!("{error:#}"))?;
        if now.len() == 2 && now.iter().all(|uid| !pods.contains(uid)) {
            Ok(())
        } else {
            Err(format!("{now:?}"))
        }
    })
    .await?;
    settled(plane, NS, "a").await?;

    let mut all = 0;
    for (name, clients, _) in LOADS {
        let Told { answered, failed } = end_of_load(plane, NS, name).await?;
        ensure!(
            failed.is_empty(),
            "{name}: {answered} requests answered, {} failed: {failed:?}",
            failed.len()
        );
        ensure!(answered > 2 * clients, "too few {name} requests to tell: {answered}");
        all += answered;
    }
    kubectl(plane, NS, "delete vllmcluster a").ok().await?;
    gone(plane, NS, "pods").await?;
    let engines = Engines::of(plane, NS, "a")?;
    ensure!(engines.cut_nothing_off(), "{engines:?}");
    ensure!(engines.served == 1 + 7 + 7 + 1 + 2, "{engines:?}");
    // Those that were under way when the load ended may have come to their end or not.
    let most = all + LOADS.iter().map(|(_, clients, _)| clients).sum::<usize>();
    ensure!((all..=most).contains(&engines.finished), "{all} answers at the clients, {engines:?}");
    forget(plane, NS).await
}

async fn scale(plane: &Plane, count: i64) -> anyhow::Result<()> {
    kubectl(plane, NS, &format!("scale vllmcluster/a --replicas={count}")).ok().await?;
    settled(plane, NS, "a").await?;
    let wanted = [("/status/replicas", json!(count)), ("/status/readyReplicas", json!(count))];
    until(plane, NS, "vllmcluster/a", &wanted).await.map(drop)
}

/// Every server has a request under way: what follows would cut one off.
async fn all_are_busy(plane: &Plane, count: usize) -> anyhow::Result<()> {
    for ordinal in 0..count {
        busy(plane, NS, &format!("a-{ordinal}"), 1).await?;
    }
    Ok(())
}

/// Waits until a server has so many requests under way.
pub async fn busy(plane: &Plane, ns: &str, pod: &str, requests: u64) -> anyhow::Result<()> {
    eventually(&format!("{pod} has {requests} requests"), Deadline::after(PATIENCE), || async {
        let load = ask(plane, ns, &format!("pods/{pod}:8000"), "/load").await;
        let load = load.map_err(|error| format!("{error:#}"))?;
        if load["server_load"].as_u64() >= Some(requests) { Ok(()) } else { Err(load.to_string()) }
    })
    .await
}

async fn uids(plane: &Plane) -> anyhow::Result<Vec<String>> {
    let pods = get(plane, NS, "pods -l cluster=a").await?;
    let items = pods["items"].as_array().into_iter().flatten();
    Ok(items.filter_map(|pod| pod["metadata"]["uid"].as_str().map(str::to_owned)).collect())
}

/// A pod that asks a cluster's Service from so many clients for so many tokens, until it is deleted.
pub fn load(name: &str, cluster: &str, clients: usize, tokens: usize) -> String {
    format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 5
  containers:
    - {{name: load, image: testbed/load, args: [--url, "http://{cluster}:8000", --concurrency, "{clients}", --max-tokens, "{tokens}"]}}
"#
    )
}

/// What a load has seen.
#[derive(Debug)]
pub struct Told {
    /// Requests with an answer.
    pub answered: usize,
    /// Why others had none.
    pub failed: Vec<String>,
}

/// Ends a load; what it has seen until then.
pub async fn end_of_load(plane: &Plane, ns: &str, name: &str) -> anyhow::Result<Told> {
    kubectl(plane, ns, &format!("delete pod {name} --timeout=60s")).ok().await?;
    let told = told(plane, ns, name)?;
    told.1
        .map(|answered| Told { answered, failed: told.0 })
        .ok_or_else(|| anyhow::anyhow!("{name} has no total"))
}

/// Why requests of a load have failed so far, and how many were answered, once it has ended.
pub fn told(plane: &Plane, ns: &str, name: &str) -> anyhow::Result<(Vec<String>, Option<usize>)> {
    let log = std::fs::read_to_string(plane.logs_dir().join("pods").join(format!("{ns}_{name}_load.log")))?;
    // Behind its total are requests that the end of the load itself has cut off.
    let counted = log.lines().take_while(|line| !line.starts_with("total: "));
    let failed = counted.filter_map(|line| line.strip_prefix("failed: ").map(str::to_owned));
    let total = log.lines().find_map(|line| line.strip_prefix("total: ")?.split(' ').next()?.parse().ok());
    Ok((failed.collect(), total))
}
