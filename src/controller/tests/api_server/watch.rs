//! Lists and watches: what exists of one kind, and what becomes of it, in order.
//!
//! Architecture invariant: pods and core events are none of what is kept here, and each list of them is empty.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Query;
use axum::http::{Response, Uri};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout_at};

use super::{ApiServer, Change, response, seen};

/// Group and version of a path, and what follows them but the namespace: a kind, or a kind and a name.
fn parts(path: &str) -> (String, Vec<&str>) {
    let all: Vec<_> = path.split('/').collect();
    let (group, rest) = all.split_at(if path.starts_with("/api/") { 3 } else { 4 });
    let rest = if rest[0] == "namespaces" && rest.len() > 2 { &rest[2..] } else { rest };
    (group.join("/"), rest.to_vec())
}

/// Whether a path is of one object.
pub fn is_of_one(path: &str) -> bool {
    parts(path).1.len() == 2
}

/// The path of all objects of the kind, in all namespaces, of which this is one.
fn collection(path: &str) -> String {
    let (group, rest) = parts(path);
    format!("{group}/{}", rest[0])
}

/// Which objects are asked for.
struct Asked {
    collection: String,
    /// A label and its value, if one is asked for.
    label: Option<(String, Option<String>)>,
    /// The one name that is asked for, if one is.
    name: Option<String>,
}

impl Asked {
    fn has(&self, path: &str, object: &Value) -> bool {
        let labels = &object["metadata"]["labels"];
        collection(path) == self.collection
            && self.name.as_ref().is_none_or(|name| object["metadata"]["name"] == name.as_str())
            && self.label.as_ref().is_none_or(|(name, value)| match value {
                Some(value) => labels[name] == value.as_str(),
                None => labels[name].is_string(),
            })
    }

    /// The line of a change, for one who asks so. Its type stands first, as in what the real one writes.
    fn event(&self, Change { path, before, after }: &Change, version: usize) -> Option<String> {
        let asked = |object: &Option<Value>| object.clone().filter(|object| self.has(path, object));
        let (kind, mut object) = match (asked(before), asked(after)) {
            (None, None) => return None,
            (None, Some(new)) => ("ADDED", new),
            (Some(_), Some(new)) => ("MODIFIED", new),
            (Some(old), None) => ("DELETED", old),
        };
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        Some(format!(r#"{{"type":"{kind}","object":{object}}}"#) + "\n")
    }
}

impl ApiServer {
    pub(super) fn list_or_watch(&self, uri: &Uri) -> Response<Body> {
        let Query(query) = Query::<BTreeMap<String, String>>::try_from_uri(uri).unwrap();
        let path = uri.path();
        // Of several labels, the first tells enough.
        let label = |selector: &String| {
            let first = selector.split(',').next().unwrap();
            let (name, value) = first.split_once('=').unzip();
            (name.unwrap_or(first).to_owned(), value.map(str::to_owned))
        };
        let name = query.get("fieldSelector").and_then(|fields| fields.strip_prefix("metadata.name="));
        let asked = Asked {
            collection: collection(path),
            label: query.get("labelSelector").map(label),
            name: name.map(str::to_owned),
        };
        if query.get("watch").is_some_and(|watch| watch == "true") {
            let from = query["resourceVersion"].parse().unwrap();
            let life =
                query.get("timeoutSeconds").map(|seconds| Duration::from_secs(seconds.parse().unwrap()));
            return self.watch(asked, from, life);
        }
        let store = self.store();
        let objects = store.objects.iter().map(|(path, stored)| (path, seen(path, &stored.live)));
        let items: Vec<_> =
            objects.filter(|(path, object)| asked.has(path, object)).map(|(_, object)| object).collect();
        let version = store.changes.len().to_string();
        response(200, &json!({"metadata": {"resourceVersion": version}, "items": items}))
    }

    fn watch(&self, asked: Asked, from: usize, life: Option<Duration>) -> Response<Body> {
        let end = life.map(|life| Instant::now() + life);
        let start = (self.clone(), self.told.subscribe(), asked, from, Some(from));
        let events =
            futures::stream::unfold(start, move |(server, mut told, asked, mut next, open)| async move {
                let from = open?;
                let told_of = |line: String| Ok::<_, Infallible>(line);
                loop {
                    let change = server.store().changes.get(next).cloned();
                    if let Some(change) = change {
                        next += 1;
                        let Some(event) = asked.event(&change, next) else { continue };
                        return Some((told_of(event), (server, told, asked, next, open)));
                    }
                    let changed = async { told.changed().await.ok() };
                    let Some(end) = end else {
                        changed.await?;
                        continue;
                    };
                    match timeout_at(end, changed).await {
                        Ok(changed) => changed?,
                        // How far it came, unless the watch is ahead of all that there is: such a one hears nothing.
                        Err(_) if server.store().changes.len() < from => return None,
                        Err(_) => {
                            let metadata = json!({"resourceVersion": next.to_string()});
                            let object = json!({"kind": "Any", "apiVersion": "v1", "metadata": metadata});
                            let bookmark = json!({"type": "BOOKMARK", "object": object});
                            return Some((
                                told_of(format!("{bookmark}\n")),
                                (server, told, asked, next, None),
                            ));
                        }
                    }
                }
            });
        Response::new(Body::from_stream(events))
    }
}
