//! The captured `/metrics` page of a real vLLM 0.32.0, and the histograms it declares.
//!
//! **Architecture invariant**: limits of buckets come from the capture alone, and an observation is counted, not kept.

/// A page of vLLM 0.32.0 under load.
pub const CAPTURE: &str = include_str!("../../fixtures/vllm-0.32.0-metrics.txt");

/// A histogram in the buckets of one family of the capture. Its size does not depend on what it observed.
#[derive(Clone, Debug)]
pub struct Histogram {
    /// Upper limits, ascending, the last one infinite, each with its count of observations above the limit before.
    buckets: Vec<(f64, usize)>,
    sum: f64,
}

impl Histogram {
    /// An empty one of `family`, as in `vllm:request_queue_time_seconds`.
    pub fn of(family: &str) -> Self {
        let buckets = CAPTURE
            .lines()
            .filter_map(|line| {
                let labels = line.strip_prefix(family)?.strip_prefix("_bucket{")?;
                Some((limit(labels)?, 0))
            })
            .collect();
        Self { buckets, sum: 0.0 }
    }

    /// Counts one observation.
    pub fn observe(&mut self, value: f64) {
        if let Some((_, count)) = self.buckets.iter_mut().find(|(limit, _)| value <= *limit) {
            *count += 1;
            self.sum += value;
        }
    }

    /// Observations so far.
    pub fn count(&self) -> usize {
        self.up_to(f64::INFINITY)
    }

    /// Their sum.
    pub fn sum(&self) -> f64 {
        self.sum
    }

    /// Observations in the buckets whose limit is at most `limit`.
    pub fn up_to(&self, limit: f64) -> usize {
        self.buckets.iter().take_while(|(bucket, _)| *bucket <= limit).map(|(_, count)| count).sum()
    }
}

/// The label `le` of a series.
pub fn limit(series: &str) -> Option<f64> {
    match series.split_once(r#"le=""#)?.1.split('"').next()? {
        "+Inf" => Some(f64::INFINITY),
        number => number.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn observations_are_counted_in_the_captures_buckets() {
        let mut histogram = Histogram::of("vllm:request_queue_time_seconds");
        assert_eq!(histogram.buckets.len(), 22);
        for seconds in [0.1, 0.3, 0.4, 1e9] {
            histogram.observe(seconds);
        }
        let counted = [0.3, 0.5, 7680.0, f64::INFINITY].map(|limit| histogram.up_to(limit));
        assert_eq!((counted, histogram.count()), ([2, 3, 3, 4], 4));
        assert!((histogram.sum() - 1e9 - 0.8).abs() < 1e-6, "{}", histogram.sum());
        assert_eq!(histogram.buckets.len(), 22);
    }
}
