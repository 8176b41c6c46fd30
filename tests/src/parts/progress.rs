//! Progress of the build: a line that moves on a terminal, plain lines elsewhere.
//!
//! **Architecture invariant**: standard error only; it knows counts and names, not what is built.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// Often enough to see that a build in a log is alive.
const STILL: Duration = Duration::from_secs(30);

/// Shows which step of how many is being made.
pub struct Progress {
    total: usize,
    bar: Option<ProgressBar>,
}

/// One step, which is shown until [`Step::done`].
pub struct Step {
    label: String,
    begin: Instant,
    told: Instant,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Progress over `total` steps.
    pub fn new(total: usize) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            // The template is a constant without user input; a bad one would fail at every build.
            if let Ok(style) = ProgressStyle::with_template("{spinner} {prefix} [{elapsed}] {wide_msg:.dim}")
            {
                bar.set_style(style);
            }
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        Self { total, bar }
    }

    /// Begins step `number`, counted from 1.
    pub fn step(&self, number: usize, what: &str) -> Step {
        let label = format!("[{number}/{}] {what}", self.total);
        match &self.bar {
            Some(bar) => {
                bar.reset_elapsed();
                bar.set_prefix(label.clone());
                bar.set_message("");
            }
            None => eprintln!("{label}"),
        }
        Step { label, begin: Instant::now(), told: Instant::now(), bar: self.bar.clone() }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl Step {
    /// What the step is at; on a terminal only.
    pub fn detail(&self, text: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(text.to_owned());
        }
    }

    /// To be called now and then: says that the step goes on.
    pub fn still(&mut self) {
        if self.bar.is_none() && self.told.elapsed() >= STILL {
            self.told = Instant::now();
            eprintln!("{}: {} s so far", self.label, self.begin.elapsed().as_secs());
        }
    }

    /// Ends the step well.
    pub fn done(self) {
        let line = format!("{}: done in {:.1} s", self.label, self.begin.elapsed().as_secs_f64());
        match &self.bar {
            Some(bar) => bar.println(line),
            None => eprintln!("{line}"),
        }
    }
}
