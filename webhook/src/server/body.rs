//! What may be held of bodies: a budget in bytes that all connections share.
//!
//! Counted from a part's coming until its request is answered, since whoever decides has the body until then.
//!
//! Architecture invariant: no clock, and nothing of HTTP but the stream of a body's parts. A body within
//! [`ORDINARY_BODY`] never waits.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use axum::body::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::PollSemaphore;

use super::ORDINARY_BODY;
use super::connection::BUFFER;
use super::open::OpenConnection;

/// What is counted at once: no part is longer than the buffer it comes from.
const STEP: usize = BUFFER;
/// What keeping a part costs besides its bytes, so that a body in chunks of one byte does not pass for a small one.
const PART: usize = 64;

/// What may be held for all.
pub(super) struct Budget(Arc<Semaphore>);

impl Budget {
    /// So many bytes, in whole steps.
    pub fn new(bytes: usize) -> Self {
        Self(Arc::new(Semaphore::new(bytes / STEP)))
    }

    /// For one request, until this is dropped.
    pub fn open(&self) -> Arc<Held> {
        Arc::new(Held { budget: Arc::clone(&self.0), steps: Mutex::default() })
    }
}

/// What is held for one request.
pub(super) struct Held {
    budget: Arc<Semaphore>,
    steps: Mutex<Option<OwnedSemaphorePermit>>,
}

impl Held {
    fn add(&self, step: OwnedSemaphorePermit) {
        let mut steps = self.steps.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *steps {
            Some(steps) => steps.merge(step),
            none => *none = Some(step),
        }
    }
}

/// A body that counts what comes.
pub(super) struct Metered {
    body: Incoming,
    held: Arc<Held>,
    connection: Arc<OpenConnection>,
    turn: PollSemaphore,
    /// What may still come before the next step.
    room: usize,
    /// Whether a step is being waited for.
    waits: bool,
}

impl Metered {
    pub fn new(body: Incoming, held: Arc<Held>, connection: Arc<OpenConnection>) -> Self {
        let turn = PollSemaphore::new(Arc::clone(&held.budget));
        if body.is_end_stream() {
            connection.sent();
        }
        Self { body, held, connection, turn, room: ORDINARY_BODY, waits: false }
    }

    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let poll = self.turn.poll_acquire(cx);
        if poll.is_pending() && !self.waits {
            // One that goes leaves a step at least, and each that waits sends one away.
            self.waits = true;
            self.connection.displace_holder();
        }
        // It is never closed.
        if let Some(step) = ready!(poll) {
            self.held.add(step);
            self.connection.holds();
        }
        self.waits = false;
        self.room += STEP;
        Poll::Ready(())
    }
}

impl Body for Metered {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if self.room == 0 {
            ready!(self.poll_room(cx));
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(Ok(part)) = &frame {
            let length = part.data_ref().map_or(0, Bytes::len);
            self.room = self.room.saturating_sub(length + PART);
        }
        if frame.is_none() || self.body.is_end_stream() {
            self.connection.sent();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
