//! What was looked at, as the API server gave it.
//!
//! Architecture invariant: plain values and their selection; nothing is read here, and nothing is judged.

use std::collections::BTreeMap;

use clap::{ArgAction, CommandFactory as _, FromArgMatches as _};
use jiff::Timestamp;
use serde_json::Value;

use crate::args::RunArgs;
use crate::commands;
use crate::commands::lint::Refused;

/// One object that was asked for.
#[derive(Clone, Debug, Default)]
pub enum Look {
    /// It is there.
    Found(Value),
    /// It is not there, or its kind is not installed.
    Absent,
    /// It could not be asked for; that is told once, elsewhere.
    #[default]
    Unseen,
}

impl Look {
    /// The object, where it is there.
    pub fn found(&self) -> Option<&Value> {
        match self {
            Self::Found(object) => Some(object),
            Self::Absent | Self::Unseen => None,
        }
    }

    /// Whether it is known not to be there.
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Absent)
    }
}

/// All that a diagnosis rests on.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// The time by the API server, where it was told.
    pub at: Timestamp,
    /// Where the operator is looked for.
    pub namespace: String,
    /// The mutating configuration, and the validating one.
    pub configurations: [Look; 2],
    /// The operator's Deployment.
    pub deployment: Look,
    /// Its pods.
    pub replicas: Vec<Replica>,
    /// What belongs to it.
    pub parts: Parts,
    /// What the operator should be allowed and is not.
    pub rights: Vec<Right>,
    /// What came of writes that change nothing.
    pub trials: Vec<Trial>,
    /// KEDA, and who serves metrics.
    pub keda: Keda,
    /// What is scaled, and by what.
    pub scaling: Scaling,
    /// What could not be looked at, a sentence each.
    pub unseen: Vec<String>,
}

/// What belongs to an installation, besides its webhooks and its pods.
#[derive(Clone, Debug, Default)]
pub struct Parts {
    /// Major and minor version of the API server.
    pub server: Option<(u32, u32)>,
    /// The definition of `VLLMCluster`.
    pub definition: Look,
    /// The Service of admission, and the one of the scaler.
    pub services: [Look; 2],
    /// Where the Services lead; none: it could not be looked at.
    pub slices: Option<Vec<Value>>,
    /// The Lease.
    pub lease: Look,
    /// The Secret of the certificate authority.
    pub authority: Look,
}

/// KEDA, and who serves metrics.
#[derive(Clone, Debug, Default)]
pub struct Keda {
    /// The definition of `ScaledObject`.
    pub definition: Look,
    /// The Deployment of its operator.
    pub operator: Look,
    /// Who serves the metrics that its HPAs ask for.
    pub external_metrics: Look,
    /// Who serves the usage of pods.
    pub resource_metrics: Look,
    /// What leads it to its certificate for the scaler.
    pub authentication: Look,
    /// The Secret with that certificate.
    pub secret: Look,
}

/// What is scaled, and by what.
#[derive(Clone, Debug, Default)]
pub struct Scaling {
    /// All VLLMClusters.
    pub clusters: Vec<Value>,
    /// The ScaledObjects that drive one.
    pub scaled_objects: Vec<Value>,
    /// The HPAs that drive one.
    pub hpas: Vec<Value>,
    /// What admission would refuse of these two.
    pub refused: Vec<Refused>,
}

/// One pod of the operator.
#[derive(Clone, Debug, Default)]
pub struct Replica {
    /// The pod.
    pub pod: Value,
    /// What it answers to the question whether it is ready, where it is not.
    pub unready: Option<String>,
    /// Its metrics that have a single value: of labels, only the first value is kept.
    pub metrics: BTreeMap<(String, String), f64>,
}

/// A right that the operator lacks.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Right {
    /// The role that is to give it.
    pub role: String,
    /// As in `kubectl auth can-i`.
    pub verb: String,
    /// Resource with its group, and the name that it is for.
    pub resource: String,
}

/// A write that was made as a dry run.
#[derive(Clone, Debug)]
pub struct Trial {
    /// The kind that was written.
    pub kind: &'static str,
    /// What the API server said; `None`: it would have been stored.
    pub refusal: Option<String>,
}

impl Seen {
    /// The settings of the operator, from the arguments and the environment of its container; an error is the sentence of the
    /// command line that refuses them. Without a Deployment: those of an installation that says nothing.
    pub fn settings(&self) -> Result<RunArgs, String> {
        let container =
            self.deployment.found().map(|found| &found["spec"]["template"]["spec"]["containers"][0]);
        let mut line = vec!["run".to_owned(), format!("--namespace={}", self.namespace)];
        let texts = |field: &Value| -> Vec<String> {
            field
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|text| Some(text.as_str()?.to_owned()))
                .collect()
        };
        let variables: BTreeMap<_, _> = container
            .and_then(|container| container["env"].as_array())
            .into_iter()
            .flatten()
            .filter_map(|variable| Some((variable["name"].as_str()?, variable["value"].as_str()?)))
            .collect();
        for argument in RunArgs::command().get_arguments() {
            let Some(value) = argument.get_env().and_then(|name| variables.get(name.to_str()?)) else {
                continue;
            };
            let Some(flag) = argument.get_long().filter(|flag| *flag != "namespace") else { continue };
            match argument.get_action() {
                ArgAction::SetTrue if *value == "true" => line.push(format!("--{flag}")),
                ArgAction::SetTrue => {}
                _ => line.push(format!("--{flag}={value}")),
            }
        }
        // What stands on the line goes before the environment.
        line.extend(
            container.map(|found| texts(&found["args"])).into_iter().flatten().filter(|arg| arg != "run"),
        );
        let settings = settings(line)?;
        // What each flag takes by itself, and what they take together.
        commands::run::check(&settings).map_err(|error| format!("{error:#}"))?;
        Ok(settings)
    }

    /// Those of an installation in that namespace that sets nothing else.
    pub fn usual_settings(&self) -> RunArgs {
        let line = ["run".to_owned(), format!("--namespace={}", self.namespace)];
        // Nothing is required, and nothing else is said.
        settings(line.to_vec()).expect("the defaults fit each other")
    }

    /// The names of the operator's pods.
    pub fn pod_names(&self) -> impl Iterator<Item = &str> {
        self.replicas.iter().filter_map(|replica| replica.pod["metadata"]["name"].as_str())
    }
}

/// What the operator makes of its arguments; the environment of this process is another's.
fn settings(line: Vec<String>) -> Result<RunArgs, String> {
    let flags = RunArgs::command().args_override_self(true).mut_args(|flag| flag.env(None::<&str>));
    let matches = flags.try_get_matches_from(line);
    matches.and_then(|matches| RunArgs::from_arg_matches(&matches)).map_err(|error| told(&error))
}

/// The first sentence of what the command line says.
fn told(error: &clap::Error) -> String {
    let text = error.to_string();
    text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned()
}

/// `kind/name` of an object, with its namespace where it has one.
pub fn about(kind: &str, object: &Value) -> String {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
    match text("namespace") {
        "" => format!("{kind}/{}", text("name")),
        namespace => format!("{kind}/{} in namespace {namespace}", text("name")),
    }
}

/// A condition of an object.
pub fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    object["status"]["conditions"].as_array()?.iter().find(|condition| condition["type"] == kind)
}

/// Whether a condition has this status.
pub fn holds(object: &Value, kind: &str, status: &str) -> bool {
    condition(object, kind).is_some_and(|condition| condition["status"] == status)
}
