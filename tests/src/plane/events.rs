//! What the inside of a plane tells its owner: JSON lines on the socket that also says that the owner is alive.
//!
//! **Architecture invariant**: the owner tells nothing back. That its end is open is all the inside wants to know; one byte
//! from it lets a plane go that is to outlive it.

use std::io::Write as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;

use serde::{Deserialize, Serialize};

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// The first process of the plane's PID namespace runs, under this id outside.
    Entered {
        /// Process id in the owner's PID namespace.
        pid: i32,
    },
    /// A step of the start is done.
    Step {
        /// What was reached.
        what: String,
        /// Milliseconds since the inside began.
        after_ms: u64,
    },
    /// The plane is ready.
    Ready,
    /// The plane has come to its end, for this reason.
    Failed {
        /// The reason, with the last lines of the log that shows it.
        why: String,
    },
}

/// Where events go: standard input, which is a socket to the owner.
pub struct Owner(Option<UnixStream>);

impl Owner {
    /// The owner at the other end of standard input, if there is one.
    pub fn at_stdin() -> Self {
        let socket: Option<OwnedFd> = std::io::stdin().as_fd().try_clone_to_owned().ok();
        Self(socket.map(UnixStream::from))
    }

    /// Tells the owner; an owner that is gone or does not listen any more is none of our business here.
    pub fn tell(&self, event: &Event) {
        if let Some(mut socket) = self.0.as_ref()
            && let Ok(mut line) = serde_json::to_vec(event)
        {
            line.push(b'\n');
            let _ = socket.write_all(&line);
        }
    }
}
