//! Each rule and each silent clause of the policy taken away in turn: some test must miss it.
//!
//! The tests of policy and admission run once for each, in a process of their own that does without it
//! ([`super::clause`]), with the properties left out: a row of a table is what must fail.

use std::collections::VecDeque;
use std::io::Write as _;
use std::process::Command;
use std::sync::Mutex;
use std::thread;

use super::Rule;
use super::clause::{Clause, WITHOUT};

/// The tests that miss what is not in force.
fn failures(without: &str) -> (Vec<String>, String) {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["policy::", "admit::", "world::part::", "--skip=::mutants::", "--skip=::properties::"])
        .env(WITHOUT, without)
        .env("RUST_BACKTRACE", "0")
        .output()
        .unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    let failed = |line: &str| Some(line.strip_prefix("test ")?.strip_suffix(" ... FAILED")?.to_owned());
    let mut names: Vec<_> = stdout.lines().filter_map(failed).collect();
    names.sort();
    assert_eq!(names.is_empty(), output.status.success(), "{stdout}");
    (names, stdout)
}

#[test]
fn each_clause_of_the_policy_is_missed_by_some_test() {
    let (none, stdout) = failures("nothing");
    assert!(none.is_empty(), "with everything in force all pass: {stdout}");
    let clauses = Clause::ALL.iter().map(|clause| clause.as_str());
    let all: Vec<_> = Rule::ALL.iter().map(|rule| rule.as_str()).chain(clauses).collect();
    let left = Mutex::new(VecDeque::from(all.clone()));
    let missed = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(id) = { left.lock().unwrap().pop_front() } {
                    let (tests, _) = failures(id);
                    missed.lock().unwrap().push((id, tests));
                }
            });
        }
    });
    let mut missed = missed.into_inner().unwrap();
    missed.sort_by_key(|(id, _)| all.iter().position(|other| other == id));
    let lines: String = missed
        .iter()
        .map(|(id, tests)| match &tests[..] {
            [] => format!("{id:<50} NO TEST\n"),
            [test] => format!("{id:<50} {test}\n"),
            [test, others @ ..] => format!("{id:<50} {test} and {} more\n", others.len()),
        })
        .collect();
    // Past the harness, which keeps what a passing test prints: the list is to be seen.
    writeln!(std::io::stderr(), "without                                            fails\n{lines}").unwrap();
    let survivors: Vec<_> = missed.iter().filter(|(_, tests)| tests.is_empty()).map(|(id, _)| *id).collect();
    assert_eq!(missed.len(), all.len());
    assert!(survivors.is_empty(), "no test misses {survivors:?}");
}
