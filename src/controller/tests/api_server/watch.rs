//! Lists and watches: what exists of one kind, and what becomes of it, in order.
//!
//! Architecture invariant: pods and core events are none of what is kept here, and each list of them is empty.

use std::collections::BTreeMap;
use std::convert::Infallible;

use axum::body::Body;
use axum::extract::Query;
use axum::http::{Response, Uri};
use serde_json::{Value, json};

use super::{ApiServer, Change, response, seen};

/// Whether a path is of one object.
pub fn is_of_one(path: &str) -> bool {
    path.split_once("/namespaces/").is_some_and(|(_, rest)| rest.split('/').count() == 3)
}

/// The path of all objects of the kind, in all namespaces, of which this is one.
fn collection(path: &str) -> String {
    let (group, rest) = path.split_once("/namespaces/").unwrap();
    format!("{group}/{}", rest.split('/').nth(1).unwrap())
}

/// Which objects are asked for.
struct Asked {
    collection: String,
    /// A label and its value, if one is asked for.
    label: Option<(String, String)>,
}

impl Asked {
    fn has(&self, path: &str, object: &Value) -> bool {
        let labels = &object["metadata"]["labels"];
        collection(path) == self.collection
            && self.label.as_ref().is_none_or(|(name, value)| labels[name] == value.as_str())
    }

    /// The event of a change, for one who asks so.
    fn event(&self, Change { path, before, after }: &Change, version: usize) -> Option<Value> {
        let asked = |object: &Option<Value>| object.clone().filter(|object| self.has(path, object));
        let (kind, mut object) = match (asked(before), asked(after)) {
            (None, None) => return None,
            (None, Some(new)) => ("ADDED", new),
            (Some(_), Some(new)) => ("MODIFIED", new),
            (Some(old), None) => ("DELETED", old),
        };
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        Some(json!({"type": kind, "object": object}))
    }
}

impl ApiServer {
    pub(super) fn list_or_watch(&self, uri: &Uri) -> Response<Body> {
        let Query(query) = Query::<BTreeMap<String, String>>::try_from_uri(uri).unwrap();
        let path = uri.path();
        let selector = query.get("labelSelector").and_then(|selector| selector.split_once('='));
        let asked = Asked {
            collection: if path.contains("/namespaces/") { collection(path) } else { path.to_owned() },
            label: selector.map(|(name, value)| (name.to_owned(), value.to_owned())),
        };
        if query.get("watch").is_some_and(|watch| watch == "true") {
            let from = query["resourceVersion"].parse().unwrap();
            return self.watch(asked, from);
        }
        let store = self.store();
        let objects = store.objects.iter().map(|(path, stored)| (path, seen(path, &stored.live)));
        let items: Vec<_> =
            objects.filter(|(path, object)| asked.has(path, object)).map(|(_, object)| object).collect();
        let version = store.changes.len().to_string();
        response(200, &json!({"metadata": {"resourceVersion": version}, "items": items}))
    }

    fn watch(&self, asked: Asked, from: usize) -> Response<Body> {
        let start = (self.clone(), self.told.subscribe(), asked, from);
        let events = futures::stream::unfold(start, |(server, mut told, asked, mut next)| async move {
            loop {
                let change = server.store().changes.get(next).cloned();
                match change {
                    Some(change) => {
                        next += 1;
                        let Some(event) = asked.event(&change, next) else { continue };
                        let line = Ok::<_, Infallible>(format!("{event}\n"));
                        return Some((line, (server, told, asked, next)));
                    }
                    None => {
                        told.changed().await.ok()?;
                    }
                }
            }
        });
        Response::new(Body::from_stream(events))
    }
}
