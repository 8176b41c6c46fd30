//! What a server's `/metrics` page says of its load.
//!
//! Architecture invariant: one page in, three numbers out. A page that lacks one of them, or says what cannot be, is an error
//! of that number alone: whoever does not ask for it does not mind.

use std::collections::BTreeMap;

/// The load of one server.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Load {
    /// Requests that wait, over all engines.
    pub waiting: Option<f64>,
    /// Requests that are being worked on, over all engines.
    pub running: Option<f64>,
    /// Use of the KV cache in percent, in the mean of the engines.
    pub kv_cache: Option<f64>,
}

/// The metrics, each with the names that versions of vLLM have given it, the newest first.
const WAITING: &[&str] = &["vllm:num_requests_waiting"];
const RUNNING: &[&str] = &["vllm:num_requests_running"];
const KV_CACHE: &[&str] = &["vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"];

/// Reads a page in the text format of Prometheus.
pub fn read(page: &str) -> Load {
    let (mut waiting, mut running) = (Sum::default(), Sum::default());
    // By engine: one that serves under several model names has as many series of the same cache.
    let mut caches: [BTreeMap<&str, f64>; 2] = Default::default();
    let mut broken_cache = false;
    for line in page.lines() {
        let Some(sample) = Sample::parse(line) else { continue };
        if WAITING.contains(&sample.name) {
            waiting.add(&sample);
        } else if RUNNING.contains(&sample.name) {
            running.add(&sample);
        } else if let Some(age) = KV_CACHE.iter().position(|name| *name == sample.name) {
            match sample.value.filter(|usage| (0.0..=1.0).contains(usage)) {
                Some(usage) => {
                    let engine = label(sample.labels, "engine").unwrap_or_default();
                    let most = caches[age].entry(engine).or_insert(0.0);
                    *most = most.max(usage);
                }
                None => broken_cache = true,
            }
        }
    }
    let caches = caches.into_iter().find(|engines| !engines.is_empty()).filter(|_| !broken_cache);
    #[expect(clippy::cast_precision_loss, reason = "a server has few engines")]
    let mean = |engines: BTreeMap<&str, f64>| 100.0 * engines.values().sum::<f64>() / engines.len() as f64;
    Load { waiting: waiting.total(), running: running.total(), kv_cache: caches.map(mean) }
}

/// The sum of the series of one name.
#[derive(Default)]
struct Sum {
    sum: Option<f64>,
    broken: bool,
}

impl Sum {
    fn add(&mut self, sample: &Sample<'_>) {
        match sample.value.filter(|count| *count >= 0.0 && count.is_finite()) {
            Some(count) => *self.sum.get_or_insert(0.0) += count,
            None => self.broken = true,
        }
    }

    fn total(self) -> Option<f64> {
        self.sum.filter(|_| !self.broken)
    }
}

/// One line of a page.
struct Sample<'a> {
    name: &'a str,
    /// What stands between the braces.
    labels: &'a str,
    /// `None` where it is no number.
    value: Option<f64>,
}

impl<'a> Sample<'a> {
    /// `None` for what is no sample of vLLM.
    fn parse(line: &'a str) -> Option<Self> {
        let line = line.trim_start();
        if !line.starts_with("vllm:") {
            return None;
        }
        let end = line.find(|c: char| c == '{' || c.is_ascii_whitespace())?;
        let (name, rest) = line.split_at(end);
        let (labels, rest) = match rest.strip_prefix('{') {
            Some(rest) => rest.split_at(labels_end(rest)),
            None => ("", rest),
        };
        // A timestamp may follow.
        let value = rest.trim_start_matches('}').split_ascii_whitespace().next();
        Some(Self { name, labels, value: value.and_then(|value| value.parse().ok()) })
    }
}

/// Where the brace stands that ends the labels: not within a value.
fn labels_end(text: &str) -> usize {
    let (mut quoted, mut escaped) = (false, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'}' if !quoted => return at,
            _ => {}
        }
    }
    text.len()
}

/// The value of a label, as it is written.
fn label<'a>(labels: &'a str, wanted: &str) -> Option<&'a str> {
    let mut rest = labels;
    loop {
        let (key, after) = rest.split_once("=\"")?;
        let mut escaped = false;
        let end = after.bytes().position(|byte| {
            let ends = byte == b'"' && !escaped;
            escaped = byte == b'\\' && !escaped;
            ends
        })?;
        if key.trim_start_matches([',', ' ']) == wanted {
            return Some(&after[..end]);
        }
        rest = &after[end + 1..];
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const fn load(waiting: Option<f64>, running: Option<f64>, kv_cache: Option<f64>) -> Load {
        Load { waiting, running, kv_cache }
    }

    #[test]
    fn a_page_of_a_real_server() {
        let page = include_str!("../../tests/fixtures/vllm-0.32.0-metrics.txt");
        assert_eq!(read(page), load(Some(11.0), Some(1.0), Some(0.085_459_650_836_283_71)));
    }

    #[rstest]
    #[case::engines(
        "vllm:num_requests_waiting{engine=\"0\",model_name=\"m\"} 3\nvllm:num_requests_waiting{engine=\"1\",model_name=\"m\"} 4.0\n\
         vllm:kv_cache_usage_perc{engine=\"0\"} 0.5\nvllm:kv_cache_usage_perc{engine=\"1\"} 0.25\n",
        load(Some(7.0), None, Some(37.5))
    )]
    #[case::model_names_of_one_engine(
        "vllm:num_requests_running{engine=\"0\",model_name=\"a\"} 1\nvllm:num_requests_running{engine=\"0\",model_name=\"b\"} 2\n\
         vllm:kv_cache_usage_perc{engine=\"0\",model_name=\"a\"} 0.5\nvllm:kv_cache_usage_perc{engine=\"0\",model_name=\"b\"} 0\n",
        load(None, Some(3.0), Some(50.0))
    )]
    #[case::older_names(
        "vllm:gpu_cache_usage_perc{model_name=\"m\"} 0.75 1700000000000",
        load(None, None, Some(75.0))
    )]
    #[case::newest_name_counts(
        "vllm:gpu_cache_usage_perc 0.1\nvllm:kv_cache_usage_perc 0.9",
        load(None, None, Some(90.0))
    )]
    #[case::labels_that_look_like_a_line(
        "vllm:num_requests_waiting{model_name=\"a } \\\" 5\",engine=\"0\"} 2",
        load(Some(2.0), None, None)
    )]
    #[case::alike_names(
        "vllm:num_requests_waiting_by_reason{reason=\"capacity\"} 9\n# vllm:num_requests_waiting 9\nxvllm:num_requests_waiting 9",
        Load::default()
    )]
    #[case::no_number(
        "vllm:num_requests_waiting NaN\nvllm:num_requests_running many\nvllm:kv_cache_usage_perc 7",
        Load::default()
    )]
    #[case::one_broken_series(
        "vllm:num_requests_waiting{engine=\"0\"} 5\nvllm:num_requests_waiting{engine=\"1\"} -1",
        Load::default()
    )]
    #[case::infinite("vllm:num_requests_waiting +Inf", Load::default())]
    #[case::cut_off("vllm:num_requests_waiting{engine=\"0", Load::default())]
    #[case::html("<html>vllm:num_requests_waiting 3</html>", Load::default())]
    #[case::empty("", Load::default())]
    fn pages(#[case] page: &str, #[case] says: Load) {
        assert_eq!(read(page), says);
    }

    proptest::proptest! {
        #[test]
        fn no_page_is_too_strange(page in "(vllm:num_requests_waiting|[{}\"\\\\=, \n]|[a-z0-9.]){0,40}") {
            let load = read(&page);
            proptest::prop_assert!(load.waiting.is_none_or(|waiting| waiting >= 0.0 && waiting.is_finite()));
        }
    }
}
