//! What processes use, and what the API server and the webhook count.

use std::{collections::BTreeMap, fs, time::Duration};

use anyhow::{Context as _, Result};
use harness::{Cluster, railbind::Daemon};
use serde_json::json;

/// Resident memory of a process, in MiB.
pub(crate) fn resident(process: u32) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).context("read its memory")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kib: f64 = line.trim().trim_end_matches(" kB").parse().context("no number")?;
    Ok(kib / 1024.0)
}

/// Seconds of processor time of a process so far.
pub(crate) fn processor(process: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).context("read its time")?;
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    let ticks = |place: usize| fields.get(place).and_then(|ticks| ticks.parse::<f64>().ok()).context("no ticks");
    // utime and stime, in hundredths of a second on every Linux.
    Ok((ticks(11)? + ticks(12)?) / 100.0)
}

/// What the API server has answered to who writes what agents write.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Answers {
    /// Writes that it took.
    pub(crate) taken: f64,
    /// Requests that it sent away because of how many there were (429); clients make them again.
    pub(crate) sent_away: f64,
}

/// So far.
pub(crate) async fn answers(cluster: &Cluster) -> Result<Answers> {
    let text = cluster.kubectl(&["get", "--raw", "/metrics"]).await?;
    let sum = |wanted: &dyn Fn(&str) -> bool| -> f64 {
        let ours = |line: &&str| {
            line.starts_with("apiserver_request_total{")
                && ["nodes", "nodefabrics", "events"].iter().any(|kind| line.contains(&format!("resource=\"{kind}\"")))
                && wanted(line)
        };
        text.lines().filter(ours).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    };
    let writes =
        |line: &str| ["POST", "PUT", "PATCH", "APPLY"].iter().any(|verb| line.contains(&format!("verb=\"{verb}\"")));
    Ok(Answers {
        taken: sum(&|line| writes(line) && line.contains("code=\"20")),
        sent_away: sum(&|line| line.contains("code=\"429\"")),
    })
}

/// Bytes of an object as JSON, which is how etcd keeps what is of no built-in kind.
pub(crate) async fn bytes(cluster: &Cluster, path: &str) -> Result<usize> {
    Ok(cluster.kubectl(&["get", "--raw", path]).await?.len())
}

/// Bytes in use of etcd's database, with the revisions that have not been compacted yet.
pub(crate) async fn database(cluster: &Cluster) -> Result<f64> {
    let status = cluster.etcd("/v3/maintenance/status", &json!({})).await?;
    status["dbSizeInUse"].as_str().and_then(|bytes| bytes.parse().ok()).with_context(|| format!("no size: {status}"))
}

/// How long reviews of pods took, from the webhook's own histogram: cumulative counts by upper bound in seconds.
#[derive(Debug, Clone, Default)]
pub(crate) struct Durations(BTreeMap<u64, f64>);

impl Durations {
    /// So far.
    pub(crate) async fn of(webhook: &Daemon) -> Result<Self> {
        let (_, text) = webhook.get("/metrics").await?;
        let lines = text.lines().filter(|line| {
            line.starts_with("railbind_webhook_request_duration_seconds_bucket") && line.contains("hook=\"pods\"")
        });
        let bucket = |line: &str| -> Option<(u64, f64)> {
            let bound = line.split("le=\"").nth(1)?.split('"').next()?;
            let bound: f64 = if bound == "+Inf" { f64::INFINITY } else { bound.parse().ok()? };
            Some((bound.to_bits(), line.rsplit(' ').next()?.parse().ok()?))
        };
        Ok(Self(lines.filter_map(bucket).collect()))
    }

    /// The upper bound in milliseconds that this share of those since `before` did not exceed.
    pub(crate) fn since(&self, before: &Self, share: f64) -> f64 {
        let count = |bound: &u64| self.0[bound] - before.0.get(bound).copied().unwrap_or_default();
        let all = self.0.keys().map(count).fold(0.0, f64::max);
        let bound = self.0.keys().find(|bound| count(bound) >= all * share);
        bound.map_or(f64::NAN, |bound| f64::from_bits(*bound) * 1000.0)
    }
}

/// The value that this share of all does not exceed, in milliseconds.
pub(crate) fn at(all: &mut [Duration], share: f64) -> f64 {
    all.sort_unstable();
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "thousands"
    )]
    let place = ((all.len() as f64 * share).ceil() as usize).max(1) - 1;
    all.get(place).map_or(f64::NAN, |took| took.as_secs_f64() * 1000.0)
}
