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

/// What an event says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// When it was said last.
    pub at: Option<Timestamp>,
    /// Why.
    pub said: String,
}

impl From<&Event> for Refusal {
    fn from(event: &Event) -> Self {
        let at = event.last_timestamp.as_ref().map(|time| time.0);
        Self { at, said: event.message.clone().unwrap_or_default() }
    }
}

/// The newest refusal of each StatefulSet, by its uid, and the event's own name.
type Newest = HashMap<String, (String, Refusal)>;

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

impl Refusals {
    /// The newest of a StatefulSet; an error if it is not known yet whether there is one.
    pub fn of(&self, uid: &str) -> Result<Option<Refusal>, NotListed> {
        let known = self.known();
        let newest = known.newest.as_ref().ok_or(NotListed)?;
        Ok(newest.get(uid).map(|(_, refusal)| refusal.clone()))
    }

    /// Takes in what the watch tells.
    pub fn take(&self, told: &watcher::Event<Event>) {
        let mut known = self.known();
        let Known { newest, listing } = &mut *known;
        match told {
            watcher::Event::Init => listing.clear(),
            watcher::Event::InitApply(event) => put(listing, event),
            watcher::Event::InitDone => *newest = Some(std::mem::take(listing)),
            watcher::Event::Apply(event) => {
                if let Some(newest) = newest {
                    put(newest, event);
                }
            }
            watcher::Event::Delete(event) => {
                let (Some(newest), Some(uid)) = (newest, &event.involved_object.uid) else { return };
                if newest.get(uid).is_some_and(|(name, _)| *name == event.name_any()) {
                    newest.remove(uid);
                }
            }
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // Each step leaves it whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The events have not been listed yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotListed;

fn put(newest: &mut Newest, event: &Event) {
    let Some(uid) = &event.involved_object.uid else { return };
    let refusal = Refusal::from(event);
    if newest.get(uid).is_none_or(|(_, before)| before.at <= refusal.at) {
        newest.insert(uid.clone(), (event.name_any(), refusal));
    }
}

#[cfg(test)]
mod tests {
    use kube::runtime::watcher::Event::{Apply, Delete, Init, InitApply, InitDone};
    use serde_json::json;

    use super::*;

    fn event(name: &str, uid: &str, second: u32) -> Event {
        serde_json::from_value(json!({
            "metadata": {"name": name}, "involvedObject": {"uid": uid}, "message": name,
            "lastTimestamp": format!("2026-01-01T00:00:{second:02}Z"),
        }))
        .unwrap()
    }

    fn said(refusals: &Refusals, uid: &str) -> Option<String> {
        refusals.of(uid).unwrap().map(|refusal| refusal.said)
    }

    #[test]
    fn none_is_known_before_all_are_listed() {
        let refusals = Refusals::default();
        for told in [Init, InitApply(event("a", "u", 1))] {
            refusals.take(&told);
            assert_eq!(refusals.of("u"), Err(NotListed));
        }
        refusals.take(&InitDone);
        assert_eq!((said(&refusals, "u").as_deref(), said(&refusals, "other")), (Some("a"), None));
        // While it is listed anew, what was known is.
        refusals.take(&Init);
        assert_eq!(said(&refusals, "u").as_deref(), Some("a"));
        refusals.take(&InitDone);
        assert_eq!(said(&refusals, "u"), None);
    }

    #[test]
    fn the_newest_counts_until_it_is_gone() {
        let refusals = Refusals::default();
        [Init, InitDone].iter().for_each(|told| refusals.take(told));
        for (told, expected) in [
            (Apply(event("b", "u", 2)), Some("b")),
            (Apply(event("a", "u", 1)), Some("b")),
            (Apply(event("c", "u", 3)), Some("c")),
            (Apply(event("d", "v", 9)), Some("c")),
            // The events of a StatefulSet go by their age.
            (Delete(event("b", "u", 2)), Some("c")),
            (Delete(event("c", "u", 3)), None),
        ] {
            refusals.take(&told);
            assert_eq!(said(&refusals, "u").as_deref(), expected, "{told:?}");
        }
    }
}
