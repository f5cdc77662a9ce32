//! The metrics of both programs, as their registries encode them.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result};
use harness::railbind::repository;
use node_agent::selftest::session::Reason;
use policies::{profile::Profiles, selftest::SelftestStatus};
use prometheus_client::{encoding::text::encode, registry::Registry};
use serde_json::json;

/// One metric.
#[derive(Debug, Default)]
pub(crate) struct Metric {
    /// Its help.
    pub(crate) help: String,
    /// `counter`, `gauge` or `histogram`.
    pub(crate) kind: String,
    /// Names of its labels.
    pub(crate) labels: BTreeSet<String>,
}

/// Metrics by name as Prometheus stores them.
pub(crate) type Metrics = BTreeMap<String, Metric>;

/// The webhook's.
pub(crate) fn webhook() -> Result<Metrics> {
    let mut registry = Registry::default();
    let metrics = webhook::metrics::Metrics::register(&mut registry);
    // A family shows itself with its first series.
    metrics.profiles(0, 0);
    metrics.audit(0, 0);
    metrics.nodes(0, SystemTime::UNIX_EPOCH);
    read(&registry)
}

/// The agent's.
pub(crate) fn agent() -> Result<Metrics> {
    let mut registry = Registry::default();
    let metrics = node_agent::metrics::Metrics::default();
    metrics.register(&mut registry);
    metrics.wrote("node", "written");
    metrics.profiles(0, 0);
    metrics.listed_profiles("listed");
    // A machine with ports and a problem.
    let root = node_agent::survey::open(&repository().join("tests/fixtures/roce-mixed-index"))?;
    metrics.surveyed(&node_agent::survey::survey(&root, &Profiles::embedded()?, None), Duration::ZERO);
    selftest(&mut registry)?;
    read(&registry)
}

/// The agent's where the self-test is on, after a transfer.
fn selftest(registry: &mut Registry) -> Result<()> {
    let metrics = node_agent::selftest::metrics::Metrics::default();
    metrics.register(registry);
    let status: SelftestStatus = serde_json::from_value(json!({
        "profiles": [{"name": "tcp", "set": "guide", "qualified": true, "why": ""}],
        "last": {"partner": "other", "at": "2026-01-01T00:00:00Z", "verdict": "passed", "code": "AsExpected", "profile": "tcp",
                 "gbytesPerS": 1.0, "usec": 50.0, "localMemory": "host", "remoteMemory": "host", "integrity": "ok",
                 "ucx": "", "peerUcx": "", "message": ""},
    }))?;
    metrics.transferred("initiator", status.last.as_ref().context("a transfer")?);
    metrics.state(&status);
    metrics.called("met");
    metrics.refusals.count(Reason::Busy);
    Ok(())
}

fn read(registry: &Registry) -> Result<Metrics> {
    let mut text = String::new();
    encode(&mut text, registry)?;
    Ok(parse(&text))
}

fn parse(text: &str) -> Metrics {
    let mut found = Metrics::new();
    let mut order: Vec<String> = Vec::new();
    for line in text.lines() {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some("HELP"), Some(name), Some(help)) => {
                order.push(name.to_owned());
                found.entry(name.to_owned()).or_default().help = help.trim_end_matches('.').into();
            }
            (Some("#"), Some("TYPE"), Some(name), Some(kind)) => {
                found.entry(name.to_owned()).or_default().kind = kind.into();
            }
            _ if line.starts_with('#') => {}
            _ => {
                let Some((_, rest)) = line.split_once('{') else { continue };
                let (Some(metric), Some((labels, _))) =
                    (order.last().and_then(|name| found.get_mut(name)), rest.rsplit_once('}'))
                else {
                    continue;
                };
                let names =
                    labels.split("\",").filter_map(|label| label.split_once('=').map(|(name, _)| name.to_owned()));
                metric.labels.extend(names.filter(|name| name != "le"));
            }
        }
    }
    // The encoder names counters without the suffix that Prometheus stores them with.
    found
        .into_iter()
        .map(|(name, metric)| if metric.kind == "counter" { (format!("{name}_total"), metric) } else { (name, metric) })
        .collect()
}
