//! Warnings as the API server lets them through.
//!
//! It sends each as an HTTP header. One with a control character it drops without a word, as it does with an
//! empty one and with a repetition. Once all warnings on one write, also those of other webhooks and of the
//! schema, exceed 4,096 characters together, it cuts each at 256 and drops what is still beyond (`recorder` in
//! its `warning.go`). What is cut or left out here says so.
//!
//! Architecture invariant: knows of characters only, not of what they say.

use std::collections::HashSet;

/// Characters that the warnings of one answer have together, at the most: half of what the API server takes, since
/// one write passes two webhooks of ours, the mutating and the validating one.
const TOGETHER: usize = 2048;
/// Longest warning, in characters; the next shorter one where all together do not fit. The last is where the API
/// server would cut.
const LENGTHS: [usize; 3] = [1024, 512, 256];
/// Room for the sentence that says how many were left out.
const RESERVE: usize = 64;

/// The warnings that fit, each on one line and none twice, in their order. A long one ends in an ellipsis, the
/// more of them the sooner; what finds no room even so is counted in a last sentence.
pub fn fit(warnings: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut warnings: Vec<String> =
        warnings.into_iter().map(one_line).filter(|warning| !warning.is_empty()).collect();
    if warnings.len() > 1 {
        let mut seen = HashSet::new();
        warnings.retain(|warning| seen.insert(warning.clone()));
    }
    let lengths: Vec<usize> = warnings.iter().map(|warning| warning.chars().count()).collect();
    let together = |most: usize| lengths.iter().map(|length| most.min(*length)).sum::<usize>();
    let longest = LENGTHS.into_iter().find(|most| together(*most) <= TOGETHER);
    let most = longest.unwrap_or(LENGTHS[LENGTHS.len() - 1]);
    let room = if longest.is_some() { TOGETHER } else { TOGETHER - RESERVE };
    let mut used = 0;
    let fitting = lengths.iter().take_while(|length| {
        used += most.min(**length);
        used <= room
    });
    let (all, fitting) = (warnings.len(), fitting.count());
    warnings.truncate(fitting);
    for (warning, length) in warnings.iter_mut().zip(lengths) {
        if length > most {
            *warning = warning.chars().take(most - 1).chain(['…']).collect();
        }
    }
    if fitting < all {
        warnings.push(format!("{} further warnings were left out", all - fitting));
    }
    warnings
}

/// Control characters become spaces.
fn one_line(warning: String) -> String {
    let line =
        if warning.contains(char::is_control) { warning.replace(char::is_control, " ") } else { warning };
    if line.trim().len() == line.len() { line } else { line.trim().to_owned() }
}
