//! What lies between a process and its API server, and the days that it has: what becomes of the watches that are open,
//! and of each request that is made.
//!
//! Architecture invariant: knows the shapes of requests (a list, a watch, a page) and nothing of what is in them.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use axum::body::{Body, Bytes};
use axum::extract::Query;
use axum::http::{Request, Response};
use futures::{StreamExt as _, stream};
use http_body_util::BodyExt as _;
use kube::Client;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tower::retry::RetryLayer;
use tower::util::option_layer;
use tower::{BoxError, ServiceBuilder};

use super::super::api_server::ApiServer;
use crate::leader::Fence;
use crate::pace;
use crate::resume::Resume;

/// What is the matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Day {
    Good,
    /// Watches are told that their version is too old, as soon as they begin.
    Gone,
    /// Likewise, by the code of the answer; and afterwards still, for all that they had seen.
    GoneAtStart,
    /// Lists come by pages, of which none but the first is to be had.
    GoneInPages,
    /// Watches end as soon as they begin.
    Closing,
    /// Nothing comes, and nothing ends.
    Silent,
    /// Connections break and are refused.
    Refused,
    /// All is answered with this code.
    Answered(u16),
    /// All is answered but writes, which are answered with this code; that of the Lease is not.
    WritesAnswered(u16),
    /// There is no such kind.
    NoKind(&'static str),
}

/// What becomes of the watches that are open.
#[derive(Clone, Copy, Debug)]
enum Cut {
    Gone,
    End,
    Break,
    Silence,
}

struct State {
    day: Day,
    /// Older versions than this one are known no more.
    compacted: usize,
    calls: Vec<(Instant, String)>,
}

/// A clone is the same.
#[derive(Clone)]
pub struct Network {
    server: ApiServer,
    state: Arc<Mutex<State>>,
    cut: watch::Sender<Cut>,
}

impl Network {
    pub fn new(server: &ApiServer) -> Self {
        let state = State { day: Day::Good, compacted: 0, calls: Vec::new() };
        Self { server: server.clone(), state: Arc::new(Mutex::new(state)), cut: watch::Sender::new(Cut::End) }
    }

    /// From now on the day is this one.
    pub fn begin(&self, day: Day) {
        let before = std::mem::replace(&mut self.state().day, day);
        if before == Day::GoneAtStart {
            self.state().compacted = self.server.changes();
        }
        let cut = match day {
            // What the day before has left open stays so.
            Day::Good | Day::WritesAnswered(_) => return,
            Day::Gone | Day::GoneInPages => Cut::Gone,
            Day::Refused => Cut::Break,
            Day::Silent => Cut::Silence,
            Day::GoneAtStart | Day::Closing | Day::Answered(_) | Day::NoKind(_) => Cut::End,
        };
        self.cut.send_replace(cut);
    }

    /// When each call since the last look was made, and which it was.
    pub fn calls(&self) -> Vec<(Instant, String)> {
        std::mem::take(&mut self.state().calls)
    }

    /// A client as the process has it: one that repeats, with watches that go on.
    pub fn client(&self, fence: Option<&Fence>) -> Client {
        let network = self.clone();
        let service = ServiceBuilder::new()
            .layer(Resume::default())
            .layer(RetryLayer::new(pace::repeats()))
            .layer(option_layer(fence))
            .map_err(BoxError::from)
            .service_fn(move |request| network.clone().pass(request));
        Client::new(service, "default")
    }

    /// A client that makes each request once.
    pub fn plain_client(&self) -> Client {
        let network = self.clone();
        Client::new(tower::service_fn(move |request| network.clone().pass(request)), "default")
    }

    async fn pass(self, request: Request<kube::client::Body>) -> Result<Response<Body>, BoxError> {
        let uri = request.uri().clone();
        let Query(query) = Query::<BTreeMap<String, String>>::try_from_uri(&uri)?;
        let is_watch = query.contains_key("watch");
        let is_list = request.method() == "GET" && query.contains_key("limit") && !is_watch;
        let (day, compacted) = {
            let mut state = self.state();
            // Who asks without a pause lets no time pass, and would never end.
            assert!(state.calls.len() < 100_000, "a storm of {} {uri}", request.method());
            state.calls.push((Instant::now(), format!("{} {uri}", request.method())));
            (state.day, state.compacted)
        };
        let version = query.get("resourceVersion").and_then(|version| version.parse().ok());
        match day {
            Day::Gone if is_watch => Ok(Response::new(Body::from(gone_event()))),
            Day::GoneAtStart if is_watch => Ok(status(410)),
            _ if is_watch && version.is_some_and(|version: usize| version < compacted) => Ok(status(410)),
            Day::GoneInPages if query.contains_key("continue") => Ok(status(410)),
            Day::GoneInPages if is_list => Ok(first_page(self.server.clone().answer(request).await).await),
            Day::Closing if is_watch => Ok(Response::new(Body::empty())),
            Day::Silent => {
                sleep(pace::READ_TIMEOUT).await;
                Err(io::Error::from(io::ErrorKind::TimedOut).into())
            }
            Day::Refused => Err(io::Error::from(io::ErrorKind::ConnectionRefused).into()),
            Day::Answered(code) => Ok(status(code)),
            Day::WritesAnswered(code) if request.method() != "GET" && !uri.path().contains("/leases") => {
                Ok(status(code))
            }
            Day::NoKind(kind) if uri.path().split('/').any(|part| part == kind) => Ok(status(404)),
            _ if is_watch => Ok(self.watched(self.server.clone().answer(request).await)),
            _ => Ok(self.server.clone().answer(request).await),
        }
    }

    /// A watch, until it is cut.
    fn watched(&self, answer: Response<Body>) -> Response<Body> {
        let mut cut = self.cut.subscribe();
        let cut = Box::pin(async move {
            // The network outlives what passes through it.
            cut.changed().await.ok();
            *cut.borrow()
        });
        answer.map(|body| {
            let events = body.into_data_stream().map(|event| event.map_err(io::Error::other)).boxed();
            let pieces = stream::unfold(Some((events, cut)), |open| async {
                let (mut events, mut cut) = open?;
                tokio::select! {
                    // What was cut says no more of its own.
                    biased;
                    cut = &mut cut => match cut {
                        Cut::End => None,
                        Cut::Gone => Some((Ok(Bytes::from(gone_event())), None)),
                        Cut::Break => Some((Err(io::ErrorKind::ConnectionReset.into()), None)),
                        Cut::Silence => std::future::pending().await,
                    },
                    event = events.next() => Some((event?, Some((events, cut)))),
                }
            });
            Body::from_stream(pieces)
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

fn failure(code: u16) -> Value {
    let reason = match code {
        403 => "Forbidden",
        404 => "NotFound",
        410 => "Expired",
        429 => "TooManyRequests",
        _ => "ServiceUnavailable",
    };
    json!({"kind": "Status", "status": "Failure", "reason": reason, "message": "a bad day", "code": code})
}

fn gone_event() -> String {
    format!("{}\n", json!({"type": "ERROR", "object": failure(410)}))
}

fn status(code: u16) -> Response<Body> {
    let mut response = Response::builder().status(code);
    if code == 429 {
        response = response.header("Retry-After", "1");
    }
    response.body(Body::from(failure(code).to_string())).unwrap()
}

/// The first half of a list, and a token for the rest.
async fn first_page(list: Response<Body>) -> Response<Body> {
    let body = list.into_body().collect().await.unwrap().to_bytes();
    let mut list: Value = serde_json::from_slice(&body).unwrap();
    let items = list["items"].as_array_mut().unwrap();
    items.truncate(items.len() / 2);
    list["metadata"]["continue"] = json!("the rest");
    Response::new(Body::from(list.to_string()))
}
