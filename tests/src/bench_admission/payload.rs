//! What is asked: recorded reviews, made to fit the clusters that the servers know.

use anyhow::Context as _;
use bytes::Bytes;
use serde_json::{Value, json};

/// Where the known objects are.
pub const NAMESPACE: &str = "bench";
/// The bounds of every known cluster, and the range of its ScaledObject.
pub const BOUNDS: (i32, i32) = (1, 8);

/// A review, and what must come of it.
#[derive(Clone, Debug)]
pub struct Payload {
    /// What it is called in the table.
    pub name: &'static str,
    /// Where servers are asked.
    pub path: &'static str,
    /// The review.
    pub body: Bytes,
    /// Whether whoever has the rule allows it.
    pub allowed: bool,
}

/// Name of a known object.
pub fn name_of(index: usize) -> String {
    format!("c-{index}")
}

/// Reviews about the cluster of this name.
pub fn all(cluster: &str) -> anyhow::Result<Vec<Payload>> {
    let scale = |count: i32| -> anyhow::Result<Bytes> {
        let mut review = about(cluster, 1)?;
        review["request"]["object"]["spec"]["replicas"] = json!(count);
        Ok(review.to_string().into())
    };
    let update = |bytes: usize| -> anyhow::Result<Bytes> {
        let mut review = about(cluster, 5)?;
        for version in ["object", "oldObject"] {
            let object = &mut review["request"][version];
            object["spec"] = spec();
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
    let (_, most) = BOUNDS;
    let payload = |name, path, body, allowed| Payload { name, path, body, allowed };
    Ok(vec![
        payload("/scale, allowed", "/validate/scale", scale(most - 1)?, true),
        payload("/scale, refused", "/validate/scale", scale(most + 1)?, false),
        payload("VLLMCluster, 8 KB", "/validate/vllmclusters", update(8 << 10)?, true),
        payload("VLLMCluster, 64 KB", "/validate/vllmclusters", update(64 << 10)?, true),
    ])
}

/// What is in `spec` of every known cluster.
pub fn spec() -> Value {
    let (least, most) = BOUNDS;
    json!({"model": "m1", "replicas": 3, "minReplicas": least, "maxReplicas": most})
}

/// A recorded review, about the cluster of this name.
fn about(cluster: &str, line: usize) -> anyhow::Result<Value> {
    let recorded = include_str!("../../fixtures/admission-reviews.jsonl");
    let line = recorded.lines().nth(line).context("the recorded reviews have that many lines")?;
    let mut review: Value = serde_json::from_str(line)?;
    let request = &mut review["request"];
    (request["name"], request["namespace"]) = (json!(cluster), json!(NAMESPACE));
    for version in ["object", "oldObject"] {
        let metadata = &mut request[version]["metadata"];
        (metadata["name"], metadata["namespace"]) = (json!(cluster), json!(NAMESPACE));
    }
    Ok(review)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_are_as_large_as_they_are_called() {
        let sizes: Vec<_> = all("c-5").expect("payloads").iter().map(|payload| payload.body.len()).collect();
        assert!((1_200..2_000).contains(&sizes[0]), "{sizes:?}");
        assert_eq!(sizes[0], sizes[1]);
        assert!((7_500..8_700).contains(&sizes[2]), "{sizes:?}");
        assert!((63_000..67_000).contains(&sizes[3]), "{sizes:?}");
    }
}
