//! What is asked: recorded reviews, made to fit the clusters that the servers know.

use anyhow::Context as _;
use bytes::Bytes;
use kube::Resource as _;
use serde_json::{Value, json};
use vllm_operator::api::VLLMCluster;

/// Where the known objects are.
pub const NAMESPACE: &str = "bench";
/// The bounds of every known cluster, and the range of its ScaledObject.
pub const BOUNDS: (i32, i32) = (1, 8);

/// Where the operator judges writes to `/scale`.
pub const SCALE: &str = "/validate/scale";
/// Where it judges ScaledObjects.
pub const SCALED_OBJECT: &str = "/validate/scaledobjects";

/// A review, and what must come of it.
#[derive(Clone, Debug)]
pub struct Payload {
    /// What it is called in the table.
    pub name: &'static str,
    /// Where servers are asked.
    pub path: &'static str,
    /// The review.
    pub body: Bytes,
    /// Whether it is allowed.
    pub allowed: bool,
}

/// Name of a known object.
pub fn name_of(index: usize) -> String {
    format!("c-{index}")
}

/// Reviews about a known cluster and the ScaledObject that drives it, as they are stored: one that is about another version
/// would be judged by what is read live.
pub fn all(cluster: &Value, scaler: &Value) -> anyhow::Result<Vec<Payload>> {
    let scale = |count: i32| -> anyhow::Result<Bytes> {
        let mut review = about(cluster, 1)?;
        review["request"]["object"]["spec"]["replicas"] = json!(count);
        Ok(review.to_string().into())
    };
    let update = |bytes: usize| -> anyhow::Result<Bytes> {
        let mut review = about(cluster, 5)?;
        for version in ["object", "oldObject"] {
            let object = &mut review["request"][version];
            object["spec"] = cluster["spec"].clone();
            // As somebody's environment grows: the same on both sides, since what changes is what is looked at.
            let each = r#"{"name":"VARIABLE_0000","value":"something of some length"},"#.len();
            let variables = (bytes / 2).saturating_sub(900) / each;
            let variable =
                |n| json!({"name": format!("VARIABLE_{n:04}"), "value": "something of some length"});
            object["spec"]["env"] = (0..variables).map(variable).collect();
        }
        review["request"]["object"]["metadata"]["labels"] = json!({"team": "a"});
        Ok(review.to_string().into())
    };
    let range = |least: i32, most: i32| -> anyhow::Result<Bytes> {
        let mut review = about(scaler, 40)?;
        for version in ["object", "oldObject"] {
            review["request"][version]["spec"] = scaler["spec"].clone();
        }
        let spec = &mut review["request"]["object"]["spec"];
        (spec["minReplicaCount"], spec["maxReplicaCount"]) = (json!(least), json!(most));
        Ok(review.to_string().into())
    };
    let (least, most) = BOUNDS;
    let payload = |name, path, body, allowed| Payload { name, path, body, allowed };
    Ok(vec![
        payload("/scale, allowed", SCALE, scale(most - 1)?, true),
        payload("/scale, refused", SCALE, scale(most + 1)?, false),
        payload("VLLMCluster, 8 KB", "/validate/vllmclusters", update(8 << 10)?, true),
        payload("VLLMCluster, 64 KB", "/validate/vllmclusters", update(64 << 10)?, true),
        payload("ScaledObject, allowed", SCALED_OBJECT, range(least, most - 1)?, true),
        // The least is above the most: whoever judges ScaledObjects refuses it.
        payload("ScaledObject, refused", SCALED_OBJECT, range(most, most - 1)?, false),
    ])
}

/// What is in `spec` of every known cluster.
pub fn spec() -> Value {
    let (least, most) = BOUNDS;
    json!({"model": "m1", "replicas": 3, "minReplicas": least, "maxReplicas": most})
}

/// What is in `spec` of every known ScaledObject.
pub fn scaler_spec(cluster: &str) -> Value {
    let (least, most) = BOUNDS;
    let target =
        json!({"apiVersion": VLLMCluster::api_version(&()), "kind": VLLMCluster::kind(&()), "name": cluster});
    json!({
        "scaleTargetRef": target, "minReplicaCount": least, "maxReplicaCount": most,
        "triggers": [{
            "type": "prometheus",
            "metadata": {"serverAddress": "http://prometheus:9090", "query": "sum(vllm:num_requests_waiting)", "threshold": "4"},
        }],
    })
}

/// A recorded review, about this object as it is stored.
fn about(stored: &Value, line: usize) -> anyhow::Result<Value> {
    let recorded = include_str!("../../fixtures/admission-reviews.jsonl");
    let line = recorded.lines().nth(line).context("the recorded reviews have that many lines")?;
    let mut review: Value = serde_json::from_str(line)?;
    let (request, stored) = (&mut review["request"], &stored["metadata"]);
    (request["name"], request["namespace"]) = (stored["name"].clone(), stored["namespace"].clone());
    for version in ["object", "oldObject"] {
        for field in ["name", "namespace", "uid", "resourceVersion"] {
            request[version]["metadata"][field] = stored[field].clone();
        }
    }
    Ok(review)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_are_as_large_as_they_are_called() {
        let stored = |spec: Value| {
            let metadata = json!({
                "name": "c-5", "namespace": NAMESPACE, "resourceVersion": "1000",
                "uid": "a900e446-ac72-4fbb-b733-20eefac6e5a0",
            });
            json!({"metadata": metadata, "spec": spec})
        };
        let all = all(&stored(spec()), &stored(scaler_spec("c-5"))).expect("payloads");
        let sizes: Vec<_> = all.iter().map(|payload| payload.body.len()).collect();
        assert!((1_200..2_000).contains(&sizes[0]), "{sizes:?}");
        assert_eq!(sizes[0], sizes[1]);
        assert!((7_500..8_700).contains(&sizes[2]), "{sizes:?}");
        assert!((63_000..67_000).contains(&sizes[3]), "{sizes:?}");
    }
}
