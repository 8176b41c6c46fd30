//! `vllm-operator lint`, run as a user runs it.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

/// What one run left.
struct Run {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Run {
    /// All that a user sees, for a snapshot.
    fn seen(&self) -> String {
        let Self { code, stdout, stderr } = self;
        format!("{stdout}=== standard error\n{stderr}=== exit code {code}\n")
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Runs the program in the folder of fixtures.
fn lint_with(arguments: &[&str], stdin: &str) -> Run {
    let mut child = Command::new(env!("CARGO_BIN_EXE_vllm-operator"))
        .arg("lint")
        .args(arguments)
        .current_dir(root().join("tests/fixtures/lint"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It may end without reading what it was not told to read.
    let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Run { code: output.status.code().unwrap(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

fn lint(arguments: &[&str]) -> Run {
    lint_with(arguments, "")
}

fn fixture(name: &str) -> String {
    std::fs::read_to_string(root().join("tests/fixtures/lint").join(name)).unwrap()
}

#[test]
fn the_samples_pass() {
    let run = lint(&["../../../deploy/samples"]);
    assert_eq!((run.code, run.stderr.as_str()), (0, ""), "{}", run.stdout);
    assert!(run.stdout.ends_with("7 manifests: 0 refusals, 0 warnings\n"), "{}", run.stdout);
}

#[test]
fn the_original_manifests() {
    insta::assert_snapshot!(lint(&["original.yaml"]).seen());
}

#[test]
fn what_is_refused() {
    insta::assert_snapshot!(lint(&["refused.yaml"]).seen());
}

#[test]
fn json_has_the_same_findings() {
    let run = lint(&["--output", "json", "refused.yaml"]);
    assert_eq!((run.code, run.stderr.as_str()), (1, ""));
    let findings: Value = serde_json::from_str(&run.stdout).unwrap();
    let text = lint(&["refused.yaml"]).stdout;
    for finding in findings.as_array().unwrap() {
        let fields: Vec<_> = finding.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(
            fields,
            [
                "column",
                "document",
                "field",
                "file",
                "kind",
                "line",
                "message",
                "name",
                "namespace",
                "rule",
                "severity"
            ]
        );
        let (rule, message) = (finding["rule"].as_str().unwrap(), finding["message"].as_str().unwrap());
        let shown = format!("--> refused.yaml:{}:{}\n", finding["line"], finding["column"]);
        assert!(
            text.contains(&format!("[{rule}]: ")) && text.contains(message) && text.contains(&shown),
            "{finding}"
        );
        let severity = finding["severity"].as_str().unwrap();
        assert!(["refusal", "warning"].contains(&severity), "{finding}");
    }
    let refusals =
        findings.as_array().unwrap().iter().filter(|finding| finding["severity"] == "refusal").count();
    assert!(text.contains(&format!("{refusals} refusals")), "{text}");
}

#[test]
fn standard_input_is_judged_in_the_world_of_the_files() {
    let cluster = "apiVersion: training.distributed-inference.io/v1alpha1\nkind: VLLMCluster\nmetadata: {name: my-vllm-cluster}\nspec: {maxReplicas: 2}\n";
    let run = lint_with(&["--output=json", "-", "original.yaml"], cluster);
    let findings: Value = serde_json::from_str(&run.stdout).unwrap();
    let rules = |file: &str| -> Vec<&str> {
        let of_file = findings.as_array().unwrap().iter().filter(|finding| finding["file"] == file);
        of_file.map(|finding| finding["rule"].as_str().unwrap()).collect()
    };
    assert!(rules("-").contains(&"cluster/narrower-than-scaled-object"), "{findings:#}");
    assert!(rules("original.yaml").contains(&"scaled-object/wider-than-cluster"), "{findings:#}");
    assert!(rules("original.yaml").contains(&"manifest/duplicate"), "{findings:#}");
}

#[test]
fn the_namespace_of_manifests_that_name_none() {
    let cluster = "apiVersion: training.distributed-inference.io/v1alpha1\nkind: VLLMCluster\nmetadata: {name: a, namespace: models}\n---\napiVersion: training.distributed-inference.io/v1alpha1\nkind: VLLMCluster\nmetadata: {name: a}\n";
    assert_eq!(lint_with(&["-"], cluster).code, 0);
    let run = lint_with(&["--namespace", "models", "-"], cluster);
    assert_eq!(run.code, 1);
    assert!(run.stdout.contains("refused[manifest/duplicate]"), "{}", run.stdout);
}

#[test]
fn what_cannot_be_read_is_told_and_the_rest_is_judged() {
    let run = lint(&["missing.yaml", "broken/tab.yaml", "refused.yaml"]);
    assert_eq!(run.code, 2);
    assert!(run.stdout.contains("refused[scale/above-maximum]"), "{}", run.stdout);
    insta::assert_snapshot!(run.stderr);
}

#[test]
fn a_folder_without_manifests_was_not_checked() {
    let empty = tempfile::tempdir().unwrap();
    let run = lint(&[empty.path().to_str().unwrap()]);
    assert_eq!(run.code, 2);
    assert!(run.stderr.contains("nothing in it was checked"), "{}", run.stderr);
    std::fs::write(empty.path().join("a.yml"), [0xff, 0xfe]).unwrap();
    let run = lint(&[empty.path().to_str().unwrap()]);
    assert_eq!(run.code, 2);
    assert!(run.stderr.contains("it is no UTF-8 text"), "{}", run.stderr);
}

#[test]
fn folders_are_read_to_the_ground_in_the_order_of_names() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("b")).unwrap();
    let write = |name: &str, count: i32| {
        let text = format!(
            "{{\"apiVersion\": \"training.distributed-inference.io/v1alpha1\", \"kind\": \"VLLMCluster\", \"metadata\": {{\"name\": \"n{count}\"}}, \"spec\": {{\"replicas\": 0}}}}"
        );
        std::fs::write(folder.path().join(name), text).unwrap();
    };
    for (name, count) in [("c.yaml", 3), ("b/x.json", 2), ("a.yml", 1), ("notes.txt", 4)] {
        write(name, count);
    }
    let path = folder.path().to_str().unwrap();
    // A file that is named twice is read once.
    let run = lint(&["-o", "json", path, &format!("{path}/a.yml")]);
    let findings: Value = serde_json::from_str(&run.stdout).unwrap();
    let names: Vec<_> =
        findings.as_array().unwrap().iter().map(|finding| finding["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["n1", "n2", "n3"]);
}

#[test]
fn fix_prints_the_manifests_alone() {
    let run = lint(&["--fix", "original.yaml"]);
    assert_eq!(run.code, 1);
    assert_eq!(run.stderr, lint(&["original.yaml"]).stdout);
    insta::assert_snapshot!(run.stdout);
    // What was rewritten is gone from the warnings, and there is nothing more to rewrite.
    let again = lint_with(&["--fix", "-"], &run.stdout);
    assert_eq!(again.stdout, run.stdout);
    assert!(!again.stderr.contains("older form"), "{}", again.stderr);
}

#[test]
fn fix_writes_what_the_operator_answers_in_every_layout() {
    let head = "apiVersion: keda.sh/v1alpha1\nkind: ScaledObject\nmetadata: {name: q}\nspec:\n  scaleTargetRef: {apiVersion: training.distributed-inference.io/v1alpha1, kind: VLLMCluster, name: a}\n  minReplicaCount: 1\n  triggers:\n";
    let address = "scalerAddress: \"vllm-operator-scaler.vllm-operator-system.svc:443\"";
    let reference = "authenticationRef: {kind: ClusterTriggerAuthentication, name: vllm-operator-scaler}";
    for (older, newer) in [
        (
            "  - {type: http, metadata: {url: 'http://x/', targetValue: '5'}} # x\n".to_owned(),
            format!(
                "  - {{type: external, metricType: Value, {reference}, metadata: {{targetValue: '5', {address}, signal: response-time, path: \"/\"}}}} # x\n"
            ),
        ),
        (
            "  - metadata:\n      url: http://x # from where\n      targetValue: '5'\n    name: time\n    type: \"http\"\n".to_owned(),
            format!(
                "  - metadata:\n      targetValue: '5'\n      {address}\n      signal: response-time\n      path: \"/v1/models\"\n    name: time\n    type: external\n    metricType: Value\n    {reference}\n"
            ),
        ),
        (
            format!("  - type: external # ours\n    metadata: {{{address}, signal: queue, targetValue: '5'}}\n"),
            format!(
                "  - type: external # ours\n    metricType: AverageValue\n    {reference}\n    metadata: {{{address}, signal: queue, targetValue: '5'}}\n"
            ),
        ),
    ] {
        let run = lint_with(&["--fix", "-"], &(head.to_owned() + &older));
        assert_eq!(run.stdout, head.to_owned() + &newer, "{}", run.stderr);
        let again = lint_with(&["--fix", "-"], &run.stdout);
        assert_eq!((again.code, again.stdout), (0, run.stdout), "{}", again.stderr);
        assert!(again.stderr.ends_with("1 manifest: 0 refusals, 1 warning\n"), "{}", again.stderr);
    }
}

#[test]
fn fix_leaves_all_else_as_it_is() {
    for name in ["refused.yaml", "../../../deploy/samples/scaledobject.yaml"] {
        assert_eq!(lint(&["--fix", name]).stdout, fixture(name));
    }
    let marked = format!("\u{feff}{}", fixture("original.yaml").replace('\n', "\r\n"));
    let fixed = lint_with(&["--fix", "-"], &marked).stdout;
    assert!(fixed.starts_with('\u{feff}') && !fixed.replace("\r\n", "").contains('\n'), "{fixed:?}");
    assert_eq!(
        fixed.replace("\r\n", "\n").trim_start_matches('\u{feff}'),
        lint(&["--fix", "original.yaml"]).stdout
    );
}

#[test]
fn fix_prints_nothing_where_not_all_could_be_read() {
    let run = lint(&["--fix", "original.yaml", "broken/tab.yaml"]);
    assert_eq!((run.code, run.stdout.as_str()), (2, ""));
    assert!(run.stderr.contains("no manifests are printed"), "{}", run.stderr);
}

#[test]
fn the_readme_shows_what_is_printed() {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let section =
        readme.split("\n## ").find(|section| section.starts_with("Check manifests before a commit")).unwrap();
    let shown = section.split("```console\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let (command, shown) = shown.split_once('\n').unwrap();
    assert_eq!(command, "$ vllm-operator lint manifests/");
    let folder = tempfile::tempdir().unwrap();
    let manifests = folder.path().join("manifests");
    std::fs::create_dir(&manifests).unwrap();
    std::fs::copy(root().join("tests/fixtures/lint/readme.yaml"), manifests.join("chat.yaml")).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_vllm-operator"))
        .args(["lint", "manifests/"])
        .current_dir(Path::new(folder.path()))
        .output()
        .unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), shown);
}
