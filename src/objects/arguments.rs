//! The arguments of `vllm serve`: those that fields stand for, and which of the user's would fight them.
//!
//! Architecture invariant: plain functions of the spec. Both who builds the pod and who judges a spec take the
//! list of flags from here.

use crate::api::VLLMClusterSpec;
use crate::api::names::PORT;

/// The image where the spec names none: the release that the operator's flags and probes were tried with.
pub const DEFAULT_IMAGE: &str = "vllm/vllm-openai:v0.32.0";

/// How long a stopping server may finish what it has accepted, where the spec does not say, in seconds.
const DRAIN: i32 = 60;
/// vLLM's first release with `--shutdown-timeout`; before it, SIGTERM cuts off requests in flight.
const SHUTDOWN_TIMEOUT_SINCE: (u32, u32) = (0, 18);

/// A flag that the operator sets, or that would break what it relies on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owned {
    /// The flag's long form.
    pub flag: &'static str,
    /// Its short form.
    short: Option<&'static str>,
    /// What to use instead.
    pub instead: &'static str,
}

const OWNED: &[Owned] = &[
    Owned { flag: "--model", short: None, instead: "state spec.model" },
    Owned { flag: "--served-model-name", short: None, instead: "state spec.servedModelName" },
    Owned { flag: "--port", short: None, instead: "state spec.port" },
    Owned { flag: "--tensor-parallel-size", short: Some("-tp"), instead: "state spec.tensorParallelSize" },
    Owned {
        flag: "--pipeline-parallel-size",
        short: Some("-pp"),
        instead: "state spec.pipelineParallelSize",
    },
    Owned { flag: "--shutdown-timeout", short: None, instead: "state spec.drainSeconds" },
    Owned {
        flag: "--host",
        short: None,
        instead: "leave it out: probes and Services reach a server at its pod's address",
    },
    Owned {
        flag: "--uds",
        short: None,
        instead: "leave it out: probes and Services reach a server at its pod's address",
    },
    Owned { flag: "--ssl-keyfile", short: None, instead: PLAIN },
    Owned { flag: "--ssl-certfile", short: None, instead: PLAIN },
    Owned { flag: "--headless", short: None, instead: "leave it out: each replica serves by itself" },
];

/// Why there is no TLS.
const PLAIN: &str =
    "leave it out: probes and Services speak plain HTTP; let a proxy before the servers do TLS";
/// What ends the flags.
const END: Owned = Owned {
    flag: "--",
    short: None,
    instead: "leave it out: the operator's own flags come behind, and would be none any more",
};
/// The shortest beginning of a flag that is taken for it. argparse takes any that no other flag has; shorter ones are
/// many flags'.
const SHORTEST: usize = "--hos".len();

/// The operator's own flag that one of the user's arguments states; vLLM takes underscores for dashes, and a flag's
/// beginning for the flag.
pub fn owned(argument: &str) -> Option<Owned> {
    if argument == END.flag {
        return Some(END);
    }
    let flag = argument.split('=').next().unwrap_or_default();
    let dashed = flag.replace('_', "-");
    let begins = |owned: &Owned| dashed.len() >= SHORTEST && owned.flag.starts_with(&dashed);
    OWNED.iter().copied().find(|owned| begins(owned) || owned.short == Some(flag))
}

/// The arguments of `vllm serve` for a spec. The operator's come last, where vLLM heeds them most.
pub fn arguments(spec: &VLLMClusterSpec) -> Vec<String> {
    let flags = [
        spec.served_model_name.as_ref().map(|name| format!("--served-model-name={name}")),
        spec.tensor_parallel_size.map(|size| format!("--tensor-parallel-size={size}")),
        spec.pipeline_parallel_size.map(|size| format!("--pipeline-parallel-size={size}")),
        drains(spec).then(|| format!("--shutdown-timeout={}", drain_seconds(spec))),
        Some(format!("--port={}", port(spec))),
    ];
    spec.model.iter().chain(&spec.args).cloned().chain(flags.into_iter().flatten()).collect()
}

/// The port that servers and Services listen on.
pub fn port(spec: &VLLMClusterSpec) -> i32 {
    spec.port.unwrap_or(PORT)
}

/// How long a stopping server may finish what it has accepted, in seconds; 0 where its image cannot.
pub fn drain_seconds(spec: &VLLMClusterSpec) -> i32 {
    if drains(spec) { spec.drain_seconds.unwrap_or(DRAIN) } else { 0 }
}

/// Whether the image knows `--shutdown-timeout`.
pub fn drains(spec: &VLLMClusterSpec) -> bool {
    release(image(spec)).is_none_or(|release| release >= SHUTDOWN_TIMEOUT_SINCE)
}

/// The image that the servers run.
pub fn image(spec: &VLLMClusterSpec) -> &str {
    spec.image.as_deref().unwrap_or(DEFAULT_IMAGE)
}

/// Major and minor number of the vLLM release that an image's tag names, as in `v0.32.0` or `0.18.1-cpu`. Other tags and
/// digests tell nothing, and are taken for current.
fn release(image: &str) -> Option<(u32, u32)> {
    let name = image.split('@').next()?;
    let (_, tag) = name.rsplit('/').next()?.split_once(':')?;
    let mut numbers = tag.strip_prefix('v').unwrap_or(tag).split('.');
    let major = numbers.next()?.parse().ok()?;
    let minor = numbers.next()?.parse().ok()?;
    // A third number, with whatever follows: `2026.11` is no release of vLLM.
    numbers.next()?.chars().next()?.is_ascii_digit().then_some((major, minor))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[test]
    fn the_image_that_is_taken_is_documented() {
        assert!(include_str!("../../docs/vllmcluster.md").contains(&format!("`{DEFAULT_IMAGE}`")));
    }

    #[test]
    fn fields_become_flags_behind_the_users_own() {
        let spec = VLLMClusterSpec {
            model: Some("m".into()),
            served_model_name: Some("served".into()),
            port: Some(9000),
            tensor_parallel_size: Some(2),
            pipeline_parallel_size: Some(3),
            drain_seconds: Some(7),
            args: vec!["--seed=1".into()],
            ..VLLMClusterSpec::default()
        };
        assert_eq!(
            arguments(&spec),
            [
                "m",
                "--seed=1",
                "--served-model-name=served",
                "--tensor-parallel-size=2",
                "--pipeline-parallel-size=3",
                "--shutdown-timeout=7",
                "--port=9000"
            ]
        );
        assert_eq!(arguments(&VLLMClusterSpec::default()), ["--shutdown-timeout=60", "--port=8000"]);
    }

    #[rstest]
    #[case("--port=1", Some("--port"))]
    #[case("--port", Some("--port"))]
    #[case("--tensor_parallel_size", Some("--tensor-parallel-size"))]
    #[case("-tp", Some("--tensor-parallel-size"))]
    #[case("-pp=2", Some("--pipeline-parallel-size"))]
    #[case("--uds=/x", Some("--uds"))]
    #[case("--hos=::1", Some("--host"))]
    #[case("--tensor-parallel=4", Some("--tensor-parallel-size"))]
    #[case("--ssl-key=/x", Some("--ssl-keyfile"))]
    #[case("--", Some("--"))]
    #[case("--mo=m", None)]
    #[case("--port-range=1", None)]
    #[case("8000", None)]
    fn flags_that_fields_stand_for(#[case] argument: &str, #[case] flag: Option<&str>) {
        assert_eq!(owned(argument).map(|owned| owned.flag), flag);
    }

    #[test]
    fn every_flag_that_is_set_is_owned() {
        let spec = VLLMClusterSpec {
            served_model_name: Some("s".into()),
            tensor_parallel_size: Some(1),
            pipeline_parallel_size: Some(1),
            ..VLLMClusterSpec::default()
        };
        for argument in arguments(&spec) {
            assert!(owned(&argument).is_some(), "{argument}");
        }
    }

    #[rstest]
    #[case("vllm/vllm-openai:v0.17.2", false)]
    #[case("vllm/vllm-openai:v0.18.0", true)]
    #[case("registry:5000/vllm:0.9.1-cpu", false)]
    #[case("registry:5000/vllm", true)]
    #[case("vllm/vllm-openai:latest", true)]
    #[case("vllm/vllm-openai:v0.17.0@sha256:00", false)]
    #[case("mine:0.9", true)]
    fn an_image_older_than_the_flag_does_not_get_it(#[case] image: &str, #[case] knows: bool) {
        let spec = VLLMClusterSpec { image: Some(image.into()), ..VLLMClusterSpec::default() };
        assert_eq!(drains(&spec), knows);
        assert_eq!(drain_seconds(&spec), if knows { 60 } else { 0 });
        assert_eq!(arguments(&spec).iter().any(|flag| flag.starts_with("--shutdown-timeout")), knows);
    }
}
