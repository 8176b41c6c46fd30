//! Who wrote what: the API server's audit log, as the tests count it. Of reads it has those that tell which clusters the
//! operator has looked at.
//!
//! **Architecture invariant**: read-only, and complete at any time: the API server writes a line before it answers.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;

use anyhow::Context as _;
use serde::Deserialize;

const LEASES: &str = "leases";

/// One request that the API server has answered; a write, where nothing else is said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// `create`, `update`, `patch`, `delete` or `deletecollection`; of reads, `get`.
    pub verb: String,
    /// Plural, with the subresource: `pods/status`.
    pub resource: String,
    /// Empty for cluster-wide resources.
    pub namespace: String,
    /// Empty where the server makes the name.
    pub name: String,
    /// HTTP status of the answer.
    pub code: u16,
    /// The client's user agent.
    pub user_agent: String,
    /// Whether nothing was stored.
    pub dry_run: bool,
    /// The pod whose token the client has, if it is a pod's.
    pub pod: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    stage: String,
    verb: String,
    user: User,
    #[serde(default)]
    user_agent: String,
    #[serde(default, rename = "requestURI")]
    request_uri: String,
    #[serde(default)]
    object_ref: ObjectRef,
    response_status: Option<ResponseStatus>,
}

#[derive(Deserialize)]
struct User {
    #[serde(default)]
    username: String,
    #[serde(default)]
    extra: Extra,
}

#[derive(Default, Deserialize)]
struct Extra {
    #[serde(default, rename = "authentication.kubernetes.io/pod-name")]
    pod_name: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ObjectRef {
    resource: String,
    subresource: String,
    namespace: String,
    name: String,
}

#[derive(Deserialize)]
struct ResponseStatus {
    #[serde(default)]
    code: u16,
}

/// The writes of `user` in the audit log at `path`. Questions that are asked by creating something that is not stored, dry
/// runs among them, are no writes. Leases, which are written all the time, are counted by [`lease_writes`].
pub fn writes(path: &Path, user: &str) -> anyhow::Result<Vec<Write>> {
    let mut requests = requests(path, user, 0)?;
    requests.retain(|request| {
        request.verb != "get"
            && !request.dry_run
            && !["subjectaccessreviews", LEASES].contains(&request.resource.as_str())
    });
    Ok(requests)
}

/// The writes of Leases by `user` in the audit log at `path`.
pub fn lease_writes(path: &Path, user: &str) -> anyhow::Result<Vec<Write>> {
    let mut requests = requests(path, user, 0)?;
    requests.retain(|request| request.verb != "get" && request.resource == LEASES);
    Ok(requests)
}

/// The StatefulSets, by namespace and name, that `user` has read since the log had `length` bytes.
pub fn stateful_sets_read(
    path: &Path,
    user: &str,
    length: u64,
) -> anyhow::Result<BTreeSet<(String, String)>> {
    let requests = requests(path, user, length)?.into_iter();
    let reads = requests.filter(|request| request.verb == "get" && request.resource == "statefulsets");
    Ok(reads.map(|read| (read.namespace, read.name)).collect())
}

fn requests(path: &Path, user: &str, from: u64) -> anyhow::Result<Vec<Write>> {
    let read = || {
        let mut file = File::open(path)?;
        file.seek(SeekFrom::Start(from))?;
        let mut text = Vec::new();
        file.read_to_end(&mut text)?;
        std::io::Result::Ok(text)
    };
    let text = read().with_context(|| format!("reading {}", path.display()))?;
    parse(&String::from_utf8_lossy(&text), user)
}

fn parse(text: &str, user: &str) -> anyhow::Result<Vec<Write>> {
    // A last line without its end is still being written, and so not answered yet.
    let complete = text.rsplit_once('\n').map_or("", |(lines, _)| lines);
    let mut writes = Vec::new();
    for line in complete.lines() {
        let line: Line = serde_json::from_str(line).with_context(|| format!("audit line {line}"))?;
        let Line {
            stage,
            verb,
            user: User { username, extra: Extra { pod_name } },
            user_agent,
            request_uri,
            object_ref,
            response_status,
        } = line;
        if username != user || stage != "ResponseComplete" {
            continue;
        }
        let ObjectRef { resource, subresource, namespace, name } = object_ref;
        let resource = if subresource.is_empty() { resource } else { format!("{resource}/{subresource}") };
        let code = response_status.map_or(0, |status| status.code);
        let dry_run = request_uri.contains("dryRun=All");
        let pod = pod_name.into_iter().next().unwrap_or_default();
        writes.push(Write { verb, resource, namespace, name, code, user_agent, dry_run, pod });
    }
    Ok(writes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_users_answered_writes_are_counted() {
        let line = |user: &str, stage: &str| {
            format!(
                r#"{{"stage":"{stage}","verb":"patch","user":{{"username":"{user}","extra":{{"authentication.kubernetes.io/pod-name":["p"]}}}},"userAgent":"x","objectRef":{{"resource":"pods","namespace":"a","name":"b","subresource":"status"}},"responseStatus":{{"code":200}}}}"#
            )
        };
        let text = format!(
            "{}\n{}\n{}\n{}",
            line("operator", "ResponseComplete"),
            line("other", "ResponseComplete"),
            line("operator", "Panic"),
            &line("operator", "ResponseComplete")[..40],
        );
        let expected = Write {
            verb: "patch".into(),
            resource: "pods/status".into(),
            namespace: "a".into(),
            name: "b".into(),
            code: 200,
            user_agent: "x".into(),
            dry_run: false,
            pod: "p".into(),
        };
        assert_eq!(parse(&text, "operator").expect("readable"), [expected]);
    }
}
