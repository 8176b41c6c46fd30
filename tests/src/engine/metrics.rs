//! The `/metrics` page: the captured page of a real vLLM 0.32.0 as the form, the engine's values filled in.
//!
//! **Architecture invariant**: names, types, help texts and labels come from the capture alone.

use std::fmt::Write as _;

use super::capture::{CAPTURE, limit};
use super::scheduler::{Totals, count};

/// What is shown of the load.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Load {
    /// Requests that wait.
    pub waiting: f64,
    /// Requests that run.
    pub running: f64,
    /// Usage of the cache of keys and values, 0 to 1.
    pub usage: f64,
}

/// The page of an engine that serves `model`.
pub fn page(load: Load, totals: &Totals, model: &str) -> String {
    let mut page = String::with_capacity(CAPTURE.len());
    for line in CAPTURE.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            if comment.split(' ').nth(1).is_some_and(|family| family.starts_with("vllm:")) {
                page.push_str(line);
                page.push('\n');
            }
        } else if let Some((series, captured)) = line.rsplit_once(' ').filter(|_| line.starts_with("vllm:")) {
            let series = series.replace(r#"model_name="tiny""#, &format!("model_name={model:?}"));
            // A String takes everything.
            let _ = writeln!(page, "{series} {:?}", value(&series, captured, load, totals));
        }
    }
    page
}

fn value(series: &str, captured: &str, load: Load, totals: &Totals) -> f64 {
    let name = series.split('{').next().unwrap_or(series);
    let has = |label: &str| series.contains(label);
    match name {
        "vllm:num_requests_waiting" => load.waiting,
        "vllm:num_requests_waiting_by_reason" if has(r#"reason="capacity""#) => load.waiting,
        "vllm:num_requests_running" => load.running,
        "vllm:kv_cache_usage_perc" => load.usage,
        "vllm:engine_sleep_state" if has(r#"sleep_state="awake""#) => 1.0,
        "vllm:prompt_tokens_total" => count(totals.prompt_tokens),
        "vllm:prompt_tokens_by_source_total" if has(r#"source="local_compute""#) => {
            count(totals.prompt_tokens)
        }
        "vllm:generation_tokens_total" => count(totals.generated_tokens),
        "vllm:request_success_total" if has(r#"finished_reason="length""#) => count(totals.finished),
        "vllm:request_success_total" if has(r#"finished_reason="abort""#) => count(totals.aborted),
        // What describes the engine stays as it was captured.
        _ if name.ends_with("_info") => captured.parse().unwrap_or(1.0),
        _ => histogram(series, name, totals).unwrap_or(0.0),
    }
}

/// The value of one series of a histogram that the scheduler keeps.
fn histogram(series: &str, name: &str, totals: &Totals) -> Option<f64> {
    let (family, part) = name.rsplit_once('_')?;
    let observed = match family {
        "vllm:e2e_request_latency_seconds" => &totals.latency,
        "vllm:time_to_first_token_seconds" => &totals.first_token,
        "vllm:request_queue_time_seconds" => &totals.queued,
        _ => return None,
    };
    match part {
        "count" => Some(count(observed.count())),
        "sum" => Some(observed.sum()),
        "bucket" => Some(count(observed.up_to(limit(series)?))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Families, types and label keys of a page; `vllm:` families only, since the process's own are another's.
    fn form(page: &str) -> BTreeSet<String> {
        page.lines()
            .filter_map(|line| match line.strip_prefix("# TYPE ") {
                Some(family) => family.starts_with("vllm:").then(|| line.to_owned()),
                None if line.starts_with("vllm:") => {
                    let series = line.rsplit_once(' ')?.0;
                    let (name, labels) = series.split_once('{')?;
                    let keys: Vec<_> = labels.split('"').step_by(2).collect();
                    Some(format!("{name} {keys:?}"))
                }
                None => None,
            })
            .collect()
    }

    #[test]
    fn the_form_is_the_captures() {
        let page = page(Load::default(), &Totals::default(), "some/model");
        assert_eq!(form(&page), form(CAPTURE));
        assert!(form(CAPTURE).len() > 100);
        assert!(
            page.contains(r#"vllm:num_requests_waiting{engine="0",model_name="some/model"} 0.0"#),
            "{page}"
        );
        assert!(!page.contains("tiny\"} "), "the captured model's name is left");
    }
}
