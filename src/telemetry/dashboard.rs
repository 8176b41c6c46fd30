//! The Grafana dashboard, as it is written: it asks for what is told, and each panel says what it shows and what to do.

use std::collections::BTreeSet;

use serde_json::Value;

const TEXT: &str = include_str!("../../deploy/grafana/vllm-operator.json");
const METRICS: &str = include_str!("../../docs/metrics.md");
const ALERTS: &str = include_str!("../../deploy/prometheus/alerts.yaml");
const RULES: &str = include_str!("../../deploy/prometheus/rules.yaml");
const VLLM: &str = include_str!("../../tests/fixtures/vllm-0.32.0-metrics.txt");
/// Where links lead.
const DOCS: &str = "https://github.com/distributed-inference/vllm-operator/blob/main/docs/";
/// Grafana's columns.
const COLUMNS: u64 = 24;

fn dashboard() -> Value {
    serde_json::from_str(TEXT).expect("JSON")
}

fn list<'a>(of: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> {
    of[field].as_array().into_iter().flatten()
}

fn text<'a>(of: &'a Value, field: &str) -> &'a str {
    of[field].as_str().unwrap_or_default()
}

/// Each expression, and whose it is.
fn queries(dashboard: &Value) -> Vec<(&str, &str)> {
    let of_panels = list(dashboard, "panels")
        .flat_map(|panel| list(panel, "targets").map(|target| (text(panel, "title"), text(target, "expr"))));
    let of_variables = list(&dashboard["templating"], "list")
        .filter(|variable| variable["type"] == "query")
        .map(|variable| (text(variable, "name"), text(variable, "definition")));
    of_panels.chain(of_variables).collect()
}

/// What is selected in an expression: each name before a brace, and the one of a variable.
fn selected(expression: &str) -> Vec<&str> {
    let in_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let before_braces = expression.match_indices('{').map(|(at, _)| {
        let before = &expression[..at];
        let begins = before.rfind(|c| !in_name(c)).map_or(0, |last| last + 1);
        &before[begins..]
    });
    let of_a_variable =
        expression.strip_prefix("label_values(").map(|rest| &rest[..rest.find([',', '{']).unwrap_or(0)]);
    before_braces.chain(of_a_variable).collect()
}

/// Whether there is such a metric: of the operator, recorded, of vLLM, of the API server as the alerts have it, or of
/// Prometheus itself.
fn exists(metric: &str) -> bool {
    let documented = |name: &str| METRICS.contains(&format!("| `{name}` |"));
    let histogram = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| metric.strip_suffix(suffix));
    documented(metric)
        || histogram.is_some_and(|name| METRICS.contains(&format!("| `{name}` | histogram |")))
        || RULES.contains(&format!("- record: {metric}\n"))
        || VLLM.lines().any(|line| line.starts_with(&format!("{metric}{{")))
        || metric.starts_with("apiserver_") && ALERTS.contains(&format!("{metric}{{"))
        || ["up", "ALERTS"].contains(&metric)
}

#[test]
fn it_is_written_as_any_program_writes_it() {
    let written = serde_json::to_string_pretty(&dashboard()).expect("a value") + "\n";
    assert!(TEXT == written, "write it with `jq --sort-keys .`");
}

#[test]
fn queries_ask_for_what_is_told() {
    let dashboard = dashboard();
    for (whose, expression) in queries(&dashboard) {
        let metrics = selected(expression);
        assert!(!metrics.is_empty(), "{whose}: {expression}");
        for metric in metrics {
            assert!(exists(metric), "{whose} asks for {metric:?}");
        }
        // Of clusters every job has the same; all else is said by each replica of one installation.
        for (at, name) in expression.match_indices("vllm_operator_") {
            let of_a_cluster = expression[at + name.len()..].starts_with("cluster_");
            let selects = &expression[at..][expression[at..].find('{').unwrap_or(0)..];
            assert!(
                of_a_cluster || selects.starts_with(r#"{job="vllm-operator""#),
                "{whose}: {expression} takes whatever has the name"
            );
        }
    }
    for missing in
        ["vllm_operator_leaders", "vllm_operator_leader_count", "vllm:frobs", "apiserver_frobs", "frobs"]
    {
        assert!(!exists(missing), "{missing}");
    }
}

#[test]
fn each_panel_says_what_it_shows_and_what_to_do() {
    let dashboard = dashboard();
    let (mut ids, mut titles) = (BTreeSet::new(), BTreeSet::new());
    for panel in list(&dashboard, "panels") {
        let title = text(panel, "title");
        assert!(!title.is_empty() && titles.insert(title), "{title:?} is the title of two");
        assert!(
            ids.insert(panel["id"].as_u64().expect("an id")),
            "{title}: the id {} is of two",
            panel["id"]
        );
        if ["row", "text"].contains(&text(panel, "type")) {
            continue;
        }
        assert!(!text(panel, "description").is_empty(), "{title} says nothing");
        assert!(panel["fieldConfig"]["defaults"]["unit"].is_string(), "{title} has no unit");
        assert!(list(panel, "links").next().is_some(), "{title} leads nowhere");
        for source in [panel].into_iter().chain(list(panel, "targets")) {
            assert_eq!(source["datasource"]["uid"], "${datasource}", "{title}");
        }
        // Another panel that is named exists.
        for named in text(panel, "description").split('"').skip(1).step_by(2) {
            assert!(
                list(&dashboard, "panels").any(|other| other["title"] == named),
                "{title} names {named:?}"
            );
        }
    }
}

#[test]
fn links_lead_to_a_heading() {
    let dashboard = dashboard();
    let of_panels = list(&dashboard, "panels").flat_map(|panel| list(panel, "links"));
    let mut runbooks = BTreeSet::new();
    for link in of_panels.chain(list(&dashboard, "links")) {
        let page = text(link, "url").strip_prefix(DOCS).unwrap_or_else(|| panic!("{link}"));
        let (file, anchor) = page.split_once('#').unwrap_or((page, ""));
        let path = format!("{}/docs/{file}", env!("CARGO_MANIFEST_DIR"));
        let page = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        let is_anchor = |heading: &str| heading.trim().to_lowercase().replace(' ', "-") == anchor;
        let headings = page.lines().filter_map(|line| line.strip_prefix("## "));
        assert!(anchor.is_empty() || headings.into_iter().any(is_anchor), "{file} has no {anchor}");
        if file == "runbooks.md" {
            runbooks.insert(anchor.to_owned());
        }
    }
    for (at, name) in ALERTS.match_indices("- alert: ") {
        let alert = ALERTS[at + name.len()..].lines().next().expect("a name").to_lowercase();
        assert!(runbooks.contains(&alert), "no panel leads to the runbook of {alert}");
    }
}

#[test]
fn no_two_panels_are_in_one_place() {
    let dashboard = dashboard();
    let mut taken = BTreeSet::new();
    for panel in list(&dashboard, "panels") {
        let [x, y, w, h] = ["x", "y", "w", "h"].map(|side| panel["gridPos"][side].as_u64().expect("a side"));
        assert!(x + w <= COLUMNS, "{}", panel["title"]);
        for place in (x..x + w).flat_map(|column| (y..y + h).map(move |line| (column, line))) {
            assert!(taken.insert(place), "{} is over another", panel["title"]);
        }
    }
}
