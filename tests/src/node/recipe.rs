//! From the spec of a container to that of its process: image, command, environment, mounts.
//!
//! **Architecture invariant**: starts nothing; what cannot be had is a [`Problem`] in the words of a kubelet.

use std::fs;
use std::path::PathBuf;

use anyhow::Context as _;
use jiff::SignedDuration;
use k8s_openapi::api::core::v1::{Container, Pod, Service};
use kube::api::ListParams;
use kube::{Api, ResourceExt as _};
use serde_json::json;

use super::env::{self, Env};
use super::objects::{Fetcher, Needs};
use super::shared::{Shared, Volumes};
use super::{Context, files};
use crate::sandbox::link::Namespace;
use crate::sandbox::root::Mount;
use crate::sandbox::run::Spec;

/// After a failure that may pass by itself.
pub const RETRY: SignedDuration = SignedDuration::from_secs(1);
/// After a failure that only a change of the pod or of what it names can mend.
const RETRY_SLOWLY: SignedDuration = SignedDuration::from_secs(3);

/// Why a container was not started.
#[derive(Debug)]
pub struct Problem {
    /// For machines.
    pub reason: &'static str,
    /// For people.
    pub message: String,
    /// How long to wait before it is tried again.
    pub retry: SignedDuration,
}

impl Problem {
    /// Its process could not be made.
    #[expect(clippy::needless_pass_by_value, reason = "it is given to map_err")]
    pub fn create(error: anyhow::Error) -> Self {
        let message = format!("{error:#}");
        Self { reason: "CreateContainerError", message, retry: RETRY_SLOWLY }
    }

    fn image(message: String, again: bool) -> Self {
        let reason = if again { "ImagePullBackOff" } else { "ErrImagePull" };
        Self { reason, message, retry: RETRY_SLOWLY }
    }

    fn configure(error: &dyn std::error::Error, retry: SignedDuration) -> Self {
        Self { reason: "CreateContainerConfigError", message: error.to_string(), retry }
    }
}

/// What of `pod` this node cannot do and must not leave out silently.
pub fn unsupported(pod: &Pod) -> Option<String> {
    let inits = pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten());
    let sidecar = inits.clone().find(|init| init.restart_policy.is_some());
    sidecar
        .map(|init| format!("this node does not run init containers with a restart policy ({})", init.name))
}

/// What the process of `container` is made from. `again` says that its image was missing before.
pub async fn spec(
    context: &Context,
    pod: &Pod,
    shared: &Shared,
    container: &Container,
    again: bool,
) -> Result<Spec, Problem> {
    let config = &context.config;
    let image = config
        .images
        .find(container.image.as_deref().unwrap_or_default())
        .map_err(|error| Problem::image(error.to_string(), again))?;

    let passing = |error: kube::Error| Problem::configure(&error, RETRY);
    let needs = Needs::of_environment(container);
    let objects = Fetcher::new(context.client.clone()).gather(pod, &needs).await.map_err(passing)?;
    let mut base = given(pod, &image.env);
    base.extend(service_links(context, pod).await.map_err(passing)?);
    let addresses = shared.addresses(config);
    let env = env::environment(pod, container, &objects, &addresses, base)
        .map_err(|error| Problem::configure(&error, RETRY_SLOWLY))?;

    let expand = |words: &Option<Vec<String>>| -> Vec<String> {
        words.iter().flatten().map(|word| env::expand(word, &env)).collect()
    };
    let argv = image.argv(&expand(&container.command), &expand(&container.args), &addresses.pod);
    let working_dir = container.working_dir.clone().filter(|path| !path.is_empty());
    let working_dir = working_dir.or_else(|| image.working_dir.clone()).unwrap_or_else(|| "/".into());
    Ok(Spec {
        network: shared.network.as_ref().map(Namespace::path),
        hostname: files::hostname(pod),
        root: shared.directory.join(format!("root-{}", container.name)),
        image: image.files.clone(),
        argv,
        working_dir: PathBuf::from(working_dir),
        mounts: mounts(container, shared, &env).map_err(Problem::create)?,
        env,
    })
}

/// The environment that a container has before its own.
fn given(pod: &Pod, image: &Env) -> Env {
    let mut env = Env::new();
    for name in ["PATH", "HOME"] {
        env.extend(std::env::var(name).ok().map(|value| (name.to_owned(), value)));
    }
    env.insert("HOSTNAME".into(), files::hostname(pod));
    env.extend(image.clone());
    env
}

async fn service_links(context: &Context, pod: &Pod) -> Result<Env, kube::Error> {
    let config = &context.config;
    // Announced in every namespace, and even where the others are not wanted.
    let kubernetes: Service = serde_json::from_value(json!({
        "metadata": {"name": "kubernetes"},
        "spec": {
            "clusterIP": config.service_host.to_string(),
            "ports": [{"name": "https", "port": config.service_port, "protocol": "TCP"}],
        },
    }))
    .map_err(kube::Error::SerdeError)?;
    let mut env = Env::new();
    if pod.spec.as_ref().is_none_or(|spec| spec.enable_service_links != Some(false)) {
        let namespace = pod.namespace().unwrap_or_default();
        let services = Api::<Service>::namespaced(context.client.clone(), &namespace);
        env = env::service_links(&services.list(&ListParams::default()).await?.items);
    }
    env.extend(env::service_links([&kubernetes]));
    Ok(env)
}

/// The volumes of a container, and the files by which it finds its way where it does not mount its own.
fn mounts(container: &Container, shared: &Shared, env: &Env) -> anyhow::Result<Vec<Mount>> {
    let none = Volumes::new();
    let volumes = shared.volumes.as_ref().unwrap_or(&none);
    let mut mounts = Vec::new();
    for wanted in container.volume_mounts.iter().flatten() {
        let (volume, path) =
            volumes.get(&wanted.name).with_context(|| format!("there is no volume {:?}", wanted.name))?;
        let below = match (&wanted.sub_path, &wanted.sub_path_expr) {
            (Some(path), _) => path.clone(),
            (None, Some(template)) => env::expand(template, env),
            (None, None) => String::new(),
        };
        let source = if below.is_empty() { path.clone() } else { path.join(&below) };
        if volume.empty_dir.is_some() && !source.exists() {
            fs::create_dir_all(&source)?;
        }
        let kept_by_node = volume.empty_dir.is_none()
            && volume.host_path.is_none()
            && volume.persistent_volume_claim.is_none();
        mounts.push(Mount {
            target: PathBuf::from(&wanted.mount_path),
            source: Some(source),
            read_only: kept_by_node || wanted.read_only == Some(true),
        });
    }
    for name in ["hosts", "hostname", "resolv.conf"] {
        let target = PathBuf::from("/etc").join(name);
        let source = shared.directory.join("etc").join(name);
        if source.exists() && !mounts.iter().any(|mount| mount.target == target) {
            mounts.push(Mount { target, source: Some(source), read_only: false });
        }
    }
    Ok(mounts)
}
