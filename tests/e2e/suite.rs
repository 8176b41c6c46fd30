//! What the scenarios share: one plane, and short words for what they all do.

use std::future::Future;
use std::pin::{Pin, pin};
use std::process::{ExitCode, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use futures::TryStreamExt as _;
use kube::Api;
use kube::runtime::{WatchStreamExt as _, watcher};
use libtest_mimic::Failed;
use serde_json::Value;
use testbed::addons;
use testbed::parts::{Part, operator_binary};
use testbed::plane::wait::{Deadline, eventually};
use testbed::plane::{Kubectl, Output, Plane, PlaneOptions};
use testbed::render::{CHART, CRD_CHART};
use tokio::process::Command;
use tokio::runtime::Runtime;
use vllm_operator::api::VLLMCluster;

/// The program `testbed`, which cargo built beside this test.
pub const TESTBED: &str = env!("CARGO_BIN_EXE_testbed");
/// How long the cluster may take to get where a scenario wants it. Long: a deadline tells a hang from a delay, and
/// the limits that matter are asserted by themselves.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// Replicas of the operator: as many as its manifest has.
pub const REPLICAS: usize = 2;

/// A future of a scenario.
pub type Run<'a> = Pin<Box<dyn Future<Output = anyhow::Result<()>> + 'a>>;
/// A scenario on the shared plane.
pub type Scenario = fn(&Plane) -> Run<'_>;
/// A scenario that starts what it needs by itself.
pub type Alone = fn() -> Run<'static>;

/// The first argument with which this program is kubectl's editor, and what it makes of a file then.
pub type Editor = (&'static str, fn(&str) -> String);

/// Acts as kubectl's editor if the arguments say so.
pub fn edit_as_kubectls_editor(editors: &[Editor]) -> Option<ExitCode> {
    let mut args = std::env::args().skip(1);
    let name = args.next()?;
    let (_, edited) = editors.iter().find(|(editor, _)| *editor == name)?;
    let edit = || -> anyhow::Result<()> {
        let file = args.next().context("kubectl names the file")?;
        std::fs::write(&file, edited(&std::fs::read_to_string(&file)?))?;
        Ok(())
    };
    Some(match { edit }() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    })
}

/// The shared plane, started by the first scenario that needs it.
pub struct Suite {
    runtime: Runtime,
    plane: Mutex<Option<Plane>>,
}

impl Suite {
    /// Nothing is started yet.
    pub fn new() -> Self {
        Self { runtime: Runtime::new().expect("a runtime"), plane: Mutex::new(None) }
    }

    /// Runs one scenario. Its error names the logs.
    pub fn run(&self, scenario: Scenario) -> Result<(), Failed> {
        let mut slot = self.plane.lock().unwrap_or_else(PoisonError::into_inner);
        self.runtime.block_on(async {
            let plane = match &mut *slot {
                Some(plane) => plane,
                empty => empty.insert(start().await.map_err(|error| failed(&error))?),
            };
            scenario(plane).await.map_err(|error| {
                failed(&error.context(format!("logs of the plane: {}", plane.logs_dir().display())))
            })
        })
    }

    /// Stops the plane; after a failure its files stay.
    pub fn end(&self, passed: bool) {
        if let Some(plane) = self.plane.lock().unwrap_or_else(PoisonError::into_inner).take() {
            if passed {
                if let Err(error) = self.runtime.block_on(plane.stop()) {
                    eprintln!("stopping the plane: {error:#}");
                }
            } else {
                drop(plane);
            }
        }
    }
}

/// Runs a scenario that shares nothing.
pub fn alone(scenario: Alone) -> Result<(), Failed> {
    Runtime::new().expect("a runtime").block_on(scenario()).map_err(|error| failed(&error))
}

fn failed(error: &anyhow::Error) -> Failed {
    format!("{error:#}").into()
}

async fn start() -> anyhow::Result<Plane> {
    let mut options = PlaneOptions::new("e2e", TESTBED);
    options.operator_exe = Some(tokio::task::spawn_blocking(operator_binary).await??);
    let plane = Plane::start(options).await?;
    addons::install_keda_and_prometheus(&plane).await?;
    addons::install_metrics_server(&plane).await?;
    install_by_helm(&plane, &format!("--set certificates.propagationDelay={PROPAGATION_DELAY}")).await?;
    addons::wait_for_operator(&plane).await?;
    addons::wait_for_keda_and_prometheus(&plane).await?;
    addons::wait_for_metrics_server(&plane).await?;
    addons::introduce_scaler(&plane).await?;
    Ok(plane)
}

/// kubectl in a namespace, its arguments as one types them; none may hold a space.
pub fn kubectl(plane: &Plane, namespace: &str, line: &str) -> Kubectl {
    let mut args = vec!["-n", namespace];
    args.extend(line.split_whitespace());
    plane.kubectl(&args)
}

/// Helm against the plane, its arguments as one types them; its own files lie with the plane's.
pub async fn helm(plane: &Plane, namespace: &str, line: &str) -> anyhow::Result<Output> {
    let home = |name: &str| plane.state_dir().join("helm").join(name);
    let output = Command::new(plane.spec().binaries.path(Part::Helm))
        .args(["--namespace", namespace])
        .args(line.split_whitespace())
        .env("KUBECONFIG", plane.kubeconfig())
        .env("HELM_CACHE_HOME", home("cache"))
        .env("HELM_CONFIG_HOME", home("config"))
        .env("HELM_DATA_HOME", home("data"))
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let command = format!("helm {line}");
    let output = tokio::time::timeout(PATIENCE * 2, output)
        .await
        .with_context(|| format!("`{command}` did not end within {:?}", PATIENCE * 2))??;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    Ok(Output { command, stdout, stderr, status: output.status })
}

/// The propagation delay of the shared plane's operator: this API server reads a changed bundle at once, and for a quarter of an hour after a CA
/// began to sign each replica that starts waits as long as that may take.
pub const PROPAGATION_DELAY: &str = "2s";

/// Where the operator runs.
const OPERATOR: &str = "vllm-operator-system";

/// Installs both charts as the documentation says, with these values, without waiting for the operator.
pub async fn install_by_helm(plane: &Plane, values: &str) -> anyhow::Result<()> {
    helm(plane, OPERATOR, &format!("install vllm-operator-crds {CRD_CHART} --create-namespace"))
        .await?
        .ok()?;
    let restricted = format!("label namespace {OPERATOR} pod-security.kubernetes.io/enforce=restricted");
    kubectl(plane, OPERATOR, &restricted).ok().await?;
    helm(plane, OPERATOR, &format!("install vllm-operator {CHART} {values}")).await?.ok().map(drop)
}

/// A namespace of the scenario's own.
pub async fn namespace(plane: &Plane, name: &str) -> anyhow::Result<()> {
    kubectl(plane, name, &format!("create namespace {name}")).ok().await.map(drop)
}

/// Ends what a scenario has started, and waits until it is gone: others count writes and processes.
pub async fn forget(plane: &Plane, name: &str) -> anyhow::Result<()> {
    kubectl(plane, name, &format!("delete namespace {name} --timeout=60s")).ok().await.map(drop)
}

/// An object as JSON.
pub async fn get(plane: &Plane, namespace: &str, what: &str) -> anyhow::Result<Value> {
    let text = kubectl(plane, namespace, &format!("get {what} -o json")).ok().await?;
    serde_json::from_str(&text).with_context(|| format!("{what} as JSON"))
}

/// Notes of each state of the namespace's clusters from now on what `note` makes of it.
pub async fn follow<T: Default + Send + 'static>(
    plane: &Plane,
    namespace: &str,
    note: impl Fn(&mut T, VLLMCluster) + Send + 'static,
) -> anyhow::Result<Arc<Mutex<T>>> {
    let seen = Arc::<Mutex<T>>::default();
    let sink = Arc::clone(&seen);
    let api = Api::<VLLMCluster>::namespaced(plane.client().await?, namespace);
    tokio::spawn(async move {
        let mut clusters = pin!(watcher(api, watcher::Config::default()).applied_objects());
        while let Ok(Some(cluster)) = clusters.try_next().await {
            let Ok(mut seen) = sink.lock() else { return };
            note(&mut seen, cluster);
        }
    });
    Ok(seen)
}

/// The counts that are wanted of a cluster, one after the other.
pub struct Counts(Arc<Mutex<Vec<i32>>>);

impl Counts {
    /// From now on, once the cluster is seen.
    pub async fn follow(plane: &Plane, namespace: &str, cluster: &'static str) -> anyhow::Result<Self> {
        let counts = follow(plane, namespace, move |counts: &mut Vec<i32>, seen| {
            let count = seen.spec.replicas.unwrap_or_default();
            if seen.metadata.name.as_deref() == Some(cluster) && counts.last() != Some(&count) {
                counts.push(count);
            }
        })
        .await?;
        let counts = Self(counts);
        eventually("the watch sees the cluster", Deadline::after(PATIENCE), || async {
            counts
                .seen()
                .map_err(|error| error.to_string())
                .and_then(|seen| if seen.is_empty() { Err("nothing".to_owned()) } else { Ok(()) })
        })
        .await?;
        Ok(counts)
    }

    /// Each of them, once for as long as it lasted.
    pub fn seen(&self) -> anyhow::Result<Vec<i32>> {
        self.0.lock().map(|seen| seen.clone()).map_err(|_| anyhow::anyhow!("the watch panicked"))
    }
}

/// Waits until every JSON pointer of an object has its value.
pub async fn until(
    plane: &Plane,
    namespace: &str,
    what: &str,
    wanted: &[(&str, Value)],
) -> anyhow::Result<Value> {
    eventually(&format!("{what} in {namespace}: {wanted:?}"), Deadline::after(PATIENCE), || async {
        let object = get(plane, namespace, what).await.map_err(|error| format!("{error:#}"))?;
        for (pointer, value) in wanted {
            let found = object.pointer(pointer).unwrap_or(&Value::Null);
            if found != value {
                return Err(format!("{pointer} is {found}; status: {}", object["status"]));
            }
        }
        Ok(object)
    })
    .await
}

/// `spec.replicas` of a cluster.
pub async fn replicas(plane: &Plane, namespace: &str, cluster: &str) -> anyhow::Result<String> {
    kubectl(plane, namespace, &format!("get vllmcluster {cluster} -o jsonpath={{.spec.replicas}}")).ok().await
}

/// A cluster's manifest, with the lines of its spec.
pub fn cluster(name: &str, spec: &str) -> String {
    let head = format!(
        "apiVersion: training.distributed-inference.io/v1alpha1\nkind: VLLMCluster\nmetadata:\n  name: {name}\n"
    );
    if spec.is_empty() { head } else { format!("{head}spec:\n  {}\n", spec.replace('\n', "\n  ")) }
}

/// A ScaledObject's manifest, with a trigger on the queue of its cluster.
pub fn scaled_object(namespace: &str, name: &str, cluster: &str, min: u32, max: u32) -> String {
    format!(
        r#"
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata: {{name: {name}}}
spec:
  scaleTargetRef: {{apiVersion: training.distributed-inference.io/v1alpha1, kind: VLLMCluster, name: {cluster}}}
  minReplicaCount: {min}
  maxReplicaCount: {max}
  triggers:
    - type: prometheus
      metadata:
        serverAddress: http://prometheus:9090
        query: sum(vllm:num_requests_waiting{{namespace="{namespace}",cluster="{cluster}"}})
        threshold: "4"
"#
    )
}

/// `kubectl apply -f -`.
pub async fn apply(plane: &Plane, namespace: &str, manifest: &str) -> anyhow::Result<String> {
    kubectl(plane, namespace, "apply -f -").stdin(manifest).ok().await
}

/// Stops the operator, and waits until nothing of it is left.
pub async fn stop_operator(plane: &Plane) -> anyhow::Result<()> {
    kubectl(plane, OPERATOR, "scale deployment vllm-operator --replicas=0").ok().await?;
    kubectl(plane, OPERATOR, "wait --for=delete pod -l app.kubernetes.io/name=vllm-operator --timeout=60s")
        .ok()
        .await
        .map(drop)
}

/// Starts the operator again with all of its replicas, and waits until they are ready.
pub async fn start_operator(plane: &Plane) -> anyhow::Result<()> {
    addons::scale_operator(plane, REPLICAS).await
}
