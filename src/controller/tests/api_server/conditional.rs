//! Writes that are made on what was read before, or not at all; and a store that goes back to what it was.
//!
//! Architecture invariant: the version alone decides.

use serde_json::Value;

use super::{ApiServer, Store, Stored, failure, not_found, seen};

type Written = Result<Value, (u16, Value)>;

/// What a server held at some moment.
pub struct Snapshot(Store);

impl ApiServer {
    /// What there is now.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot(self.store().clone())
    }

    /// Goes back to what was, versions included.
    pub fn restore(&self, snapshot: Snapshot) {
        self.write(|store| *store = snapshot.0);
    }

    /// How many changes there were: the version of a list.
    pub fn changes(&self) -> usize {
        self.store().changes.len()
    }

    /// An object as a reader sees it.
    pub fn object(&self, path: &str) -> Option<Value> {
        self.store().objects.get(path).map(|stored| seen(path, &stored.live))
    }

    /// Makes an object in place of what is there under this path.
    pub fn put(&self, path: &str, object: &Value) {
        self.edit(path, |live| *live = object.clone());
    }

    pub(super) fn create_new(&self, collection: &str, object: Value) -> Written {
        let path = format!("{collection}/{}", object["metadata"]["name"].as_str().unwrap());
        self.stored_as(&path, |before| match before {
            None => Ok(object),
            Some(_) => Err((409, failure(409, "AlreadyExists", "it exists"))),
        })
    }

    pub(super) fn replace(&self, path: &str, object: Value) -> Written {
        self.stored_as(path, |before| {
            let before = before.ok_or_else(|| (404, not_found(path)))?;
            if before["metadata"]["resourceVersion"] == object["metadata"]["resourceVersion"] {
                Ok(object)
            } else {
                Err((409, failure(409, "Conflict", "the version is another")))
            }
        })
    }

    pub(super) fn patch(&self, path: &str, operations: Value) -> Written {
        let operations: json_patch::Patch = serde_json::from_value(operations).unwrap();
        self.stored_as(path, |before| {
            let mut object = before.ok_or_else(|| (404, not_found(path)))?;
            json_patch::patch(&mut object, &operations)
                .map_err(|error| (422, failure(422, "Invalid", &error.to_string())))?;
            Ok(object)
        })
    }

    /// Stores what becomes of what is there.
    fn stored_as(&self, path: &str, after: impl FnOnce(Option<Value>) -> Written) -> Written {
        self.write(|store| {
            let live = after(store.objects.get(path).map(|stored| stored.live.clone()))?;
            store.put(path, Stored { live, ..Stored::default() });
            Ok(store.objects[path].live.clone())
        })
    }
}
