//! The metrics that vLLM exports, and what a query means that names another.
//!
//! Architecture invariant: finds names in a query, and parses no query: a name that it does not see costs
//! a warning, nothing more.

use super::values::one_slip;

/// Exported under their own names.
const GAUGES: [&str; 6] = [
    "vllm:cache_config_info",
    "vllm:engine_sleep_state",
    "vllm:kv_cache_usage_perc",
    "vllm:num_requests_running",
    "vllm:num_requests_waiting",
    "vllm:num_requests_waiting_by_reason",
];

/// Exported with `_total`.
const COUNTERS: [&str; 17] = [
    "vllm:admission_rejections",
    "vllm:estimated_flops_per_gpu",
    "vllm:estimated_read_bytes_per_gpu",
    "vllm:estimated_write_bytes_per_gpu",
    "vllm:external_prefix_cache_hits",
    "vllm:external_prefix_cache_queries",
    "vllm:generation_tokens",
    "vllm:mm_cache_hits",
    "vllm:mm_cache_queries",
    "vllm:num_preemptions",
    "vllm:prefix_cache_hits",
    "vllm:prefix_cache_queries",
    "vllm:prompt_tokens",
    "vllm:prompt_tokens_by_source",
    "vllm:prompt_tokens_cached",
    "vllm:prompt_tokens_cached_by_source",
    "vllm:request_success",
];

/// Exported with `_bucket`, `_sum` and `_count`.
const HISTOGRAMS: [&str; 16] = [
    "vllm:e2e_request_latency_seconds",
    "vllm:inter_token_latency_seconds",
    "vllm:iteration_tokens_total",
    "vllm:request_decode_time_seconds",
    "vllm:request_generation_tokens",
    "vllm:request_inference_time_seconds",
    "vllm:request_max_num_generation_tokens",
    "vllm:request_num_preemptions",
    "vllm:request_params_max_tokens",
    "vllm:request_params_n",
    "vllm:request_prefill_kv_computed_tokens",
    "vllm:request_prefill_time_seconds",
    "vllm:request_prompt_tokens",
    "vllm:request_queue_time_seconds",
    "vllm:request_time_per_output_token_seconds",
    "vllm:time_to_first_token_seconds",
];

/// Names that other versions, or other people's examples, use for what vLLM 0.32 exports under another.
const RENAMED: [(&str, &str); 8] = [
    ("vllm:request_queue_size", "vllm:num_requests_waiting"),
    ("vllm:queue_size", "vllm:num_requests_waiting"),
    ("vllm:num_requests_swapped", "vllm:num_preemptions_total"),
    ("vllm:gpu_cache_usage_perc", "vllm:kv_cache_usage_perc"),
    ("vllm:cpu_cache_usage_perc", "vllm:kv_cache_usage_perc"),
    ("vllm:gpu_prefix_cache_hits_total", "vllm:prefix_cache_hits_total"),
    ("vllm:gpu_prefix_cache_queries_total", "vllm:prefix_cache_queries_total"),
    ("vllm:time_per_output_token_seconds_bucket", "vllm:inter_token_latency_seconds_bucket"),
];

/// What the recording rule in `deploy/prometheus` makes of `vllm:num_requests_waiting`.
const RECORDED: &str = "vllm_request_queue_size";

/// Most sentences about one query: a longer list teaches nothing, and all warnings share 4,096 characters.
const MOST: usize = 4;

/// One sentence for each name in a query that looks like a metric of vLLM and is none.
pub(super) fn complaints(query: &str) -> Vec<String> {
    let mut seen: Vec<&str> = Vec::new();
    for name in names(query) {
        // By convention a second colon is the mark of a recording rule.
        let recorded = name.matches(':').count() > 1;
        if seen.len() < MOST && !recorded && !exported(name) && !seen.contains(&name) {
            seen.push(name);
        }
    }
    seen.into_iter()
        .map(|name| match right_name(name) {
            _ if name == RECORDED => format!(
                "vLLM exports no {name}, and an empty result counts as 0; the recording rule in deploy/prometheus/rules.yaml provides it: load that into your Prometheus, or use vllm:num_requests_waiting"
            ),
            Some(right) => format!(
                "vLLM exports no {name}, and an empty result counts as 0; use {right}"
            ),
            None => format!(
                "vLLM 0.32 exports no {name} by default, and an empty result counts as 0; load shows in vllm:num_requests_waiting, vllm:num_requests_running and vllm:kv_cache_usage_perc (leave it if a rule of your Prometheus records it)"
            ),
        })
        .collect()
}

fn exported(name: &str) -> bool {
    let with = |families: &[&str], suffixes: &[&str]| {
        suffixes.iter().any(|suffix| name.strip_suffix(suffix).is_some_and(|base| families.contains(&base)))
    };
    GAUGES.contains(&name)
        || with(&COUNTERS, &["_total", "_created"])
        || with(&HISTOGRAMS, &["_bucket", "_sum", "_count", "_created"])
}

/// What a name that vLLM does not export was most likely meant to be.
fn right_name(name: &str) -> Option<String> {
    let (_, rest) = name.split_at_checked("vllm:".len())?;
    let name = format!("vllm:{rest}");
    if exported(&name) {
        return Some(name);
    }
    if let Some((_, right)) = RENAMED.iter().find(|(wrong, _)| *wrong == name) {
        return Some((*right).to_owned());
    }
    if COUNTERS.contains(&name.as_str()) {
        return Some(format!("{name}_total"));
    }
    if HISTOGRAMS.contains(&name.as_str()) {
        return Some(format!("{name}_bucket, {name}_sum or {name}_count"));
    }
    let totals = COUNTERS.iter().map(|counter| format!("{counter}_total"));
    GAUGES.iter().map(ToString::to_string).chain(totals).find(|right| one_slip(right, &name))
}

/// The names in a query that begin with `vllm:` or `vllm_` and stand where a metric can: outside of strings, of
/// label matchers and of lists of labels.
fn names(query: &str) -> Vec<&str> {
    const LISTS: [&str; 6] = ["by", "without", "on", "ignoring", "group_left", "group_right"];
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let mut names = Vec::new();
    let mut rest = query;
    let mut last_word = "";
    while let Some(first) = rest.chars().next() {
        let end = match first {
            '"' | '\'' | '`' => string_end(rest, first),
            '{' => matchers_end(rest),
            '#' => rest.find('\n').unwrap_or(rest.len()),
            '(' if LISTS.contains(&last_word) => rest.find(')').unwrap_or(rest.len()),
            _ if is_word(first) => rest.find(|c| !is_word(c)).unwrap_or(rest.len()),
            _ => first.len_utf8(),
        };
        let (token, after) = rest.split_at(end);
        if token.starts_with("vllm:") || token.starts_with("vllm_") {
            names.push(token);
        }
        if !token.trim().is_empty() {
            last_word = token;
        }
        rest = after;
    }
    names
}

/// Where a string ends that begins the text.
fn string_end(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        if escaped {
            escaped = false;
        } else if c == '\\' && quote != '`' {
            escaped = true;
        } else if c == quote {
            return at + quote.len_utf8();
        }
    }
    text.len()
}

/// Where the label matchers end that begin the text.
fn matchers_end(text: &str) -> usize {
    let mut at = 1;
    while let Some(c) = text[at..].chars().next() {
        at += match c {
            '"' | '\'' | '`' => string_end(&text[at..], c),
            '}' => return at + 1,
            _ => c.len_utf8(),
        };
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const PAGE: &str = include_str!("../../../tests/fixtures/vllm-0.32.0-metrics.txt");

    #[test]
    fn the_tables_are_what_a_captured_page_shows() {
        let mut families: Vec<(&str, &str)> = PAGE
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE vllm:")?.split_once(' '))
            .filter(|(name, _)| !name.ends_with("_created"))
            .collect();
        families.sort_unstable();
        let table = |names: &[&'static str], suffix: &str, kind: &'static str| {
            let full = names.iter().map(|name| (format!("{}{suffix}", &name["vllm:".len()..]), kind));
            full.collect::<Vec<_>>()
        };
        let mut tables = table(&GAUGES, "", "gauge");
        tables.extend(table(&COUNTERS, "_total", "counter"));
        tables.extend(table(&HISTOGRAMS, "", "histogram"));
        tables.sort_unstable();
        assert_eq!(tables.iter().map(|(name, kind)| (name.as_str(), *kind)).collect::<Vec<_>>(), families);
    }

    #[test]
    fn every_series_of_a_captured_page_passes() {
        let series = PAGE.lines().filter(|line| line.starts_with("vllm:"));
        let names: Vec<_> = series.filter_map(|line| line.split(['{', ' ']).next()).collect();
        assert!(names.len() > 100, "{}", names.len());
        for name in names {
            assert_eq!(complaints(name), Vec::<String>::new());
        }
    }

    #[rstest]
    #[case::recorded("sum(vllm_request_queue_size)", &["recording rule in deploy/prometheus/rules.yaml provides it: load that into your Prometheus, or use vllm:num_requests_waiting"])]
    #[case::recorded_and_misspelt("vllm:request_queue_size", &["use vllm:num_requests_waiting"])]
    #[case::older("avg(vllm:gpu_cache_usage_perc) > 0.8", &["vllm:kv_cache_usage_perc"])]
    #[case::underscore("vllm_num_requests_running", &["vllm:num_requests_running"])]
    #[case::counter("rate(vllm:prompt_tokens[1m])", &["vllm:prompt_tokens_total"])]
    #[case::histogram("vllm:request_queue_time_seconds", &["vllm:request_queue_time_seconds_bucket"])]
    #[case::slip("vllm:num_request_waiting", &["use vllm:num_requests_waiting"])]
    #[case::slip_in_a_counter("vllm:prompt_token_total", &["use vllm:prompt_tokens_total"])]
    #[case::unknown("vllm:frobs", &["load shows in vllm:num_requests_waiting"])]
    #[case::each_once("vllm:frobs + vllm:frobs / vllm:knobs", &["vllm:frobs", "vllm:knobs"])]
    #[case::no_more_than_four("vllm:a + vllm:b + vllm:c + vllm:d + vllm:e", &["vllm:a", "vllm:b", "vllm:c", "vllm:d"])]
    #[case::behind_a_string(r#"x{a="\"}"} + vllm:frobs"#, &["vllm:frobs"])]
    #[case::behind_a_list("sum by (vllm_x) (vllm:frobs)", &["vllm:frobs"])]
    #[case::behind_a_comment("a # vllm:knobs\n + vllm:frobs", &["vllm:frobs"])]
    #[case::right("sum(vllm:num_requests_waiting) + sum(rate(vllm:request_success_total[5m]))", &[])]
    #[case::recording_rule("vllm:queue:avg5m", &[])]
    #[case::other_metrics("up + my_vllm:x + http_requests_total", &[])]
    #[case::matcher(r#"up{vllm_pool="vllm_a", job=~"vllm:b"}"#, &[])]
    #[case::string("label_replace(up, 'vllm_x', `vllm:y`, \"vllm:z\", '')", &[])]
    #[case::labels("sum without(vllm_a) (up) * on (vllm_b) group_left(vllm_c) up", &[])]
    #[case::more_labels("sum by (vllm_a) (up) / ignoring(vllm_b) group_right (vllm_c) up", &[])]
    #[case::unfinished("up{vllm_a='", &[])]
    fn names_in_queries(#[case] query: &str, #[case] says: &[&str]) {
        let complaints = complaints(query);
        assert_eq!(complaints.len(), says.len(), "{complaints:?}");
        for (complaint, says) in complaints.iter().zip(says) {
            assert!(complaint.contains(says), "{complaint}");
        }
    }

    #[test]
    fn the_recorded_metric_is_what_the_rules_record() {
        for rules in [
            include_str!("../../../deploy/prometheus/rules.yaml"),
            include_str!("../../../deploy/prometheus/podmonitor.yaml"),
        ] {
            assert!(rules.contains(&format!("- record: {RECORDED}\n")), "{rules}");
        }
    }

    #[test]
    fn every_renamed_metric_is_exported_under_its_new_name_alone() {
        for (wrong, right) in RENAMED {
            assert!(exported(right) && !exported(wrong), "{wrong} {right}");
            assert!(complaints(wrong)[0].contains(&format!("use {right}")), "{:?}", complaints(wrong));
        }
    }

    mod properties {
        use super::*;

        proptest::proptest! {
            #[test]
            fn no_query_stops_the_search(query in "[a-z_:(){}\"'`#\\\\µ\n ]{0,60}") {
                complaints(&query);
            }
        }
    }
}
