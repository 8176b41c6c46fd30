//! Why the StatefulSet controller could not create pods, as its events say, by StatefulSet.
//!
//! A refused pod leaves nothing behind but an event, and the API server has no index of events: to ask it for those of one
//! StatefulSet costs it more the more events there are of anything. So they are watched.
//!
//! Architecture invariant: knows what the watch has told, and of each StatefulSet the newest alone.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Event;
use kube::ResourceExt as _;
use kube::runtime::watcher;

use super::pods::{self, Cause};

/// What an event says. Of two, the newer is the greater; of equally old ones that of the later name, whichever came first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Refusal {
    /// When it was said last.
    pub at: Option<Timestamp>,
    event: String,
    /// Why.
    pub cause: Cause,
}

impl From<&Event> for Refusal {
    fn from(event: &Event) -> Self {
        let at = event.last_timestamp.as_ref().map(|time| time.0);
        let cause = pods::refused(event.message.as_deref().unwrap_or_default());
        Self { at, event: event.name_any(), cause }
    }
}

/// The newest refusal of each StatefulSet, by the namespace of the event and the StatefulSet's uid. Whoever writes events in one
/// namespace has no word in another.
type Newest = HashMap<(String, String), Refusal>;

/// The refusals that are known.
#[derive(Debug, Default)]
pub struct Refusals(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    /// `None` until all have been listed once.
    newest: Option<Newest>,
    /// Those of a list that has not ended yet.
    listing: Newest,
}

/// The events have not been listed yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotListed;

impl Refusals {
    /// The newest of a StatefulSet.
    ///
    /// # Errors
    /// If it is not known yet whether there is one.
    pub fn of(&self, namespace: &str, uid: &str) -> Result<Option<Refusal>, NotListed> {
        let known = self.known();
        let newest = known.newest.as_ref().ok_or(NotListed)?;
        Ok(newest.get(&(namespace.to_owned(), uid.to_owned())).cloned())
    }

    /// Takes in what the watch tells.
    pub fn take(&self, told: &watcher::Event<Event>) {
        let mut known = self.known();
        let Known { newest, listing } = &mut *known;
        match told {
            watcher::Event::Init => listing.clear(),
            watcher::Event::InitApply(event) => put(listing, event),
            watcher::Event::InitDone => *newest = Some(std::mem::take(listing)),
            watcher::Event::Apply(_) | watcher::Event::Delete(_) => {}
        }
        // Of a list, too: a cluster of which it tells is looked at before it has ended.
        match (told, newest) {
            (watcher::Event::InitApply(event) | watcher::Event::Apply(event), Some(newest)) => {
                put(newest, event);
            }
            (watcher::Event::Delete(event), Some(newest)) => remove(newest, event),
            _ => {}
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // Each step leaves it whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Which StatefulSet an event is about; `None` if it does not say.
fn key(event: &Event) -> Option<(String, String)> {
    Some((event.namespace().unwrap_or_default(), event.involved_object.uid.clone()?))
}

fn put(newest: &mut Newest, event: &Event) {
    let (Some(key), refusal) = (key(event), Refusal::from(event)) else { return };
    if newest.get(&key).is_none_or(|before| before.event == refusal.event || *before < refusal) {
        newest.insert(key, refusal);
    }
}

fn remove(newest: &mut Newest, event: &Event) {
    let Some(key) = key(event) else { return };
    if newest.get(&key).is_some_and(|newest| newest.event == event.name_any()) {
        newest.remove(&key);
    }
}

#[cfg(test)]
mod tests {
    use kube::runtime::watcher::Event::{Apply, Delete, Init, InitApply, InitDone};
    use serde_json::json;

    use super::*;

    fn event(name: &str, uid: &str, second: u32) -> Event {
        serde_json::from_value(json!({
            "metadata": {"namespace": "t", "name": name}, "involvedObject": {"uid": uid}, "message": name,
            "lastTimestamp": format!("2026-01-01T00:00:{second:02}Z"),
        }))
        .unwrap()
    }

    fn take_all(refusals: &Refusals, told: impl IntoIterator<Item = watcher::Event<Event>>) {
        for told in told {
            refusals.take(&told);
        }
    }

    fn told(refusals: &Refusals, uid: &str) -> Option<String> {
        refusals.of("t", uid).unwrap().map(|refusal| refusal.cause.message)
    }

    #[test]
    fn none_is_known_before_all_are_listed() {
        let refusals = Refusals::default();
        for listed in [Init, InitApply(event("a", "u", 1))] {
            refusals.take(&listed);
            assert_eq!(refusals.of("t", "u"), Err(NotListed));
        }
        refusals.take(&InitDone);
        assert_eq!((told(&refusals, "u").as_deref(), told(&refusals, "other")), (Some("a"), None));
        // While they are listed anew, what was known is, and what is new.
        refusals.take(&Init);
        refusals.take(&InitApply(event("b", "v", 1)));
        assert_eq!(
            (told(&refusals, "u").as_deref(), told(&refusals, "v").as_deref()),
            (Some("a"), Some("b"))
        );
        refusals.take(&InitDone);
        assert_eq!((told(&refusals, "u").as_deref(), told(&refusals, "v").as_deref()), (None, Some("b")));
    }

    #[test]
    fn the_newest_counts_until_it_is_gone() {
        let refusals = Refusals::default();
        take_all(&refusals, [Init, InitDone]);
        let mut elsewhere = event("z", "u", 9);
        elsewhere.metadata.namespace = Some("of-another".into());
        for (told_of, expected) in [
            (Apply(event("b", "u", 2)), Some("b")),
            (Apply(event("a", "u", 1)), Some("b")),
            (Apply(event("c", "u", 3)), Some("c")),
            (Apply(event("d", "v", 9)), Some("c")),
            (Apply(elsewhere.clone()), Some("c")),
            (Delete(elsewhere), Some("c")),
            // The events of a StatefulSet go by their age.
            (Delete(event("b", "u", 2)), Some("c")),
            (Delete(event("c", "u", 3)), None),
        ] {
            refusals.take(&told_of);
            assert_eq!(told(&refusals, "u").as_deref(), expected, "{told_of:?}");
        }
    }

    #[test]
    fn of_equally_old_ones_the_order_of_arrival_does_not_count() {
        for names in [["a", "b"], ["b", "a"]] {
            let refusals = Refusals::default();
            take_all(&refusals, [Init, InitDone]);
            take_all(&refusals, names.map(|name| Apply(event(name, "u", 1))));
            assert_eq!(told(&refusals, "u").as_deref(), Some("b"));
        }
    }
}
