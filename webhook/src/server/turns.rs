//! Turns at something that costs processor time, the newest comer first.
//!
//! Where more come than there is time for, a queue would give each their turn only when they have given up, or have been
//! displaced, and so nobody. The newest comer is the one who still waits for it.
//!
//! Architecture invariant: a turn that is given up on, before or after it is given, goes to the next.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// So many at a time.
pub(super) struct Turns(Arc<Mutex<Waiting>>);

struct Waiting {
    free: usize,
    /// The newest is the last.
    comers: Vec<oneshot::Sender<Turn>>,
}

/// One's turn, until this is dropped.
pub(super) struct Turn(Option<Arc<Mutex<Waiting>>>);

impl Turns {
    pub fn new(most: usize) -> Self {
        Self(Arc::new(Mutex::new(Waiting { free: most, comers: Vec::new() })))
    }

    /// Waits for a turn.
    pub async fn turn(&self) -> Turn {
        loop {
            let turn = {
                let mut waiting = lock(&self.0);
                if waiting.free > 0 {
                    waiting.free -= 1;
                    return Turn(Some(Arc::clone(&self.0)));
                }
                waiting.comers.retain(|comer| !comer.is_closed());
                let (comer, turn) = oneshot::channel();
                waiting.comers.push(comer);
                turn
            };
            // It is dropped by nobody but those who find its receiver gone.
            if let Ok(turn) = turn.await {
                return turn;
            }
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let Some(turns) = self.0.take() else { return };
        loop {
            let Some(comer) = ({
                let mut waiting = lock(&turns);
                let comer = waiting.comers.pop();
                waiting.free += usize::from(comer.is_none());
                comer
            }) else {
                return;
            };
            match comer.send(Turn(Some(Arc::clone(&turns)))) {
                Ok(()) => return,
                // It is gone: disarmed, since this loop goes on by itself.
                Err(mut turn) => turn.0 = None,
            }
        }
    }
}

fn lock(turns: &Mutex<Waiting>) -> MutexGuard<'_, Waiting> {
    // Each change leaves it whole.
    turns.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::task::Poll;

    use futures::{FutureExt as _, poll};

    use super::*;

    #[tokio::test]
    async fn the_newest_comer_is_next_and_who_has_gone_is_passed_over() {
        let turns = Turns::new(1);
        let first = turns.turn().now_or_never().expect("nobody else is there");
        let mut waiting: Vec<_> = (0..4).map(|_| Box::pin(turns.turn())).collect();
        for comer in &mut waiting {
            assert!(poll!(comer).is_pending());
        }
        drop(waiting.pop());
        drop(first);
        let Poll::Ready(turn) = poll!(&mut waiting[2]) else { panic!("the newest of those who are left") };
        assert!(poll!(&mut waiting[0]).is_pending() && poll!(&mut waiting[1]).is_pending());
        drop(turn);
        // Given, and dropped before it was taken.
        waiting.truncate(2);
        drop(waiting.pop());
        assert!(poll!(&mut waiting[0]).is_ready());
        waiting.clear();
        assert!(turns.turn().now_or_never().is_some(), "it is free again");
    }
}
