//! What can go wrong with a write, at a write of one's choice: between a process and an API server in memory.
//!
//! [`Faulty`] stands in for the network and for the process: it numbers the writes, lets each meet its fault, and
//! starts the process anew when one has killed it. It is for any process that has a client and runs until it ends.
//!
//! Architecture invariant: knows neither who writes nor what is written.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, Response};
use futures::future::BoxFuture;
use kube::Client;
use serde_json::json;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tower::retry::RetryLayer;
use tower::{BoxError, ServiceBuilder};

use crate::pace;
use crate::resume::Resume;

/// When a write arrives that its client has given up: after any timeout of a call, and before the longest retry.
const LATE: Duration = Duration::from_secs(20);

/// How one write goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// The process ends before the write is sent.
    KilledBefore,
    /// The process ends when the write has been made, before it sees the answer.
    KilledAfter,
    /// The write is made; the answer never comes.
    SilenceAfter,
    /// The write is made; the connection breaks before the answer.
    ResetAfter,
    /// The write never arrives, and no answer comes.
    SilenceBefore,
    /// The write never arrives: the connection breaks.
    ResetBefore,
    /// The client hears nothing, and the write is made when it has long given up.
    Late,
    /// Refused with this code; 404 tells of the kind, and 429 when to come again.
    Refused(u16),
    /// Refused, because there is no such namespace.
    NoNamespace,
    /// Refused, because the namespace is going.
    NamespaceGoing,
}

impl Fault {
    pub(crate) const ALL: [Self; 15] = [
        Self::KilledBefore,
        Self::KilledAfter,
        Self::SilenceAfter,
        Self::ResetAfter,
        Self::SilenceBefore,
        Self::ResetBefore,
        Self::Late,
        Self::Refused(404),
        Self::Refused(409),
        Self::Refused(422),
        Self::Refused(429),
        Self::Refused(500),
        Self::Refused(503),
        Self::NoNamespace,
        Self::NamespaceGoing,
    ];
}

/// A write as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Attempt {
    /// Method and path.
    pub(crate) what: String,
    /// Whether it was made.
    pub(crate) made: bool,
}

#[derive(Debug, Default)]
struct State {
    /// By number of the write.
    faults: BTreeMap<usize, Fault>,
    attempts: Vec<Attempt>,
    /// How many processes have been killed: the number of the one that lives.
    killed: usize,
}

type Server = Arc<dyn Fn(Request<kube::client::Body>) -> BoxFuture<'static, Response<Body>> + Send + Sync>;

/// An API server behind faults, by number of the write they are for. A clone is the same.
#[derive(Clone)]
pub(crate) struct Faulty {
    server: Server,
    state: Arc<Mutex<State>>,
    kill: Arc<Notify>,
}

impl Faulty {
    pub(crate) fn new<F>(
        server: impl Fn(Request<kube::client::Body>) -> F + Send + Sync + 'static,
        faults: impl IntoIterator<Item = (usize, Fault)>,
    ) -> Self
    where
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        let state = State { faults: faults.into_iter().collect(), ..State::default() };
        Self {
            server: Arc::new(move |request| Box::pin(server(request))),
            state: Arc::new(Mutex::new(state)),
            kill: Arc::default(),
        }
    }

    /// Keeps a process running, which ends by being killed alone.
    pub(crate) fn run<F>(&self, start: impl Fn(Client) -> F + Send + 'static) -> JoinHandle<()>
    where
        F: Future<Output = ()> + Send,
    {
        let faulty = self.clone();
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    // What has been killed does nothing more.
                    biased;
                    () = faulty.kill.notified() => {}
                    () = start(faulty.client()) => panic!("the process has ended by itself"),
                }
            }
        })
    }

    /// Ends the process at once; another is started.
    pub(crate) fn kill(&self) {
        self.state().killed += 1;
        self.kill.notify_one();
    }

    /// All writes so far.
    pub(crate) fn attempts(&self) -> Vec<Attempt> {
        self.state().attempts.clone()
    }

    /// Waits until nothing has been written for so long: longer than anybody waits for anything. Panics if that never
    /// comes.
    pub(crate) async fn at_rest(&self, quiet: Duration) {
        for _ in 0..20 {
            let before = self.state().attempts.len();
            tokio::time::sleep(quiet).await;
            if self.state().attempts.len() == before {
                return;
            }
        }
        panic!("it never comes to rest: {:#?}", self.attempts());
    }

    /// A client of the process that lives now, with the retries that a client has by default.
    fn client(&self) -> Client {
        let (faulty, life) = (self.clone(), self.state().killed);
        let service = ServiceBuilder::new()
            .layer(Resume::default())
            .layer(RetryLayer::new(pace::repeats()))
            .service_fn(move |request| faulty.clone().pass(life, request));
        Client::new(service, "default")
    }

    async fn pass(
        self,
        life: usize,
        request: Request<kube::client::Body>,
    ) -> Result<Response<Body>, BoxError> {
        if self.state().killed != life {
            return std::future::pending().await;
        }
        if request.method() == "GET" {
            return Ok((self.server)(request).await);
        }
        let what = format!("{} {}", request.method(), request.uri().path());
        let (number, fault) = {
            let mut state = self.state();
            state.attempts.push(Attempt { what, made: false });
            let number = state.attempts.len() - 1;
            (number, state.faults.get(&number).copied())
        };
        match fault {
            None => Ok(self.make(number, request).await),
            Some(Fault::KilledBefore) => {
                self.kill();
                std::future::pending().await
            }
            Some(Fault::KilledAfter) => {
                self.make(number, request).await;
                self.kill();
                std::future::pending().await
            }
            Some(Fault::SilenceAfter) => {
                self.make(number, request).await;
                std::future::pending().await
            }
            Some(Fault::ResetAfter) => {
                self.make(number, request).await;
                Err(io::Error::from(io::ErrorKind::ConnectionReset).into())
            }
            Some(Fault::SilenceBefore) => std::future::pending().await,
            Some(Fault::ResetBefore) => Err(io::Error::from(io::ErrorKind::ConnectionReset).into()),
            Some(Fault::Late) => {
                tokio::spawn(async move {
                    tokio::time::sleep(LATE).await;
                    self.make(number, request).await;
                });
                std::future::pending().await
            }
            Some(Fault::Refused(code)) => Ok(refusal(code, "as scripted")),
            Some(Fault::NoNamespace) => Ok(refusal(404, "namespaces \"t\" not found")),
            Some(Fault::NamespaceGoing) => Ok(refusal(
                403,
                "forbidden: unable to create new content in namespace t because it is being terminated",
            )),
        }
    }

    async fn make(&self, number: usize, request: Request<kube::client::Body>) -> Response<Body> {
        let response = (self.server)(request).await;
        self.state().attempts[number].made = true;
        response
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

/// A failure with this code.
fn refusal(code: u16, message: &str) -> Response<Body> {
    let reason = match code {
        403 => "Forbidden",
        // By this word kube tells an absent object from other failures.
        404 => "NotFound",
        409 => "Conflict",
        429 => "TooManyRequests",
        _ => "Scripted",
    };
    let status =
        json!({"kind": "Status", "status": "Failure", "reason": reason, "message": message, "code": code});
    let mut response = Response::builder().status(code);
    if code == 429 {
        response = response.header("Retry-After", "2");
    }
    response.body(Body::from(status.to_string())).expect("its parts are valid")
}
