//! `cargo demo`: the whole path on a real control plane, told and shown step by step.
//!
//! Each step prints the command as one would type it and what it printed, and then checks what it said it would do.
//! A step that does not keep its word ends the demo with an error.
//!
//! **Architecture invariant**: only what a user can do is done, and only what the cluster says is shown.

use std::io::{IsTerminal as _, Write as _, stdout};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use clap::Args;
use serde_json::Value;
use tokio::time::sleep;

use crate::addons;
use crate::load;
use crate::parts::{Binaries, operator_binary};
use crate::plane::kubectl::Output;
use crate::plane::wait::{Deadline, eventually};
use crate::plane::{Plane, PlaneOptions};
use crate::prometheus::{Prometheus, Sample};

const CLUSTER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/samples/vllmcluster.yaml");
const SCALED_OBJECT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/samples/scaledobject.yaml");

/// On engines of four slots each: more wait than four servers are allowed to leave waiting.
const CLIENTS: usize = 40;

/// How long a count may take to get where it should: KEDA polls, the HPA has its periods, pods start.
const PATIENCE: Duration = Duration::from_mins(3);

/// Options of `demo`.
#[derive(Clone, Debug, Args)]
pub struct Demo {
    /// Leave everything running, and print how to reach it.
    #[arg(long)]
    keep: bool,
    /// Command of a real engine in place of the simulated one, as in `vllm serve … --host {ip}`.
    #[arg(long)]
    engine: Option<String>,
}

/// Runs the demo.
pub fn main(demo: &Demo) -> anyhow::Result<()> {
    tokio::runtime::Runtime::new()?.block_on(async {
        // Nothing of the plane outlives this process, so Ctrl-C needs no handler of its own.
        let started = Instant::now();
        let mut plane = start(demo).await?;
        let shown = Stage { plane: &plane, steps: 0 }.play().await;
        match &shown {
            Ok(steps) => println!("\n{} steps, each did what it said, in {} s.", steps, started.elapsed().as_secs()),
            Err(_) => println!("\nlogs: {}", plane.logs_dir().display()),
        }
        if demo.keep {
            println!("\nAll is left running. In another shell:\n  export KUBECONFIG={}\nand to end it:\n  cargo testbed down --name demo", plane.kubeconfig().display());
            plane.let_go()?;
        } else if shown.is_ok() {
            plane.stop().await?;
        }
        shown.map(drop)
    })
}

async fn start(demo: &Demo) -> anyhow::Result<Plane> {
    heading("A Kubernetes control plane of your own");
    let binaries = tokio::task::spawn_blocking(Binaries::ensure).await??;
    let operator = tokio::task::spawn_blocking(operator_binary).await??;
    let mut options = PlaneOptions::new("demo", std::env::current_exe()?);
    options.state_dir = Some(crate::plane::owner::target_dir().join("testbed").join("demo"));
    options.operator_exe = Some(operator);
    options.engine.clone_from(&demo.engine);
    let begun = Instant::now();
    let plane = Plane::start_with(options, binaries).await?;
    told(begun, "etcd, kube-apiserver, kube-controller-manager, kube-scheduler, CoreDNS and a node");
    addons::install_keda_and_prometheus(&plane).await?;
    addons::install_operator(&plane).await?;
    addons::wait_for_operator(&plane).await?;
    told(begun, "the operator, from deploy/install.yaml");
    addons::wait_for_keda_and_prometheus(&plane).await?;
    told(begun, "KEDA and Prometheus, from their own manifests");
    Ok(plane)
}

struct Stage<'a> {
    plane: &'a Plane,
    steps: usize,
}

impl Stage<'_> {
    async fn play(mut self) -> anyhow::Result<usize> {
        self.step("A VLLMCluster becomes vLLM servers");
        self.run(&["apply", "-f", CLUSTER]).await?.ok()?;
        self.until_ready(2).await?;
        self.run(&["get", "vllm,statefulsets,pods,services"]).await?.ok()?;

        self.step("kubectl scale works");
        self.run(&["scale", "vllmcluster", "my-cluster", "--replicas=3"]).await?.ok()?;
        self.until_ready(3).await?;
        self.run(&["get", "vllm", "my-cluster"]).await?.ok()?;

        self.step("what cannot be right is refused, with the way out");
        self.refused("--replicas=0", "below the minimum 1").await?;
        self.refused("--replicas=6", "above the maximum 5 (spec.maxReplicas").await?;

        self.step("KEDA takes over");
        self.run(&["apply", "-f", SCALED_OBJECT]).await?.ok()?;
        self.run(&["wait", "--for=condition=Ready", "scaledobject/my-cluster-scaler", "--timeout=90s"])
            .await?
            .ok()?;
        self.run(&["get", "scaledobject,hpa"]).await?.ok()?;
        self.refused(
            "--replicas=5",
            "above the maximum 4 (maxReplicaCount of ScaledObject \"my-cluster-scaler\"",
        )
        .await?;

        println!("  nothing waits, so KEDA lets the count fall");
        self.watch("1 replica", |replicas, ready, _| replicas == 1 && ready == 1).await?;

        self.step("requests queue, and the count rises");
        println!(
            "  {CLIENTS} clients ask without a pause; each server answers 4 at a time, KEDA wants 4 waiting for each"
        );
        self.plane
            .kubectl(&["apply", "-f", "-"])
            .stdin(load::pod("http://my-cluster:8000", CLIENTS))
            .ok()
            .await?;
        self.watch("4 replicas", |replicas, ready, _| replicas == 4 && ready == 4).await?;

        self.step("the load ends, and the count falls");
        self.run(&["delete", "pod", "load", "--wait=false"]).await?.ok()?;
        self.watch("1 replica", |replicas, ready, queue| replicas == 1 && ready == 1 && queue == 0.0).await?;
        self.run(&["get", "vllm,hpa"]).await?.ok()?;
        Ok(self.steps)
    }

    fn step(&mut self, what: &str) {
        self.steps += 1;
        heading(&format!("{}. {what}", self.steps));
    }

    /// Runs kubectl and shows both, the command and what it printed.
    async fn run(&self, args: &[&str]) -> anyhow::Result<Output> {
        println!("{} {}", bold("$ kubectl"), bold(&shown(args).join(" ")));
        let output = self.plane.kubectl(args).output().await?;
        for line in output.stdout.lines().chain(output.stderr.lines()) {
            println!("  {line}");
        }
        Ok(output)
    }

    async fn refused(&self, replicas: &str, says: &str) -> anyhow::Result<()> {
        let text = self.run(&["scale", "vllmcluster", "my-cluster", replicas]).await?.refused()?;
        ensure!(text.contains(says), "it was refused, but not because the count is {says}");
        Ok(())
    }

    async fn until_ready(&self, replicas: i64) -> anyhow::Result<()> {
        eventually(&format!("{replicas} ready replicas"), Deadline::after(PATIENCE), || async {
            let cluster = self.cluster().await.map_err(|error| format!("{error:#}"))?;
            let counts = [
                &cluster["spec"]["replicas"],
                &cluster["status"]["replicas"],
                &cluster["status"]["readyReplicas"],
            ];
            let reached = counts.iter().all(|count| count.as_i64() == Some(replicas));
            reached.then_some(()).ok_or_else(|| cluster["status"].to_string())
        })
        .await
    }

    async fn cluster(&self) -> anyhow::Result<Value> {
        let text = self.plane.kubectl(&["get", "vllm", "my-cluster", "-o", "json"]).ok().await?;
        Ok(serde_json::from_str(&text)?)
    }

    /// Draws queue and replicas as they move, until they are where they should be.
    async fn watch(&self, goal: &str, reached: impl Fn(i64, i64, f64) -> bool) -> anyhow::Result<()> {
        let begun = Instant::now();
        loop {
            let cluster = self.cluster().await?;
            let replicas = cluster["spec"]["replicas"].as_i64().unwrap_or_default();
            let ready = cluster["status"]["readyReplicas"].as_i64().unwrap_or_default();
            let queue = self.queue().await.unwrap_or_default();
            println!(
                "  {:>4} s  waiting {queue:>3} {:<40}  replicas {replicas} {}",
                begun.elapsed().as_secs(),
                "▪".repeat(whole(queue).min(40)),
                servers(replicas, ready)
            );
            if reached(replicas, ready, queue) {
                println!("  reached: {goal}");
                return Ok(());
            }
            ensure!(
                (1..=4).contains(&replicas),
                "{replicas} replicas are outside the ScaledObject's range 1 to 4"
            );
            ensure!(begun.elapsed() < PATIENCE, "{goal} not reached within {} s", PATIENCE.as_secs());
            sleep(Duration::from_secs(2)).await;
        }
    }

    /// Waiting requests of all servers, as Prometheus has them.
    async fn queue(&self) -> anyhow::Result<f64> {
        let found = Prometheus::of(self.plane).await?.query("sum(vllm:num_requests_waiting)").await?;
        found.first().map(Sample::value).context("no value yet")
    }
}

/// Paths of the samples as they are written in the checkout.
fn shown(args: &[&str]) -> Vec<String> {
    args.iter()
        .map(|arg| match arg.split_once("/../") {
            Some((_, path)) => PathBuf::from(path).display().to_string(),
            None => (*arg).to_owned(),
        })
        .collect()
}

/// `●` serves, `○` is on its way.
fn servers(replicas: i64, ready: i64) -> String {
    (0..replicas.max(ready)).map(|place| if place < ready { '●' } else { '○' }).collect()
}

/// A count of requests, for drawing.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn whole(queue: f64) -> usize {
    queue.max(0.0) as usize
}

fn heading(text: &str) {
    println!("\n{}", bold(text));
}

fn told(since: Instant, what: &str) {
    println!("  {:5.1} s  {what}", since.elapsed().as_secs_f64());
    // Shown as it happens, also through a pipe. A closed pipe shows at the next line.
    let _ = stdout().flush();
}

fn bold(text: &str) -> String {
    if stdout().is_terminal() { format!("\x1b[1m{text}\x1b[0m") } else { text.to_owned() }
}
