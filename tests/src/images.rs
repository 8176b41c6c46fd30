//! Which program stands behind which container image.
//!
//! Images are known by repository; tags and digests are ignored, with one exception: the tag `missing` is never found, so
//! that a broken image can be asked for.
//!
//! **Architecture invariant**: nothing here starts a process or writes a file, and nothing is downloaded. An image
//! that is not listed does not exist.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What a pod gets when it names an image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    /// The command of a container that states none.
    pub entrypoint: Vec<String>,
    /// The arguments of a container that states neither command nor arguments.
    pub args: Vec<String>,
    /// First word of the container's command → the words that take its place. A list with `{args}` or `{ip}` in it is a
    /// template: `{ip}` becomes the pod's address, and `{args}` the container's own arguments, which are left out where
    /// `{args}` does not stand.
    pub programs: BTreeMap<String, Vec<String>>,
    /// Environment that the container's own is laid over.
    pub env: BTreeMap<String, String>,
    /// Working directory of a container that states none.
    pub working_dir: Option<String>,
    /// A folder with its files, where it has files of its own: a container sees no others then.
    pub files: Option<PathBuf>,
}

/// The images that a node can run.
#[derive(Clone, Debug, Default)]
pub struct Images {
    by_repository: BTreeMap<String, Image>,
}

/// Why an image cannot be had.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum PullError {
    /// The tag says so.
    #[error("image {0:?} has the tag `missing`, which is never found")]
    Missing(String),
    /// No such repository.
    #[error("image {image:?} is not one that this node can run; it knows {}", known.join(", "))]
    Unknown {
        /// As the pod names it.
        image: String,
        /// Every repository that would do.
        known: Vec<String>,
    },
}

/// The image of vLLM itself.
pub const VLLM: &str = "vllm/vllm-openai";
/// The image of vLLM that is built for the CPU.
pub const VLLM_CPU: &str = "vllm/vllm-openai-cpu";
/// The image of this operator.
pub const OPERATOR: &str = "ghcr.io/distributed-inference/vllm-operator";

impl Images {
    /// The images of the parts. `binary` gives the path of a built part by its name, `operator` is its program or a folder with
    /// the files of its image, `testbed` is this program, and `engine` is the command template of a real vLLM that is to run in place of the simulated one.
    pub fn known(
        binary: &dyn Fn(&str) -> PathBuf,
        operator: Option<&Path>,
        testbed: &Path,
        engine: Option<&str>,
    ) -> Self {
        let mut images = Self::default();
        let mut part = |repository: &str, command: &str, file: &str| {
            images.insert(repository, Image::of(command, vec![word(&binary(file))]));
        };
        part("ghcr.io/kedacore/keda", "/keda", "keda-operator");
        part("ghcr.io/kedacore/keda-metrics-apiserver", "/keda-adapter", "keda-adapter");
        part("ghcr.io/kedacore/keda-admission-webhooks", "/keda-admission-webhooks", "keda-webhooks");
        part("registry.k8s.io/metrics-server/metrics-server", "/metrics-server", "metrics-server");
        part("registry.k8s.io/kubectl", "/bin/kubectl", "kubectl");
        let prometheus = Image {
            args: ["--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/prometheus"]
                .map(String::from)
                .to_vec(),
            working_dir: Some("/prometheus".into()),
            ..Image::of("/bin/prometheus", vec![word(&binary("prometheus"))])
        };
        images.insert("prom/prometheus", prometheus.clone());
        images.insert("quay.io/prometheus/prometheus", prometheus);
        if let Some(operator) = operator {
            let command = "/vllm-operator";
            let image = if operator.is_dir() {
                Image { entrypoint: vec![command.into()], files: Some(operator.into()), ..Image::default() }
            } else {
                Image::of(command, vec![word(operator)])
            };
            images.insert(OPERATOR, image);
        }
        let engine = match engine {
            Some(template) => template.split_whitespace().map(String::from).collect(),
            None => vec![word(testbed), "engine".into()],
        };
        let mut vllm = Image::of("vllm", engine);
        vllm.entrypoint.push("serve".into());
        images.insert(VLLM_CPU, vllm.clone());
        images.insert(VLLM, vllm);
        for command in ["load", "handshakes", "engines", "floor"] {
            let mut image = Image::of("testbed", vec![word(testbed)]);
            image.entrypoint.push(command.into());
            images.insert(&format!("testbed/{command}"), image);
        }
        images
    }

    /// Adds the webhook that the operator is measured beside, where there is one.
    #[must_use]
    pub fn with_peer(mut self, peer: Option<&Path>) -> Self {
        if let Some(peer) = peer {
            self.insert("testbed/peer", Image::of("webhook", vec![word(peer)]));
        }
        self
    }

    /// Adds an image, or replaces it.
    pub fn insert(&mut self, repository: &str, image: Image) {
        self.by_repository.insert(repository.to_owned(), image);
    }

    /// The image that `reference` names.
    pub fn find(&self, reference: &str) -> Result<&Image, PullError> {
        let (repository, tag) = split(reference);
        if tag == Some("missing") {
            return Err(PullError::Missing(reference.to_owned()));
        }
        self.by_repository.get(repository).ok_or_else(|| PullError::Unknown {
            image: reference.to_owned(),
            known: self.by_repository.keys().cloned().collect(),
        })
    }
}

impl Image {
    fn of(command: &str, program: Vec<String>) -> Self {
        Self {
            entrypoint: vec![command.to_owned()],
            programs: [(command.to_owned(), program)].into(),
            ..Self::default()
        }
    }

    /// What runs for a container with this `command` and these `args`, both empty where the container states none.
    pub fn argv(&self, command: &[String], args: &[String], ip: &str) -> Vec<String> {
        let mut words = if command.is_empty() { self.entrypoint.clone() } else { command.to_vec() };
        if !args.is_empty() || !command.is_empty() {
            words.extend_from_slice(args);
        } else {
            words.extend_from_slice(&self.args);
        }
        self.substitute(words, ip)
    }

    /// Replaces the first word, as `programs` says.
    pub fn substitute(&self, argv: Vec<String>, ip: &str) -> Vec<String> {
        let Some((first, rest)) = argv.split_first() else { return argv };
        let file = |path: &str| Path::new(path).file_name().map(std::ffi::OsStr::to_owned);
        let program = self.programs.get(first).or_else(|| {
            self.programs.iter().find(|(name, _)| file(name) == file(first)).map(|(_, program)| program)
        });
        let Some(program) = program else { return argv };
        if !program.iter().any(|word| word.contains("{ip}") || word == "{args}") {
            return program.iter().chain(rest).cloned().collect();
        }
        let own = match rest.split_first() {
            Some((word, rest)) if word == "serve" => rest,
            _ => rest,
        };
        program
            .iter()
            .flat_map(|word| if word == "{args}" { own.to_vec() } else { vec![word.replace("{ip}", ip)] })
            .collect()
    }
}

fn word(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// Repository, without Docker's implied registry, and tag.
fn split(reference: &str) -> (&str, Option<&str>) {
    let name = reference.split_once('@').map_or(reference, |(name, _)| name);
    let digest_missing = reference.ends_with("@missing") || reference.ends_with(":missing");
    // A colon before the last slash belongs to the registry's port.
    let (repository, tag) = match name.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => (repository, Some(tag)),
        _ => (name, None),
    };
    let repository = ["index.docker.io/", "docker.io/"]
        .iter()
        .find_map(|registry| repository.strip_prefix(registry))
        .unwrap_or(repository);
    (repository, if digest_missing { Some("missing") } else { tag })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn images(engine: Option<&str>) -> Images {
        let binary = |name: &str| Path::new("/bin-of-parts").join(name);
        Images::known(&binary, Some(Path::new("/op")), Path::new("/testbed"), engine)
    }

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(String::from).collect()
    }

    #[test]
    fn references_are_matched_by_repository() {
        for (reference, repository, tag) in [
            ("vllm/vllm-openai", "vllm/vllm-openai", None),
            ("vllm/vllm-openai:v0.32.0", "vllm/vllm-openai", Some("v0.32.0")),
            ("docker.io/vllm/vllm-openai:v1", "vllm/vllm-openai", Some("v1")),
            ("ghcr.io/kedacore/keda@sha256:abc", "ghcr.io/kedacore/keda", None),
            ("ghcr.io/kedacore/keda:2.21.0@sha256:abc", "ghcr.io/kedacore/keda", Some("2.21.0")),
            ("localhost:5000/x/y", "localhost:5000/x/y", None),
            ("vllm/vllm-openai@sha256:missing", "vllm/vllm-openai", Some("missing")),
        ] {
            assert_eq!(split(reference), (repository, tag), "{reference}");
        }
    }

    #[test]
    fn an_unknown_image_lists_the_known_ones() {
        let images = images(None);
        let error = images.find("nginx:1").unwrap_err().to_string();
        assert!(error.contains("\"nginx:1\"") && error.contains(VLLM) && error.contains(OPERATOR), "{error}");
        let missing = PullError::Missing("vllm/vllm-openai:missing".into());
        assert_eq!(images.find("vllm/vllm-openai:missing"), Err(missing));
    }

    #[test]
    fn commands_and_arguments_follow_the_rule_of_images() {
        let simulated = images(None);
        let template = images(Some("vllm serve tiny --host {ip} {args}"));
        let fixed = images(Some("vllm serve tiny --host={ip}"));
        let vllm = "vllm/vllm-openai";
        for (images, image, command, args, expected) in [
            (&simulated, vllm, "", "m --port 1", "/testbed engine serve m --port 1"),
            (&simulated, vllm, "vllm serve", "m", "/testbed engine serve m"),
            (&simulated, vllm, "/usr/local/bin/vllm", "serve m", "/testbed engine serve m"),
            (&simulated, vllm, "sh -c", "true", "sh -c true"),
            (&template, vllm, "", "m --port 1", "vllm serve tiny --host 10.0.0.9 m --port 1"),
            (&fixed, vllm, "", "m", "vllm serve tiny --host=10.0.0.9"),
            (&simulated, "ghcr.io/kedacore/keda:2", "/keda", "--x", "/bin-of-parts/keda-operator --x"),
            (
                &simulated,
                "prom/prometheus",
                "",
                "",
                "/bin-of-parts/prometheus --config.file=/etc/prometheus/prometheus.yml --storage.tsdb.path=/prometheus",
            ),
            (&simulated, "prom/prometheus", "", "--a", "/bin-of-parts/prometheus --a"),
            (&simulated, "testbed/load", "", "--qps 1", "/testbed load --qps 1"),
        ] {
            let found = images.find(image).unwrap();
            let argv = found.argv(&words(command), &words(args), "10.0.0.9");
            assert_eq!(argv, words(expected), "{image} {command} {args}");
        }
    }
}
