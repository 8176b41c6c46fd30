//! The loop: does what [`super::decide`] says, and starts and ends what is done under the lease.
//!
//! Architecture invariant: what runs in a term is over, or cut off, before the next term begins; the Lease is given up
//! after that and not before. Each call has a deadline, and none is awaited beyond the end of leading.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use jiff::Timestamp;
use prometheus_client::metrics::gauge::Gauge;
use tokio::task::JoinError;
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

use super::Settings;
use super::decide::{Election, Failure, Loss, Step};
use super::fence::Fence;
use super::record::transitions;
use super::store::{LeaseStore, StoreError};

/// How long what was begun may take when a leader is told to stop: half of the two seconds in which another is to
/// lead.
const FINISH: Duration = Duration::from_secs(1);
/// How often giving up the Lease is tried, where others write it at the same moment.
const RELEASE_TRIES: usize = 3;

/// One that may lead.
pub struct Candidate<S> {
    /// Where the Lease is.
    pub store: S,
    /// The Lease's name.
    pub name: String,
    /// Its name in the Lease: no other process ever has the same.
    pub identity: String,
    /// How long is long.
    pub settings: Settings,
    /// Opened while it leads.
    pub fence: Fence,
    /// 1 while it leads, else 0.
    pub leading: Gauge,
    /// Times in the Lease, for people.
    pub clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
}

/// What was done under the lease ended by itself, which it never should.
#[derive(Debug, thiserror::Error)]
pub enum TermError {
    /// It returned.
    #[error("what is done under the lease ended without being told to")]
    Returned,
    /// It panicked.
    #[error("what is done under the lease ended: {0}")]
    Panicked(#[from] JoinError),
}

/// What is done in one term.
struct Term {
    work: AbortOnDropHandle<()>,
    ending: CancellationToken,
}

/// Leads whenever it can, until `shutdown`; then what was begun is finished and the Lease is given up.
///
/// `lead` is started anew at the beginning of each term, with a token that is cancelled at its end, upon which it is
/// cut off: at once where the lease was lost, a moment later at a shutdown. It is an error if it ends before that: the
/// Lease is given up then, too.
pub async fn run<S, L, W>(
    candidate: &Candidate<S>,
    lead: L,
    shutdown: CancellationToken,
) -> Result<(), TermError>
where
    S: LeaseStore,
    L: Fn(CancellationToken) -> W + Send,
    W: Future<Output = ()> + Send + 'static,
{
    let Candidate { store, identity, settings, .. } = candidate;
    let mut election = Election::new(identity.clone(), *settings, Instant::now());
    let mut term: Option<Term> = None;
    let mut vacancies = store.vacancies();
    let mut calls = Calls { candidate, last_failure: None, is_unclear: false };
    let ended = loop {
        match election.next(Instant::now()) {
            // Each arm is cancellation-safe: what is dropped is a wait.
            Step::Wait(until) => tokio::select! {
                biased;
                () = shutdown.cancelled() => break Ok(()),
                error = failed(&mut term) => break Err(error),
                Some(()) = vacancies.next() => election.vacated(Instant::now()),
                () = sleep_until(until) => {}
            },
            Step::Resign(loss) => {
                candidate.stopped(loss, identity);
                if let Some(term) = term.take() {
                    term.cut_off().await;
                }
                vacancies = store.vacancies();
                election.resigned();
            }
            step => {
                calls.make(&step, &mut election).await;
                if let Some(until) = election.leading_until().filter(|until| Instant::now() < *until) {
                    candidate.fence.open_until(until);
                    if term.is_none() {
                        candidate.leading.set(1);
                        info!(identity, lease = candidate.name, "leading");
                        term = Some(Term::start(&lead));
                        // It would fill with our own renewals.
                        vacancies = futures::stream::pending().boxed();
                    }
                }
            }
        }
    };
    if let Some(term) = term {
        let deadline = Instant::now() + FINISH;
        term.finish(election.leading_until().map_or(deadline, |until| until.min(deadline))).await;
    }
    candidate.fence.close();
    if candidate.leading.set(0) == 1 {
        info!(identity, "not leading any more: stopping");
        calls.is_unclear = true;
    }
    calls.release(&election).await;
    ended
}

impl<S> Candidate<S> {
    /// Nothing more is sent from here on.
    fn stopped(&self, loss: Loss, identity: &str) {
        self.fence.close();
        if self.leading.set(0) == 1 {
            warn!(identity, reason = %loss, "not leading any more");
        }
    }
}

impl Term {
    fn start<W: Future<Output = ()> + Send + 'static>(lead: impl Fn(CancellationToken) -> W) -> Self {
        let ending = CancellationToken::new();
        Self { work: AbortOnDropHandle::new(tokio::spawn(lead(ending.clone()))), ending }
    }

    async fn cut_off(self) {
        self.ending.cancel();
        self.work.abort();
        let _ = self.work.await;
    }

    async fn finish(mut self, deadline: Instant) {
        self.ending.cancel();
        if timeout_at(deadline, &mut self.work).await.is_err() {
            warn!("what was begun is not finished; cutting it off");
            self.cut_off().await;
        }
    }
}

/// Resolves when the work of a term is over, and ends the term by that.
async fn failed(term: &mut Option<Term>) -> TermError {
    let Some(Term { work, .. }) = term else { return std::future::pending().await };
    let ended = work.await;
    *term = None;
    ended.map_or_else(TermError::Panicked, |()| TermError::Returned)
}

/// The calls of one candidate, and what was last told of them.
struct Calls<'a, S> {
    candidate: &'a Candidate<S>,
    /// Whether it was of a read, and why.
    last_failure: Option<(bool, String)>,
    /// Whether the last write may have been stored without our knowing.
    is_unclear: bool,
}

impl<S: LeaseStore> Calls<'_, S> {
    /// Makes the call of a step, and tells the election of it.
    async fn make(&mut self, step: &Step, election: &mut Election) {
        let made =
            if *step == Step::Read { self.read(election).await } else { self.write(step, election).await };
        let failure = match made {
            Ok(()) => return,
            Err(StoreError::Conflict) => Failure::Conflict,
            Err(StoreError::Failed(why)) => {
                // A lasting trouble is one line.
                let failed = Some((*step == Step::Read, why));
                if self.last_failure != failed
                    && let Some((_, why)) = &failed
                {
                    warn!("{why}; trying again");
                }
                self.last_failure = failed;
                Failure::Unclear
            }
        };
        election.failed(failure, Instant::now(), fastrand::f64());
    }

    async fn read(&mut self, election: &mut Election) -> Result<(), StoreError> {
        let deadline = election.call_deadline(Instant::now());
        let found = bounded(deadline, self.candidate.store.read()).await?;
        election.read(found, Instant::now(), fastrand::f64());
        if self.last_failure.as_ref().is_some_and(|(of_read, _)| *of_read) {
            self.last_failure = None;
            info!("the Lease is read again");
        }
        Ok(())
    }

    async fn write(&mut self, step: &Step, election: &mut Election) -> Result<(), StoreError> {
        let Candidate { store, name, identity, clock, .. } = self.candidate;
        let lease = election.lease(name, clock());
        let sent = Instant::now();
        let deadline = election.call_deadline(sent);
        let written = match step {
            Step::Create => bounded(deadline, store.create(lease)).await,
            _ => bounded(deadline, store.replace(lease)).await,
        };
        self.is_unclear = matches!(written, Err(StoreError::Failed(_)));
        let lease = written?;
        if *step != Step::Renew {
            info!(identity, transitions = transitions(&lease), "took the lease");
        }
        election.written(lease, sent, Instant::now());
        if self.last_failure.take().is_some() {
            info!("the Lease is written again");
        }
        Ok(())
    }

    /// Gives the Lease up, if it is ours: others need not wait for its end then.
    async fn release(&self, election: &Election) {
        let Candidate { store, identity, settings, clock, .. } = self.candidate;
        let mut known = election.release(clock());
        if known.is_none() && !self.is_unclear {
            return;
        }
        let mut election = election.clone();
        for _ in 0..RELEASE_TRIES {
            let deadline = Instant::now() + settings.call_timeout();
            let lease = match known.take() {
                Some(lease) => lease,
                None => match bounded(deadline, store.read()).await {
                    Ok(found) => {
                        election.read(found, Instant::now(), 0.0);
                        let Some(lease) = election.release(clock()) else { return };
                        lease
                    }
                    Err(error) => return warn!(%error, "the lease is not given up; others wait for its end"),
                },
            };
            match bounded(deadline, store.replace(lease)).await {
                Ok(_) => return info!(identity, "gave up the lease"),
                Err(StoreError::Conflict) => {}
                Err(error) => return warn!(%error, "the lease is not given up; others wait for its end"),
            }
        }
    }
}

async fn bounded<T>(
    deadline: Instant,
    call: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    match timeout_at(deadline, call).await {
        Ok(answer) => answer,
        Err(_) => Err(StoreError::Failed("the API server does not answer about the Lease in time".into())),
    }
}
