//! `status`: nodes by fabric domain, with verdict and self-test.

use std::{collections::BTreeMap, fmt::Write as _};

use policies::{doctor::NodeScene, names::label};
use serde::Serialize;

use crate::{
    args::StatusArgs,
    cluster::{Cluster, Missing},
    exit::{Exit, Result},
    gather, out,
};

/// A node, for programs.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    node: String,
    fabric: Option<String>,
    domain: Option<String>,
    gpu_direct: Option<String>,
    ports: Option<u32>,
    rate_gbps: Option<f64>,
    profile: Option<String>,
    gpus: u64,
    ready: String,
    message: String,
    selftest: String,
    bandwidth: Option<String>,
    problems: usize,
}

#[derive(Debug, Serialize)]
struct Answer {
    nodes: Vec<Row>,
    missing: Vec<Missing>,
}

/// Shows them.
///
/// # Errors
/// No nodes can be listed.
pub async fn run(cluster: &Cluster, args: &StatusArgs) -> Result<Exit> {
    let mut nodes = gather::nodes(cluster).await?;
    nodes.sort_by_key(|node| (gather::domain(node), node.view.name.clone()));
    let answer = Answer { nodes: nodes.iter().map(row).collect(), missing: cluster.missing() };
    out::answer(args.output, &answer, || people(&nodes, &answer.nodes))?;
    Ok(cluster.end(false))
}

fn row(node: &NodeScene) -> Row {
    let of = |key: &str| node.view.labels.get(key).cloned();
    let story = node.fabric.known().and_then(Option::as_ref);
    Row {
        node: node.view.name.clone(),
        fabric: of(label::FABRIC),
        domain: of(label::FABRIC_DOMAIN),
        gpu_direct: of(label::GPUDIRECT),
        ports: of(label::RDMA_PORTS).and_then(|ports| ports.parse().ok()),
        rate_gbps: of(label::RATE_GBPS).and_then(|rate| rate.parse().ok()),
        profile: of(label::PROFILE),
        gpus: node.view.gpus(),
        ready: node.condition.as_ref().map_or_else(|| "Unknown".into(), |condition| condition.status.clone()),
        message: node.condition.as_ref().map(|condition| condition.message.clone()).unwrap_or_default(),
        selftest: of(label::SELFTEST)
            .or_else(|| node.selftest.as_ref().map(|test| test.verdict.clone()))
            .unwrap_or_else(|| "untested".into()),
        bandwidth: node.selftest.as_ref().and_then(|test| test.bandwidth.clone()),
        problems: story.map_or(0, |story| story.problems.len()),
    }
}

fn people(nodes: &[NodeScene], rows: &[Row]) -> String {
    let mut domains: BTreeMap<String, Vec<&Row>> = BTreeMap::new();
    for (node, row) in nodes.iter().zip(rows) {
        domains.entry(gather::domain(node)).or_default().push(row);
    }
    let mut text = String::new();
    // The best fabrics first, nodes without one last.
    let order = |rows: &[&Row]| match rows[0].fabric.as_deref() {
        Some("infiniband") => 0,
        Some("roce") => 1,
        Some("efa") => 2,
        Some("tcp") => 4,
        Some(_) => 3,
        None => 5,
    };
    let mut sorted: Vec<_> = domains.iter().collect();
    sorted.sort_by_key(|(_, rows)| order(rows));
    for (domain, rows) in sorted {
        let fabric = rows[0].fabric.as_deref().unwrap_or("no agent reports");
        let plural = if rows.len() == 1 { "node" } else { "nodes" };
        let head = if *domain == fabric || rows[0].fabric.is_none() {
            fabric.to_owned()
        } else {
            format!("{fabric}, domain {domain}")
        };
        let _ = writeln!(
            text,
            "{} {}",
            out::paint(out::HEAD, out::clean(&head)),
            out::paint(out::DIM, format!("({} {plural})", rows.len()))
        );
        let cell = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".into());
        let lines = rows
            .iter()
            .map(|row| {
                let verdict = match (row.ready.as_str(), row.problems) {
                    ("True", 0) => "ready".to_owned(),
                    ("True", problems) => format!("ready, {problems} problems"),
                    ("False", 0) if row.fabric.as_deref() == Some("tcp") => "no RDMA".into(),
                    ("False", _) => "not ready".into(),
                    _ => "unknown".into(),
                };
                let ports = match (row.ports, row.rate_gbps) {
                    (Some(ports), Some(rate)) => format!("{ports} x {rate}G"),
                    (Some(ports), None) => ports.to_string(),
                    (None, _) => "-".into(),
                };
                let measured = match &row.bandwidth {
                    Some(bandwidth) => format!("{} {bandwidth}", row.selftest),
                    None => row.selftest.clone(),
                };
                vec![
                    format!("  {}", row.node),
                    verdict,
                    cell(&row.profile),
                    cell(&row.gpu_direct),
                    ports,
                    row.gpus.to_string(),
                    measured,
                ]
            })
            .collect();
        let table = out::table(&["  NODE", "VERDICT", "PROFILE", "GPUDIRECT", "PORTS", "GPUS", "SELFTEST"], lines);
        text += &coloured(&table);
        text.push('\n');
    }
    let sick = rows.iter().filter(|row| row.problems > 0).count();
    if sick > 0 {
        let _ = writeln!(text, "{sick} nodes with problems: kubectl railbind doctor says what to do");
    }
    text
}

/// Verdicts in colour; after the table is laid out, because colours have no width.
fn coloured(table: &str) -> String {
    let mut text = String::new();
    for line in table.lines() {
        let style = if line.contains(" not ready ") || line.ends_with(" failed") {
            Some(out::BAD)
        } else if line.contains(" problems ") || line.contains(" unknown ") {
            Some(out::WARN)
        } else {
            None
        };
        text += &style.map_or_else(|| line.to_owned(), |style| out::paint(style, line));
        text.push('\n');
    }
    text
}
