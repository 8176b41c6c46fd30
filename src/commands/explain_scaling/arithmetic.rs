//! How many replicas one value asks for: the HPA controller's own arithmetic.
//!
//! Architecture invariant: numbers in, numbers out. The controller counts in thousandths; so is done here, or a rounding
//! would make another count.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::chain::TargetType;

/// What the arithmetic needs besides a value and its target.
#[derive(Clone, Copy, Debug)]
pub struct Counts {
    /// The count that is asked for now.
    pub spec: i32,
    /// Pods that exist.
    pub existing: i32,
    /// Pods that are ready.
    pub ready: i32,
}

/// By which part of the target a value may differ without effect.
#[derive(Clone, Copy, Debug)]
pub struct Tolerance {
    /// Above.
    pub up: f64,
    /// Below.
    pub down: f64,
}

/// Kubernetes' default of `--horizontal-pod-autoscaler-tolerance`.
pub const DEFAULT_TOLERANCE: f64 = 0.1;

impl Tolerance {
    fn covers(self, ratio: f64) -> bool {
        1.0 - self.down <= ratio && ratio <= 1.0 + self.up
    }
}

/// What one value asks for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Asked {
    /// So many replicas.
    pub replicas: i32,
    /// No change, because the value is near its target.
    pub within_tolerance: bool,
    /// The sum over all replicas, of an external average.
    pub total: Option<f64>,
}

/// What a value asks for. `over_pods`: the value is an average over measured pods, as that of cpu, and no quotient of a sum.
/// `None` where the HPA cannot say either: a target that is not positive, or no pods to divide by.
pub fn asked(
    kind: TargetType,
    over_pods: bool,
    current: f64,
    target: f64,
    counts: Counts,
    tolerance: Tolerance,
) -> Option<Asked> {
    let (current, target) = ((current * 1000.0).round(), (target * 1000.0).round());
    if target <= 0.0 {
        return None;
    }
    if kind == TargetType::AverageValue && !over_pods {
        let existing = Some(f64::from(counts.existing)).filter(|existing| *existing > 0.0)?;
        let total = total(current, existing);
        let within_tolerance = tolerance.covers(total / (target * existing));
        let replicas = if within_tolerance { counts.existing } else { whole(total / target) };
        return Some(Asked { replicas, within_tolerance, total: Some(total / 1000.0) });
    }
    let ratio = current / target;
    if counts.spec == 0 {
        return Some(Asked { replicas: whole(ratio), within_tolerance: false, total: None });
    }
    let within_tolerance = tolerance.covers(ratio);
    let replicas = if within_tolerance { counts.spec } else { whole(ratio * f64::from(counts.ready)) };
    Some(Asked { replicas, within_tolerance, total: None })
}

/// The sum that an average was made of. The HPA rounds the average up to thousandths, which the sum must not inherit: 12
/// over 7 replicas is 1.715, and 12.005 would ask for one more. What is counted is mostly whole, so a whole sum goes first.
fn total(average: f64, existing: f64) -> f64 {
    let most = average * existing;
    let least = (average - 1.0).max(0.0) * existing;
    let whole = (most / 1000.0).floor() * 1000.0;
    if whole > least || average == 0.0 { whole.max(0.0) } else { most }
}

/// Rounded up, as far as a count goes.
#[allow(clippy::cast_possible_truncation)] // `as` saturates, and so does the HPA.
fn whole(replicas: f64) -> i32 {
    replicas.ceil() as i32
}

/// Above which value more than `count` are asked for, and below about which fewer; `None` for the latter where there is
/// no fewer.
pub fn edges(target: f64, count: i32, tolerance: Tolerance) -> (f64, Option<f64>) {
    let fewer = f64::from(count - 1) / f64::from(count.max(1));
    let below = (count > 1).then(|| target * fewer.min(1.0 - tolerance.down));
    (target * (1.0 + tolerance.up), below)
}

/// A Kubernetes quantity as a number: `500m`, `2Gi`, `1e3`.
pub fn number(Quantity(text): &Quantity) -> Option<f64> {
    const SUFFIXES: [(&str, f64); 15] = [
        ("Ki", 1024.0),
        ("Mi", 1_048_576.0),
        ("Gi", 1_073_741_824.0),
        ("Ti", 1_099_511_627_776.0),
        ("Pi", 1_125_899_906_842_624.0),
        ("Ei", 1_152_921_504_606_846_976.0),
        ("n", 1e-9),
        ("u", 1e-6),
        ("m", 1e-3),
        ("k", 1e3),
        ("M", 1e6),
        ("G", 1e9),
        ("T", 1e12),
        ("P", 1e15),
        ("E", 1e18),
    ];
    let text = text.trim();
    let (digits, factor) = SUFFIXES
        .iter()
        .find_map(|(suffix, factor)| text.strip_suffix(suffix).map(|digits| (digits, *factor)))
        .unwrap_or((text, 1.0));
    digits.parse::<f64>().ok().filter(|number| number.is_finite()).map(|number| number * factor)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::TargetType::{AverageValue, Utilization, Value};
    use super::*;

    const TENTH: Tolerance = Tolerance { up: 0.1, down: 0.1 };

    fn counts(count: i32) -> Counts {
        Counts { spec: count, existing: count, ready: count }
    }

    #[rstest]
    // 40 waiting, 4 a replica: 10 whatever there are.
    #[case::average(AverageValue, false, 20.0, 4.0, 2, 10, false)]
    #[case::average_of_nothing(AverageValue, false, 0.0, 4.0, 3, 0, false)]
    #[case::average_just_within(AverageValue, false, 4.4, 4.0, 2, 2, true)]
    #[case::average_just_above(AverageValue, false, 4.5, 4.0, 2, 3, false)]
    #[case::average_just_below(AverageValue, false, 3.5, 4.0, 2, 2, false)]
    // 12 over 7 is 1.715, rounded up.
    #[case::rounded_average(AverageValue, false, 1.715, 4.0, 7, 3, false)]
    #[case::value(Value, false, 250.0, 100.0, 2, 5, false)]
    #[case::value_within(Value, false, 105.0, 100.0, 2, 2, true)]
    #[case::value_below(Value, false, 10.0, 100.0, 4, 1, false)]
    #[case::utilization(Utilization, true, 140.0, 70.0, 3, 6, false)]
    #[case::utilization_within(Utilization, true, 75.0, 70.0, 3, 3, true)]
    #[case::pods_average(AverageValue, true, 0.3, 0.1, 2, 6, false)]
    #[case::beyond_every_count(Value, false, 1e18, 0.001, 9, i32::MAX, false)]
    fn rows(
        #[case] kind: TargetType,
        #[case] over_pods: bool,
        #[case] current: f64,
        #[case] target: f64,
        #[case] count: i32,
        #[case] replicas: i32,
        #[case] within: bool,
    ) {
        let asked = asked(kind, over_pods, current, target, counts(count), TENTH).unwrap();
        assert_eq!((asked.replicas, asked.within_tolerance), (replicas, within));
    }

    #[test]
    fn nothing_is_divided_by_nothing() {
        let none = Counts { spec: 2, existing: 0, ready: 0 };
        assert_eq!(asked(AverageValue, false, 1.0, 1.0, none, TENTH), None);
        assert_eq!(asked(Value, false, 1.0, 0.0, counts(1), TENTH), None);
    }

    #[rstest]
    #[case("4", Some(4.0))]
    #[case("500m", Some(0.5))]
    #[case("2Ki", Some(2048.0))]
    #[case("1e3", Some(1000.0))]
    #[case("1E", Some(1e18))]
    #[case("1k", Some(1000.0))]
    #[case("-3", Some(-3.0))]
    #[case("", None)]
    #[case("x", None)]
    #[case("inf", None)]
    fn quantities(#[case] text: &str, #[case] expected: Option<f64>) {
        assert_eq!(number(&Quantity(text.into())), expected);
    }

    proptest::proptest! {
        /// A value above the edge asks for more, one below for fewer, for each kind.
        #[test]
        fn edges_are_where_the_arithmetic_turns(count in 1..200_i32, target in 0.5..1000.0_f64, part in 1.001..3.0_f64) {
            let (above, below) = edges(target, count, TENTH);
            for (kind, over_pods) in [(AverageValue, false), (Value, false), (Utilization, true)] {
                let at = |value: f64| asked(kind, over_pods, value, target, counts(count), TENTH).unwrap().replicas;
                proptest::prop_assert!(at(above * part + 0.002) > count);
                proptest::prop_assert!(at(target) == count);
                if let Some(below) = below {
                    // A whole replica's worth below: the edge itself is said to be "about".
                    proptest::prop_assert!(at((below / part - 0.002).max(0.0)) < count);
                }
            }
        }

        /// The sum that a whole number was averaged from is found again.
        #[test]
        fn whole_sums_survive_the_average(sum in 0..100_000_u32, existing in 1..900_u32) {
            let average = (f64::from(sum) * 1000.0 / f64::from(existing)).ceil();
            let found = total(average, f64::from(existing));
            proptest::prop_assert!((found - f64::from(sum) * 1000.0).abs() < 0.5, "{found}");
        }
    }
}
