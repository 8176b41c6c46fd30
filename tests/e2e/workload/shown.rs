//! What `kubectl get vllmcluster` shows of a set of clusters: pictures that a person understands.

use anyhow::Context as _;
use testbed::plane::Plane;

use crate::suite::kubectl;

/// The short picture and the wide one.
pub async fn table(plane: &Plane, ns: &str) -> anyhow::Result<()> {
    let short = normal(&kubectl(plane, ns, "get vllmcluster").ok().await?)?;
    let wide = normal(&kubectl(plane, ns, "get vllmcluster -o wide").ok().await?)?;
    insta::with_settings!({prepend_module_to_snapshot => false, omit_expression => true}, {
        insta::assert_snapshot!("get_vllmcluster", short);
        insta::assert_snapshot!("get_vllmcluster_wide", wide);
    });
    Ok(())
}

/// The table with ages, times, counts of restarts and addresses replaced, and its columns as wide as that needs.
fn normal(table: &str) -> anyhow::Result<String> {
    let mut lines = table.lines();
    let head = lines.next().context("a table has a head")?;
    // Where each column starts: behind two spaces, which no head has within.
    let starts: Vec<usize> = head
        .char_indices()
        .filter(|(at, c)| *c != ' ' && (*at == 0 || head[..*at].ends_with("  ")))
        .map(|(at, _)| at)
        .collect();
    let cells = |line: &str| -> Vec<String> {
        let chars: Vec<char> = line.chars().collect();
        let ends = starts.iter().skip(1).copied().chain([usize::MAX]);
        let cell = |(start, end): (&usize, usize)| {
            let end = end.min(chars.len());
            chars.get(*start..end).unwrap_or_default().iter().collect::<String>().trim_end().to_owned()
        };
        starts.iter().zip(ends).map(cell).collect()
    };
    let mut rows = vec![cells(head)];
    for line in lines {
        let mut row = cells(line);
        if let Some(age) = row.last_mut() {
            "<age>".clone_into(age);
        }
        rows.push(row.iter().map(|cell| words(cell)).collect());
    }
    let widths: Vec<usize> = (0..starts.len())
        .map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default())
        .collect();
    let line = |row: &Vec<String>| {
        let padded = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        padded.collect::<Vec<_>>().join("   ").trim_end().to_owned()
    };
    Ok(rows.iter().map(line).collect::<Vec<_>>().join("\n"))
}

/// A cell with what differs from run to run replaced.
fn words(cell: &str) -> String {
    let mut words: Vec<String> = cell.split(' ').map(str::to_owned).collect();
    for at in 0..words.len() {
        let word = &words[at];
        if word.trim_end_matches(',').parse::<jiff::Timestamp>().is_ok() {
            words[at] = if word.ends_with(',') { "<time>,".into() } else { "<time>".into() };
        } else if word.starts_with("frozen-") && word != "frozen-0:" {
            words[at] = "frozen".into();
        } else if words.get(at + 1).is_some_and(|next| next == "restarts") {
            words[at] = "<n>".into();
        } else if word.starts_with("'tcp://") {
            words[at] = "'tcp://<address>'".into();
        }
    }
    words.join(" ")
}
