//! `vllm-operator run` that cannot start, run as a kubelet runs it: each reason is said, and has a row in the runbooks.

use std::net::TcpListener;
use std::process::{Command, Stdio};

use regex::Regex;

const RUNBOOKS: &str = include_str!("../../docs/runbooks.md");
const HEADING: &str = "## The operator ends as it starts";
/// An API server that nobody has to reach: the program ends before.
const KUBECONFIG: &str = r#"
apiVersion: v1
kind: Config
clusters: [{name: a, cluster: {server: "https://127.0.0.1:1"}}]
users: [{name: a, user: {token: a}}]
contexts: [{name: a, context: {cluster: a, user: a}}]
current-context: a
"#;

/// What the program says first.
fn said(arguments: &str, kubeconfig: &str) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_vllm-operator"))
        .arg("run")
        .args(arguments.split_whitespace())
        .env_clear()
        .env("HOME", "/nonexistent")
        .env("KUBECONFIG", kubeconfig)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success(), "{arguments}: {said}");
    said.lines().next().unwrap_or_default().to_owned()
}

/// The first cells of the table, as patterns: `…` is anything.
fn rows() -> Vec<(String, Regex)> {
    let (_, section) = RUNBOOKS.split_once(HEADING).unwrap();
    let section = section.split("\n## ").next().unwrap();
    let cells =
        section.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` |")).map(|(cell, _)| cell);
    cells
        .map(|cell| {
            let pattern: Vec<_> = cell.split('…').map(regex::escape).collect();
            (cell.to_owned(), Regex::new(&format!("^{}$", pattern.join(".+"))).unwrap())
        })
        .collect()
}

#[test]
fn each_reason_not_to_start_has_a_row_in_the_runbooks() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("kubeconfig");
    std::fs::write(&file, KUBECONFIG).unwrap();
    let kubeconfig = file.to_str().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = format!("--listen={}", taken.local_addr().unwrap());
    let free = "--listen=127.0.0.1:0 --plain-listen=127.0.0.1:0 --scaler-listen=127.0.0.1:0";
    let provoked = [
        said("--lease-duration=10 --lease-renew-deadline=10", ""),
        said("--lease-renew-deadline=10 --lease-retry-period=9", ""),
        said("--lease-retry-period=0", ""),
        said("--lease-duration=3600", ""),
        said("--leaf-life=10m", ""),
        said("--ca-rotation-lead=1h", ""),
        said("--ca-life=1d", ""),
        said("--tls-cert-file=/nonexistent --tls-key-file=/nonexistent", ""),
        said("--tls-ca-file=/nonexistent", ""),
        said(&format!("{free} --client-ca-file=/nonexistent"), kubeconfig),
        said("", ""),
        said("", "/nonexistent"),
        said(&listen, kubeconfig),
        said("--leaf-life=soon", ""),
        said("--no-such-flag", ""),
        said("--tls-cert-file=/nonexistent", ""),
    ];
    let mut unused = rows();
    let all = rows();
    for words in provoked {
        let row = all.iter().find(|(_, pattern)| pattern.is_match(&words));
        let (cell, _) = row.unwrap_or_else(|| panic!("no row for: {words}"));
        unused.retain(|(other, _)| other != cell);
    }
    assert!(unused.is_empty(), "rows that nothing has provoked: {unused:?}");
}
