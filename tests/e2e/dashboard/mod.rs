//! The Grafana dashboard on a real Prometheus that reads a real operator, API server and servers: each query of each panel moves
//! under the cause that it is for.
//!
//! [`table`] says what moves by what, [`causes`] makes it happen.
//!
//! **Architecture invariant**: queries are read from the file that users load; one that is in no row of the table fails.

mod causes;
mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use anyhow::{Context as _, ensure};
use serde_json::Value;
use testbed::plane::Plane;
use testbed::plane::wait::{Deadline, eventually};
use testbed::prometheus::{Prometheus, Sample};

use super::suite::{PATIENCE, forget};
use causes::{Cause, Ground};
use table::{Expect, ROWS, Row};

const NS: &str = "dashboard";
const DASHBOARD: &str = include_str!("../../../deploy/grafana/vllm-operator.json");
const ALERTS: &str = include_str!("../../../deploy/prometheus/alerts.yaml");
const RULES: &str = include_str!("../../../deploy/prometheus/rules.yaml");

/// What Grafana puts in place of its variables. Two looks at the API server have place in a rate, and little of what another
/// scenario has done before.
const VARIABLES: [(&str, &str); 4] =
    [("$__rate_interval", "12s"), ("$__range", "12s"), ("$namespace", NS), ("$cluster", ".*")];

/// One cause after the other, and all that is to move by it.
pub async fn every_panel_moves(plane: &Plane) -> anyhow::Result<()> {
    let board = Board::read()?;
    board.is_covered()?;
    let prometheus = Prometheus::of(plane).await?;
    takes_every_rule(&prometheus).await?;
    let look = Look { prometheus, board };
    let ground = Ground::of(plane).await?;
    let begun = look.at(ROWS.iter().filter(|row| matches!(row.expect, Expect::Renews))).await?;

    for cause in Cause::ALL {
        let since = Instant::now();
        let rows: Vec<&'static Row> = ROWS.iter().filter(|row| row.by == cause).collect();
        let mut before = look.quiet(&rows).await?;
        before.extend(&begun);
        ground.make(cause).await.with_context(|| format!("{cause:?}"))?;
        look.moved(cause, &rows, &before, &ground).await?;
        ground.end(cause).await.with_context(|| format!("after {cause:?}"))?;
        eprintln!("{cause:?}: {} queries in {:.1?}", rows.len(), since.elapsed());
    }
    forget(plane, NS).await
}

/// Every rule that users load is loaded and evaluated without an error.
async fn takes_every_rule(prometheus: &Prometheus) -> anyhow::Result<()> {
    let mut written = BTreeSet::new();
    for text in [ALERTS, RULES] {
        let file: Value = serde_saphyr::from_str(text)?;
        let rules =
            file["groups"].as_array().into_iter().flatten().filter_map(|group| group["rules"].as_array());
        written.extend(rules.flatten().filter_map(|rule| {
            rule["alert"].as_str().or_else(|| rule["record"].as_str()).map(str::to_owned)
        }));
    }
    ensure!(!written.is_empty(), "no rule is written");
    eventually("every rule is evaluated", Deadline::after(PATIENCE), || async {
        let rules = prometheus.rules().await.map_err(|error| format!("{error:#}"))?;
        let healthy = rules.iter().filter(|rule| rule["health"] == "ok" && rule["lastError"].is_null());
        let healthy: BTreeSet<_> =
            healthy.filter_map(|rule| rule["name"].as_str().map(str::to_owned)).collect();
        if healthy == written && rules.len() == written.len() {
            Ok(())
        } else {
            Err(format!("{written:?} are written, and these are loaded: {rules:#?}"))
        }
    })
    .await
}

/// Each expression by panel and letter, with Grafana's variables filled in.
struct Board(BTreeMap<(String, String), String>);

impl Board {
    fn read() -> anyhow::Result<Self> {
        let dashboard: Value = serde_json::from_str(DASHBOARD)?;
        let mut queries = BTreeMap::new();
        for panel in dashboard["panels"].as_array().context("no panels")? {
            for target in panel["targets"].as_array().into_iter().flatten() {
                let word =
                    |value: &Value| value.as_str().map(str::to_owned).with_context(|| panel.to_string());
                let mut expression = word(&target["expr"])?;
                for (variable, value) in VARIABLES {
                    expression = expression.replace(variable, value);
                }
                ensure!(!expression.contains('$'), "a variable is left in {expression}");
                let place = (word(&panel["title"])?, word(&target["refId"])?);
                ensure!(queries.insert(place, expression).is_none(), "two of a name: {panel}");
            }
        }
        Ok(Self(queries))
    }

    /// Each query is in a row, and each row has a query.
    fn is_covered(&self) -> anyhow::Result<()> {
        let there: BTreeSet<(&str, &str)> =
            self.0.keys().map(|(panel, query)| (panel.as_str(), query.as_str())).collect();
        let tried = ROWS.iter().map(|row| (row.panel, row.query)).collect();
        let (untried, absent): (Vec<_>, Vec<_>) =
            (there.difference(&tried).collect(), tried.difference(&there).collect());
        ensure!(
            untried.is_empty() && absent.is_empty(),
            "nothing moves {untried:?}; {absent:?} are not there"
        );
        Ok(())
    }
}

/// Values of rows, by their place in the table.
type Values = BTreeMap<usize, Option<f64>>;

struct Look {
    prometheus: Prometheus,
    board: Board,
}

impl Look {
    /// What the rows show now.
    async fn at(&self, rows: impl Iterator<Item = &'static Row>) -> anyhow::Result<Values> {
        let mut values = Values::new();
        for row in rows {
            let expression = &self.board.0[&(row.panel.to_owned(), row.query.to_owned())];
            let found = self.prometheus.query(expression).await.with_context(|| row.panel)?;
            let of_row = |sample: &&Sample| {
                row.labels
                    .iter()
                    .all(|(name, value)| sample.labels.get(*name).is_some_and(|found| found == value))
            };
            let numbers: Vec<_> =
                found.iter().filter(of_row).map(Sample::value).filter(|it| !it.is_nan()).collect();
            values.insert(row.place(), (!numbers.is_empty()).then(|| numbers.iter().sum()));
        }
        Ok(values)
    }

    /// Waits until nothing has moved that is to be moved, and gives what is shown then.
    async fn quiet(&self, rows: &[&'static Row]) -> anyhow::Result<Values> {
        eventually("all is as it is without the cause", Deadline::after(PATIENCE), || async {
            let values = self.at(rows.iter().copied()).await.map_err(|error| format!("{error:#}"))?;
            let early = rows.iter().filter(|row| !row.expect.is_ahead(values[&row.place()]));
            let early: Vec<_> = early.map(|row| row.told(values[&row.place()])).collect();
            if early.is_empty() { Ok(values) } else { Err(early.join("\n")) }
        })
        .await
    }

    /// Waits until each of them has moved, each at its own time; what does not last is done again meanwhile.
    async fn moved(
        &self,
        cause: Cause,
        rows: &[&'static Row],
        before: &Values,
        ground: &Ground<'_>,
    ) -> anyhow::Result<()> {
        let left = std::cell::RefCell::new(rows.to_vec());
        eventually(&format!("all moves by {cause:?}"), Deadline::after(PATIENCE), || async {
            let tell = |error: anyhow::Error| format!("{error:#}");
            ground.again(cause).await.map_err(tell)?;
            let waiting = left.borrow().clone();
            let now = self.at(waiting.iter().copied()).await.map_err(tell)?;
            left.borrow_mut().retain(|row| !row.expect.has_moved(before[&row.place()], now[&row.place()]));
            let left = left.borrow();
            let told = left
                .iter()
                .map(|row| format!("{}, before {:?}", row.told(now[&row.place()]), before[&row.place()]));
            if left.is_empty() { Ok(()) } else { Err(told.collect::<Vec<_>>().join("\n")) }
        })
        .await
    }
}
