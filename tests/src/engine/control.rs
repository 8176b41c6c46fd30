//! `/testbed/control`: how a test makes an engine sick, or busy without load, and sees who has asked it for what.
//!
//! `PUT` takes a [`Control`] as JSON and replaces the one before: what is left out is as usual again, so `{}` heals.
//! It is in force when the answer comes. `GET` shows a [`Seen`]. The path itself always answers, is not counted and needs no
//! key. A container that is started again, as after failed liveness probes, is healthy. By hand:
//! `kubectl replace --raw /api/v1/namespaces/NS/pods/POD:8000/proxy/testbed/control -f control.json`.
//!
//! **Architecture invariant**: the one place where an engine departs from what vLLM does.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use serde::{Deserialize, Serialize};

use super::api::Engine;
use super::burden::Burden;

/// Where it is.
pub const PATH: &str = "/testbed/control";
/// Where redirects may lead: whoever asks for it has followed one.
pub const LANDING: &str = "/testbed/landing";

/// Longer than every timeout in a cluster.
const LONGEST_DELAY: u64 = 600_000;
/// More than a test machine has.
const MOST_MILLICORES: u32 = 4_000;
/// Less than a test machine has.
const MOST_MIB: u32 = 1_024;
/// So many different callers and paths are told apart; a test has fewer.
const MOST_KINDS: usize = 256;

/// How an engine is to be. The default is how vLLM is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Control {
    /// Milliseconds before `/v1/models` answers; 0 to 600,000.
    pub models_delay_ms: u64,
    /// Milliseconds before `/metrics` answers; 0 to 600,000.
    pub metrics_delay_ms: u64,
    /// What is accepted and never answered.
    pub hang: Hang,
    /// `/metrics` answers 200 with what is no metrics page.
    pub garbage_metrics: bool,
    /// `/metrics` and `/v1/…` answer 307 with this `Location`, as in `/testbed/landing` or
    /// `http://10.244.0.9:8000/testbed/landing`.
    pub redirect: Option<String>,
    /// What `vllm:num_requests_waiting` shows, whatever waits.
    pub waiting: Option<u32>,
    /// What `vllm:num_requests_running` shows, whatever runs.
    pub running: Option<u32>,
    /// What `vllm:kv_cache_usage_perc` shows, 0 to 1.
    pub kv_cache_usage: Option<f64>,
    /// Thousandths of a core that are used up; 0 to 4,000.
    pub cpu_millicores: u32,
    /// Memory that is held and resident; 0 to 1,024 MiB.
    pub memory_mib: u32,
}

/// Which requests are never answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Hang {
    /// None.
    #[default]
    Nothing,
    /// Those for `/metrics`.
    Metrics,
    /// Those for `/v1/models`.
    Models,
    /// All but those for `/health`: the pod stays ready.
    AllButHealth,
    /// All: the pod becomes unready, and is started again where it has a liveness probe.
    Everything,
}

impl Hang {
    fn takes(self, path: &str) -> bool {
        match self {
            Self::Nothing => false,
            Self::Metrics => path == "/metrics",
            Self::Models => path == "/v1/models",
            Self::AllButHealth => path != "/health",
            Self::Everything => true,
        }
    }
}

impl Control {
    /// What is out of range, in a sentence.
    fn check(&self) -> Result<(), String> {
        let within = |name: &str, value: u64, most: u64| {
            if value > most { Err(format!("{name} is {value}; at most {most} is allowed")) } else { Ok(()) }
        };
        within("modelsDelayMs", self.models_delay_ms, LONGEST_DELAY)?;
        within("metricsDelayMs", self.metrics_delay_ms, LONGEST_DELAY)?;
        within("cpuMillicores", self.cpu_millicores.into(), MOST_MILLICORES.into())?;
        within("memoryMib", self.memory_mib.into(), MOST_MIB.into())?;
        match self.kv_cache_usage {
            Some(usage) if !(0.0..=1.0).contains(&usage) => {
                return Err(format!("kvCacheUsage is {usage}; it is a part of one, from 0 to 1"));
            }
            _ => {}
        }
        match &self.redirect {
            Some(location) if HeaderValue::from_str(location).is_err() => {
                Err(format!("redirect is {location:?}, which no Location header can hold"))
            }
            _ => Ok(()),
        }
    }
}

/// How an engine is, and who has asked it for what.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Seen {
    /// How it is.
    pub control: Control,
    /// Requests since it started.
    pub requests: Vec<Asked>,
    /// Redirects that it has answered.
    pub redirects_answered: u64,
    /// Redirects to its [`LANDING`] that were followed, whoever answered them.
    pub redirects_followed: u64,
}

impl Seen {
    /// Requests for `path`, by anybody.
    pub fn of(&self, path: &str) -> u64 {
        self.requests.iter().filter(|asked| asked.path == path).map(|asked| asked.count).sum()
    }

    /// Requests by callers whose `User-Agent` begins so, for anything.
    pub fn by(&self, agent: &str) -> u64 {
        self.requests.iter().filter(|asked| asked.agent.starts_with(agent)).map(|asked| asked.count).sum()
    }
}

/// Requests of one kind of caller for one path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// The path, without a query.
    pub path: String,
    /// The `User-Agent`; empty where there is none.
    pub agent: String,
    /// How often.
    pub count: u64,
}

/// An engine's control.
#[derive(Debug, Default)]
pub struct Controlled {
    control: Mutex<Control>,
    burden: Burden,
    requests: Mutex<BTreeMap<(String, String), u64>>,
    redirects: AtomicU64,
}

impl Controlled {
    /// How the engine is to be.
    pub fn now(&self) -> Control {
        lock(&self.control).clone()
    }

    fn seen(&self) -> Seen {
        let requests: Vec<_> = lock(&self.requests)
            .iter()
            .map(|((path, agent), count)| Asked { path: path.clone(), agent: agent.clone(), count: *count })
            .collect();
        let mut seen = Seen {
            control: self.now(),
            requests,
            redirects_answered: self.redirects.load(Ordering::Relaxed),
            redirects_followed: 0,
        };
        seen.redirects_followed = seen.of(LANDING);
        seen
    }

    fn count(&self, request: &Request) {
        let agent = request.headers().get(header::USER_AGENT).and_then(|value| value.to_str().ok());
        let key = (request.uri().path().to_owned(), agent.unwrap_or_default().to_owned());
        let mut requests = lock(&self.requests);
        let known = requests.len() < MOST_KINDS || requests.contains_key(&key);
        *requests.entry(if known { key } else { ("others".into(), String::new()) }).or_default() += 1;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Whole between any two statements that hold it.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Answers `GET`.
pub async fn show(State(engine): State<Arc<Engine>>) -> Json<Seen> {
    Json(engine.controlled.seen())
}

/// Answers `PUT`.
pub async fn set(
    State(engine): State<Arc<Engine>>,
    // Whatever the content type: `kubectl replace --raw` states none.
    body: Bytes,
) -> Result<Json<Seen>, (StatusCode, String)> {
    let refused = |why: String| (StatusCode::BAD_REQUEST, why);
    let control: Control = serde_json::from_slice(&body).map_err(|error| refused(error.to_string()))?;
    control.check().map_err(refused)?;
    let own = Arc::clone(&engine);
    tokio::task::spawn_blocking(move || {
        let controlled = &own.controlled;
        let mut held = lock(&controlled.control);
        controlled.burden.hold(control.memory_mib);
        controlled.burden.burn(control.cpu_millicores)?;
        *held = control;
        anyhow::Ok(())
    })
    .await
    .map_err(anyhow::Error::from)
    .flatten()
    .map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}")))?;
    Ok(show(State(engine)).await)
}

/// Counts a request, and treats it as it is told to.
pub async fn intercept(State(engine): State<Arc<Engine>>, request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    if path == PATH {
        return next.run(request).await;
    }
    engine.controlled.count(&request);
    let Control { models_delay_ms, metrics_delay_ms, hang, garbage_metrics, redirect, .. } =
        engine.controlled.now();
    if hang.takes(&path) {
        // It goes when the client hangs up.
        return std::future::pending().await;
    }
    let delay = match path.as_str() {
        "/metrics" => metrics_delay_ms,
        "/v1/models" => models_delay_ms,
        _ => 0,
    };
    tokio::time::sleep(Duration::from_millis(delay)).await;
    let metrics = path == "/metrics";
    if let Some(location) = redirect.filter(|_| metrics || path.starts_with("/v1/")) {
        engine.controlled.redirects.fetch_add(1, Ordering::Relaxed);
        return (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, location)]).into_response();
    }
    if garbage_metrics && metrics {
        return "vllm:num_requests_waiting{engine= NaN\n\u{fffd}<html>}}}} 1e999 not a page".into_response();
    }
    next.run(request).await
}
