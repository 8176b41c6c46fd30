//! The matrix: every kind of write, by every verb, dry and not, good and bad in each way, with the operator up and down,
//! on the real plane, each with its outcome and with who decides it.
//!
//! Reading order: [`axes`] and [`case`] (what a row is), [`objects`], [`clusters`], [`scales`], [`scaled_objects`], [`triggers`], [`hpas`] (the
//! rows), [`cells`] (their product), [`ground`] (namespaces, and who stands still meanwhile), [`stage`] (what cells
//! stand on), [`write`] and [`api`] (one request), [`asked`] and [`judge`] (who decided), [`report`]; [`lint`] has what lint finds, [`kubectl`] has what kubectl
//! refuses by itself.
//!
//! **Architecture invariant**: outcomes are stated in the rows and observed at the API server; the code under test is
//! never asked what it would say.

mod api;
mod asked;
mod axes;
mod case;
mod cells;
mod clusters;
mod ground;
mod hpas;
mod judge;
mod kubectl;
mod lint;
mod objects;
mod report;
mod scaled_objects;
mod scales;
mod stage;
mod triggers;
mod write;

use anyhow::ensure;
use futures::stream::{StreamExt as _, TryStreamExt as _};
use kube::Client;
use testbed::addons;
use testbed::plane::Plane;

use super::suite::{start_operator, stop_operator};
use asked::Asked;
use axes::{Kind, Webhook};
use case::Case;
use cells::Cell;
use ground::Ground;
use report::Report;
use stage::{Seen, Stage};

/// Fewer cells would not be the matrix that was asked for.
const LEAST: usize = 240;
/// Stages at work side by side: enough to keep two cores busy, and no more.
const SIDE_BY_SIDE: usize = 4;

/// All of it.
pub async fn whole(plane: &Plane) -> anyhow::Result<()> {
    let cases = cases();
    let (cells, left_out) = cells::generate(&cases);
    let mut report = Report::new(&cells, &left_out)?;
    ensure!(cells.len() >= LEAST, "{} cells", cells.len());
    let client = plane.client().await?;
    // Its count tells whether it was asked; what one knows, all know.
    addons::scale_operator(plane, 1).await?;
    let ground = Ground::prepare(plane, &client).await?;
    let mut stages = stage::stages(&cells);
    report.step(&format!("{} stages", stages.len()));
    futures::stream::iter(stages.iter_mut().map(|stage| stage.set_up(&client)))
        .buffer_unordered(SIDE_BY_SIDE)
        .try_collect::<Vec<()>>()
        .await?;
    ground.ready(plane, &client).await?;
    report.step("ready");
    let asked = Asked::new(&client, ground.operator_pod(plane).await?).await?;
    let mut seen = phase(&client, &cells, &mut stages, Webhook::Up, Some(&asked)).await?;
    report.step("up");
    report.kubectl(kubectl::cells(plane, Webhook::Up).await?);
    stop_operator(plane).await?;
    seen.extend(phase(&client, &cells, &mut stages, Webhook::Down, None).await?);
    report.step("down");
    report.kubectl(kubectl::cells(plane, Webhook::Down).await?);
    start_operator(plane).await?;
    report.step("up again");
    let creations = report.judge(plane, &cells, &stages, seen, &ground.ours)?;
    report.lint(lint::compare(&creations).await?);
    report.step("lint");
    ground.clear(plane, &client).await?;
    report.step("cleared");
    report.end()
}

fn cases() -> Vec<Case> {
    let mut cases = clusters::cases();
    cases.extend(scales::cases());
    cases.extend(scaled_objects::cases());
    cases.extend(triggers::cases());
    cases.extend(hpas::cases(Kind::HpaV1));
    cases.extend(hpas::cases(Kind::HpaV2));
    cases
}

type Found = Vec<(usize, Result<Seen, String>)>;

/// Writes all cells of a phase. HPAs one by one, where the operator's count tells who was asked.
async fn phase(
    client: &Client,
    cells: &[Cell<'_>],
    stages: &mut [Stage<'_>],
    webhook: Webhook,
    asked: Option<&Asked>,
) -> anyhow::Result<Found> {
    let (counted, rest): (Vec<_>, Vec<_>) =
        stages.iter_mut().partition(|stage| asked.is_some() && stage.kind.is_hpa());
    let one_by_one = async {
        let mut found = Vec::new();
        for stage in counted {
            found.extend(stage.run(client, cells, webhook, asked).await?);
        }
        anyhow::Ok(found)
    };
    let side_by_side =
        futures::stream::iter(rest.into_iter().map(|stage| stage.run(client, cells, webhook, None)))
            .buffer_unordered(SIDE_BY_SIDE)
            .try_collect::<Vec<_>>();
    let (mut found, others) = tokio::try_join!(one_by_one, side_by_side)?;
    found.extend(others.into_iter().flatten());
    Ok(found)
}
