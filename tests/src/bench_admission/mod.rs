//! `cargo bench-admission`: what a review costs, side by side: the floor, the operator, a webhook written with
//! controller-runtime, and KEDA's.
//!
//! Reading order: [`payload`] (what is asked), [`servers`] (who is asked, with [`floor`]), [`caller`] (how).
//!
//! **Architecture invariant**: figures are compared within one run only. Every server has the same certificate, protocol and
//! reviews, the first processor to itself, and its turn in every round.

pub mod caller;
pub mod floor;
pub mod payload;
pub mod servers;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use futures::{StreamExt as _, TryStreamExt as _};
use kube::api::{DynamicObject, PostParams};
use kube::{Api, Resource as _};
use serde::Serialize;
use serde_json::{Value, json};
use vllm_operator::api::VLLMCluster;

use crate::bench_abuse::calls::within;
use crate::parts::{Binaries, PROFILE, Part, operator_binary};
use crate::plane::wait::{Deadline, eventually};
use crate::plane::{Plane, PlaneOptions};
use crate::{addons, objects};
use payload::{NAMESPACE, Payload, name_of};
use servers::{Identity, Server, on_processor};

/// Requests at once while the objects are made.
const CREATORS: usize = 32;
/// Time for all of them, and for a server to have read them.
const PATIENCE: Duration = Duration::from_mins(10);
/// Where KEDA's webhook answers for ScaledObjects.
const KEDAS_PATH: &str = "/validate-keda-sh-v1alpha1-scaledobject";

/// Options of `bench-admission`.
#[derive(Clone, Debug, Args)]
pub struct BenchAdmission {
    /// How many VLLMClusters, and ScaledObjects that drive them, the servers know: one table each, in growing order.
    #[arg(long, value_delimiter = ',', default_values_t = [10, 1_000, 10_000])]
    objects: Vec<usize>,
    /// Rounds; each server has its turn in each.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// How long a turn lasts, in milliseconds.
    #[arg(long, default_value_t = 1_000)]
    turn: u64,
    /// Where to write the figures as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// How much is asked.
#[derive(Clone, Debug)]
pub struct Extent {
    /// Known objects of each kind, in growing order.
    pub objects: Vec<usize>,
    /// Rounds.
    pub rounds: usize,
    /// How long a turn lasts.
    pub turn: Duration,
}

/// What one server took for one kind of review.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    /// Known objects of each kind.
    pub objects: usize,
    /// What was asked.
    pub what: &'static str,
    /// Who was asked.
    pub server: &'static str,
    /// Processor time for a review in microseconds: the median of all rounds.
    pub micros: f64,
    /// The least and the most of all rounds.
    pub spread: [f64; 2],
    /// Reviews a second, the median of all rounds.
    pub rate: f64,
}

/// How long answers took at a fixed rate.
#[derive(Clone, Debug, Serialize)]
pub struct Latency {
    /// Known objects of each kind.
    pub objects: usize,
    /// Who was asked.
    pub server: &'static str,
    /// The 500th, 990th and 999th of a thousand, in microseconds.
    pub micros: [u128; 3],
}

/// All figures of a run.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Figures {
    /// Processor time and throughput.
    pub reviews: Vec<Figure>,
    /// The time of answers at 1,000 reviews a second.
    pub latencies: Vec<Latency>,
    /// Resident memory in KiB at the end, with the most objects.
    pub resident: Vec<(&'static str, u64)>,
}

/// Measures, prints the table, and writes the figures.
pub fn main(bench: &BenchAdmission) -> anyhow::Result<()> {
    let extent = Extent {
        objects: bench.objects.clone(),
        rounds: bench.rounds,
        turn: Duration::from_millis(bench.turn),
    };
    let program = operator_binary()?;
    let own = std::env::current_exe()?;
    // Whoever asks has the second processor to itself: one thread, which the plane's do not share.
    let figures = on_processor(1, || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(measure(&own, &program, &extent))
    })??;
    println!("{}", figures.table());
    println!("build: {PROFILE}");
    if let Some(path) = &bench.json {
        std::fs::write(path, serde_json::to_vec_pretty(&figures)?)?;
    }
    Ok(())
}

/// On a plane of its own. `testbed` is that program, and `operator` the operator's.
pub async fn measure(testbed: &Path, operator: &Path, extent: &Extent) -> anyhow::Result<Figures> {
    let plane = Plane::start(PlaneOptions::new("bench-admission", testbed)).await?;
    let crds = plane.spec().binaries.keda_manifests().join("crd/bases/keda.sh_scaledobjects.yaml");
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/crd.yaml");
    for file in [&crds, &own] {
        let file = file.to_str().context("a path in UTF-8")?;
        plane.kubectl(&["apply", "--server-side", "-f", file]).ok().await?;
    }
    for crd in ["scaledobjects.keda.sh", "vllmclusters.training.distributed-inference.io"] {
        let crd = format!("crd/{crd}");
        plane.kubectl(&["wait", "--for=condition=Established", &crd, "--timeout=60s"]).ok().await?;
    }
    let client = plane.client().await?;
    for name in [NAMESPACE, addons::OPERATOR] {
        objects::namespace(&client, name).await?;
    }
    // Its admission is what is measured, and not that it reconciles.
    let _nobody = addons::nobody_leads(&client).await?;
    let folder = tempfile::tempdir()?;
    let identity = Identity::new(folder.path())?;
    let servers = start(&plane, &identity, testbed, operator)?;
    let clusters = objects::clusters(&client, NAMESPACE);
    let scaled_objects = objects::scaled_objects(&client, NAMESPACE);
    let mut figures = Figures::default();
    let mut known = 0;
    for &objects in &extent.objects {
        create(&clusters, &scaled_objects, known..objects).await?;
        known = objects;
        // The last one that was made is the last that a server hears of.
        let last = name_of(known - 1);
        let (cluster, scaler) = tokio::try_join!(clusters.get(&last), scaled_objects.get(&last))?;
        let payloads = payload::all(&serde_json::to_value(cluster)?, &serde_json::to_value(scaler)?)?;
        for server in &servers {
            knows(server, &payloads).await?;
        }
        round(&servers, &payloads, known, extent, &mut figures).await?;
    }
    for server in &servers {
        figures.resident.push((server.name, server.resident()?));
    }
    drop(servers);
    plane.stop().await?;
    Ok(figures)
}

/// The servers, in the order of the table.
fn start(plane: &Plane, identity: &Identity, testbed: &Path, operator: &Path) -> anyhow::Result<Vec<Server>> {
    let kubeconfig = plane.kubeconfig();
    let peer = Binaries::for_benches()?.path(Part::Webhook);
    let floor = Server::start(
        "floor",
        testbed,
        identity,
        |address| {
            let (certificate, key) = (identity.file("tls.crt"), identity.file("tls.key"));
            let words =
                ["floor", "--listen", &address.to_string(), "--certificate", &certificate, "--key", &key];
            words.map(String::from).to_vec()
        },
        &[],
    )?;
    let ours = Server::start(
        "ours",
        operator,
        identity,
        |address| {
            let words = [
                "run".to_owned(),
                format!("--listen={address}"),
                "--plain-listen=127.0.0.1:0".to_owned(),
                "--scaler-listen=127.0.0.1:0".to_owned(),
                format!("--tls-cert-file={}", identity.file("tls.crt")),
                format!("--tls-key-file={}", identity.file("tls.key")),
            ];
            words.to_vec()
        },
        &[("KUBECONFIG", &kubeconfig)],
    )?;
    let go = Server::start(
        "Go",
        &peer,
        identity,
        |address| {
            let words = [
                format!("--config={}", kubeconfig.display()),
                format!("--host={}", address.ip()),
                format!("--port={}", address.port()),
                format!("--cert-dir={}", identity.folder.display()),
            ];
            words.to_vec()
        },
        &[],
    )?;
    let keda = Server::start(
        "KEDA",
        &plane.spec().binaries.path(Part::KedaWebhooks),
        identity,
        |address| {
            let words = [
                format!("--port={}", address.port()),
                format!("--cert-dir={}", identity.folder.display()),
                "--metrics-bind-address=0".to_owned(),
                "--health-probe-bind-address=0".to_owned(),
            ];
            words.to_vec()
        },
        &[("KUBECONFIG", &kubeconfig)],
    )?;
    Ok(vec![floor, ours, go, keda])
}

/// The review as this server is asked, and must answer it; `None` where it has no rule for it.
fn as_asked(server: &Server, payload: &Payload) -> Option<Payload> {
    let of = |path| payload.path == path;
    match server.name {
        "floor" => Some(Payload { allowed: true, ..payload.clone() }),
        "Go" => of(payload::SCALE).then(|| payload.clone()),
        "KEDA" => of(payload::SCALED_OBJECT).then(|| Payload { path: KEDAS_PATH, ..payload.clone() }),
        _ => Some(payload.clone()),
    }
}

/// Waits until a server answers every review as it must.
async fn knows(server: &Server, payloads: &[Payload]) -> anyhow::Result<()> {
    eventually(&format!("{} knows all objects", server.name), Deadline::after(PATIENCE), || async {
        for payload in payloads {
            let Some(payload) = as_asked(server, payload) else { continue };
            let asked = caller::connect_for(server, &payload, 1).await;
            asked.map_err(|error| format!("{error:#}; {}", server.last_words()))?;
        }
        Ok(())
    })
    .await
}

/// Every server with every review, in turns.
async fn round(
    servers: &[Server],
    payloads: &[Payload],
    objects: usize,
    extent: &Extent,
    figures: &mut Figures,
) -> anyhow::Result<()> {
    for payload in payloads {
        let asked = servers.iter().filter_map(|server| Some((server, as_asked(server, payload)?)));
        let mut seen: Vec<_> = asked.map(|(server, payload)| (server, payload, Vec::new())).collect();
        for _ in 0..extent.rounds {
            for (server, payload, seen) in &mut seen {
                seen.push(caller::ask_for(server, payload, extent.turn).await?);
            }
        }
        for (server, _, seen) in seen {
            figures.reviews.push(Figure::of(objects, payload.name, server.name, &seen));
        }
    }
    let scale = &payloads[0];
    let servers = || servers.iter().filter(|server| as_asked(server, scale).is_some());
    let mut connected: Vec<_> = servers().map(|server| (server, Vec::new())).collect();
    for _ in 0..extent.rounds {
        for (server, seen) in &mut connected {
            let times = u32::try_from(extent.turn.as_millis() / 5)?.max(10);
            seen.push(caller::connect_for(server, scale, times).await?);
        }
    }
    for (server, seen) in connected {
        figures.reviews.push(Figure::of(objects, "new connection, /scale", server.name, &seen));
    }
    let mut times: Vec<_> = servers().map(|server| (server, Vec::new())).collect();
    for _ in 0..extent.rounds {
        for (server, times) in &mut times {
            times.extend(caller::ask_at(server, scale, 1_000, extent.turn).await?);
        }
    }
    for (server, mut times) in times {
        times.sort();
        let micros =
            [500, 990, 999].map(|permille| within(&times, permille).map_or(0, |time| time.as_micros()));
        figures.latencies.push(Latency { objects, server: server.name, micros });
    }
    Ok(())
}

impl Figure {
    fn of(objects: usize, what: &'static str, server: &'static str, seen: &[caller::Asked]) -> Self {
        let sorted = |of: fn(&caller::Asked) -> f64| {
            let mut all: Vec<_> = seen.iter().map(of).collect();
            all.sort_by(f64::total_cmp);
            all
        };
        let (each, rate) = (sorted(caller::Asked::each), sorted(caller::Asked::rate));
        let middle = |all: &[f64]| all.get(all.len() / 2).copied().unwrap_or(f64::NAN);
        let spread = [each.first(), each.last()].map(|end| end.copied().unwrap_or(f64::NAN));
        Self { objects, what, server, micros: middle(&each), spread, rate: middle(&rate) }
    }
}

impl Figures {
    /// What a server took for a review, if it was asked.
    pub fn micros(&self, objects: usize, what: &str, server: &str) -> Option<f64> {
        let figure = self
            .reviews
            .iter()
            .find(|figure| figure.objects == objects && figure.what == what && figure.server == server);
        figure.map(|figure| figure.micros)
    }

    /// One table, ratios to the floor's and to Go's included.
    pub fn table(&self) -> String {
        let mut table = format!(
            "{:<9}{:<24}{:<8}{:>12}{:>18}{:>12}{:>9}{:>8}\n",
            "objects", "review", "server", "CPU us", "least to most", "reviews/s", "÷ floor", "÷ peer"
        );
        for figure in &self.reviews {
            let Figure { objects, what, server, micros, spread: [least, most], rate } = figure;
            let over = |other: &str| match self.micros(*objects, what, other) {
                Some(base) if other != *server => format!("{:.2}", micros / base),
                _ => String::new(),
            };
            let spread = format!("{least:.1} to {most:.1}");
            // Go has the rule for `/scale`, and KEDA the one for ScaledObjects.
            let peer = if *server == "ours" { over("Go") + &over("KEDA") } else { String::new() };
            let floor = over("floor");
            // Writing to a string never fails.
            let _ = writeln!(
                table,
                "{objects:<9}{what:<24}{server:<8}{micros:>12.1}{spread:>18}{rate:>12.0}{floor:>9}{peer:>8}"
            );
        }
        let _ = writeln!(
            table,
            "\n{:<9}{:<10}{:>10}{:>10}{:>10}",
            "objects", "1,000/s", "p50 us", "p99 us", "p99.9 us"
        );
        for Latency { objects, server, micros: [half, most, nearly] } in &self.latencies {
            let _ = writeln!(table, "{objects:<9}{server:<10}{half:>10}{most:>10}{nearly:>10}");
        }
        for (server, kib) in &self.resident {
            let _ = write!(
                table,
                "\nresident: {server} {:.1} MiB",
                f64::from(u32::try_from(*kib).unwrap_or(u32::MAX)) / 1024.0
            );
        }
        table
    }
}

/// VLLMClusters and the ScaledObjects that drive them.
async fn create(
    clusters: &Api<DynamicObject>,
    scaled_objects: &Api<DynamicObject>,
    indices: std::ops::Range<usize>,
) -> anyhow::Result<()> {
    futures::stream::iter(indices)
        .map(|index| async move {
            let name = name_of(index);
            made(clusters, cluster(&name)).await?;
            made(scaled_objects, scaler(&name)).await
        })
        .buffer_unordered(CREATORS)
        .try_collect()
        .await
}

async fn made(api: &Api<DynamicObject>, object: Value) -> anyhow::Result<()> {
    let shown = object["metadata"]["name"].clone();
    let object = serde_json::from_value(object)?;
    api.create(&PostParams::default(), &object).await.with_context(|| format!("creating {shown}"))?;
    Ok(())
}

fn cluster(name: &str) -> Value {
    json!({
        "apiVersion": VLLMCluster::api_version(&()), "kind": VLLMCluster::kind(&()),
        "metadata": {"name": name}, "spec": payload::spec(),
    })
}

fn scaler(name: &str) -> Value {
    json!({
        "apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject",
        "metadata": {"name": name}, "spec": payload::scaler_spec(name),
    })
}
