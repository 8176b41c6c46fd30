//! Who writes a cluster's count beside the controller: autoscalers by what they have read before, people by what they
//! want.

use serde_json::{Value, json};

use super::Schedule;
use crate::admit::harness::{PERSON, Resource, Write};
use crate::admit::schema::complaints;

/// An autoscaler, and the `/scale` that it has read last.
pub struct Scaling {
    user: &'static str,
    read: Option<Value>,
}

impl Scaling {
    pub fn of(user: &'static str) -> Self {
        Self { user, read: None }
    }
}

/// The `/scale` of a cluster.
fn scale_of(cluster: &Value) -> Value {
    let metadata = &cluster["metadata"];
    json!({
        "metadata": {"name": metadata["name"], "namespace": metadata["namespace"], "resourceVersion": metadata["resourceVersion"]},
        "spec": {"replicas": cluster["spec"]["replicas"]},
    })
}

/// The count nearest to this that the bounds of a spec allow.
fn nearest(spec: &Value, count: i64) -> i64 {
    let (min, max) =
        (spec["minReplicas"].as_i64().unwrap_or(1), spec["maxReplicas"].as_i64().unwrap_or(i64::MAX));
    count.min(max).max(min)
}

impl Schedule {
    /// One step of one of the others.
    pub async fn others_write(&mut self) {
        let wish = self.random.i64(0..12);
        match self.random.u8(..10) {
            0..=4 => self.autoscale(wish).await,
            5 | 6 => self.kubectl_scale(wish).await,
            7 => self.apply(|spec| spec["replicas"] = json!(wish), "with a count").await,
            8 => {
                self.apply(
                    |spec| {
                        spec.as_object_mut().unwrap().remove("replicas");
                    },
                    "without a count",
                )
                .await;
            }
            _ => {
                let (min, max) = (self.random.i64(1..5), self.random.i64(4..10));
                let states_count = self.random.bool();
                let bounds = |spec: &mut Value| {
                    (spec["minReplicas"], spec["maxReplicas"]) = (json!(min), json!(max));
                    if !states_count {
                        spec.as_object_mut().unwrap().remove("replicas");
                    }
                };
                self.apply(bounds, "with bounds").await;
            }
        }
    }

    /// An autoscaler reads, or writes what it wishes by what it has read.
    async fn autoscale(&mut self, wish: i64) {
        let which = self.random.usize(..2);
        let stored = self.server.stored();
        let Scaling { user, read } = &mut self.autoscalers[which];
        let user = *user;
        let Some(read) = read.take() else {
            *read = Some(scale_of(&stored));
            return;
        };
        if read["metadata"]["resourceVersion"] != stored["metadata"]["resourceVersion"] {
            self.told.push(format!("{user} wants {wish}: conflict"));
            return;
        }
        let expected = nearest(&stored["spec"], wish);
        let done = self.scale(user, wish, &stored).await;
        assert_eq!(
            done,
            Some(expected),
            "an autoscaler's wish {wish} is moved to the nearest bound and stored"
        );
    }

    /// A person states a count, whatever it is now.
    async fn kubectl_scale(&mut self, wish: i64) {
        let stored = self.server.stored();
        let done = self.scale(PERSON, wish, &stored).await;
        let allowed = nearest(&stored["spec"], wish) == wish;
        assert_eq!(done, allowed.then_some(wish), "a person's count {wish} is taken as it is, or not at all");
    }

    /// Writes `/scale` of the stored cluster, and says what was stored.
    async fn scale(&mut self, user: &'static str, wish: i64, stored: &Value) -> Option<i64> {
        let old = scale_of(stored);
        let mut new = old.clone();
        new["spec"]["replicas"] = json!(wish);
        let write = Write { resource: Resource::Scale, user, new: Some(new), old: Some(old) };
        let mut cluster = stored.clone();
        let admitted = self.admitted(&write).await;
        if let Some(admitted) = &admitted {
            cluster["spec"]["replicas"] = admitted["spec"]["replicas"].clone();
        }
        self.store(admitted.map(|_| cluster), &format!("{user} scales to {wish}"))
    }

    /// Applies the stored cluster with another spec.
    async fn apply(&mut self, change: impl FnOnce(&mut Value), how: &str) {
        let stored = self.server.stored();
        let mut new = stored.clone();
        change(&mut new["spec"]);
        let (count, live) = (new["spec"]["replicas"].as_i64(), stored["spec"]["replicas"].as_i64().unwrap());
        let write =
            Write { resource: Resource::Cluster, user: PERSON, new: Some(new.clone()), old: Some(stored) };
        let admitted = self.admitted(&write).await;
        let done = self.store(admitted, &format!("applied {how}: {}", new["spec"]));
        let expected = match count {
            // Who leaves the count out, or repeats it, leaves the live one alone.
            None => nearest(&new["spec"], live),
            Some(count) if count == live => nearest(&new["spec"], live),
            Some(count) => count,
        };
        assert!(done.is_none_or(|done| done == expected), "stored {done:?}, and {expected} was asked for");
    }

    /// The object as it is to be stored, if both webhooks let it pass.
    async fn admitted(&self, write: &Write) -> Option<Value> {
        let (first, second) = self.plane.write(write).await;
        second.filter(|second| second.allowed)?;
        Some(first.apply(write.new.as_ref()?))
    }

    /// Stores the cluster, if it was admitted and the schema takes it, and says with which count.
    fn store(&mut self, admitted: Option<Value>, what: &str) -> Option<i64> {
        let Some(cluster) = admitted.filter(|cluster| complaints(cluster).is_empty()) else {
            self.told.push(format!("{what}: refused"));
            return None;
        };
        let spec = &cluster["spec"];
        let count = spec["replicas"].as_i64().unwrap();
        assert_eq!(nearest(spec, count), count, "the bounds hold");
        self.server.change(spec);
        self.counts.push(spec["replicas"].clone());
        self.accepted = spec.clone();
        self.told.push(format!("{what}: {count}"));
        Some(count)
    }
}
