//! The webhook alone: one core, a steady rate, a map of all nodes.

use std::{fs, time::Duration};

use anyhow::{Context, Result, ensure};
use harness::{Cluster, free_port, railbind::Daemon};
use k8s_openapi::api::{admissionregistration::v1::MutatingWebhookConfiguration, core::v1::Namespace};
use kube::{Api, api::PostParams};
use serde_json::json;

use crate::{NODES, SERVER, load::Load, objects, section::Half, stats};

const A_SECOND: u32 = 2000;
const ROUNDS: usize = 5;
const LASTING: Duration = Duration::from_secs(5);

pub(crate) async fn run(cluster: &Cluster) -> Result<Half> {
    let namespaces: Api<Namespace> = Api::all(cluster.client().await?);
    let namespace = json!({"metadata": {"name": "alone", "labels": {"railbind.dev/inject": "enabled"}}});
    namespaces.create(&PostParams::default(), &serde_json::from_value(namespace)?).await?;
    let address = format!("127.0.0.1:{}", free_port()?);
    let url = format!("https://{address}");
    let more = ["--drain-seconds", "1", "--binding-engine", "webhook"];
    let mut webhook =
        cluster.spawn_webhook_under(&["taskset", "-c", SERVER], "webhook-alone", &address, &url, &more).await?;
    ensure!(webhook.metric("railbind_webhook_node_map_nodes", "").await? >= 5000.0, "its map is not complete");
    let listed = memory(&webhook)?;

    let authority = authority(cluster).await?;
    let worker = objects::review("Pod", "", &objects::worker("alone", "w"));
    let ordinary = objects::review("Pod", "", &objects::ordinary("alone", "o"));
    let binding = objects::review("Binding", "binding", &objects::binding("alone", "w"));
    let load = |path, review: &serde_json::Value, patched| Load {
        address: address.parse().expect("our own address"),
        authority: authority.clone(),
        path,
        body: review.to_string().into(),
        a_second: A_SECOND,
        lasting: LASTING,
        patched,
    };
    let loads = [
        ("CREATE, worker (patched)", load("/mutate/pods", &worker, true)),
        ("CREATE, not a worker", load("/mutate/pods", &ordinary, false)),
        ("Binding (patched)", load("/mutate/bindings", &binding, true)),
    ];
    let mut rounds: Vec<Vec<stats::Latencies>> = loads.iter().map(|_| Vec::new()).collect();
    let mut busy = vec![Vec::new(); loads.len()];
    for _ in 0..ROUNDS {
        for (number, (_, load)) in loads.iter().enumerate() {
            let before = cpu(&webhook)?;
            rounds[number].push(load.clone().run().await?);
            // The warm-up second is in it too.
            busy[number].push((cpu(&webhook)? - before) / (LASTING.as_secs_f64() + 1.0) * 100.0);
        }
    }
    println!(
        "\nserver alone: {A_SECOND} reviews/s on one core, open loop, {NODES} nodes; ms, median of {ROUNDS} rounds (least–greatest)"
    );
    println!("{:<26} {:>7} {:>22} {:>22} {:>22} {:>6}", "", "reviews", "p50", "p99", "p99.9", "core");
    let mut rows = Vec::new();
    for (((name, _), rounds), busy) in loads.iter().zip(&rounds).zip(&busy) {
        let at = |thousandth| stats::spread(&rounds.iter().map(|round| round.at(thousandth)).collect::<Vec<_>>());
        let count: usize = rounds.iter().map(stats::Latencies::count).sum();
        println!("{name:<26} {count:>7} {:>22} {:>22} {:>22} {:>5.0}%", at(500), at(990), at(999), stats::median(busy));
        let busy = format!("{:.0} %", stats::median(busy));
        rows.push(vec![(*name).to_owned(), count.to_string(), at(500), at(990), at(999), busy]);
    }
    let loaded = memory(&webhook)?;
    println!("memory with {NODES} nodes: {listed} after the list, {loaded} after the load");
    webhook.process.stop().await?;
    Ok(Half {
        method: format!(
            "Alone: {A_SECOND} reviews a second on one core, open loop (a review is due when it is due, and its latency counts from then), \
             over TLS as the API server calls, {ROUNDS} rounds of {} s.",
            LASTING.as_secs()
        ),
        caption: format!("Alone: latency in ms, median of {ROUNDS} rounds (least–greatest)"),
        columns: ["review", "reviews", "p50", "p99", "p99.9", "core"].map(str::to_owned).into(),
        rows,
        notes: vec![format!("Memory with {NODES} nodes: {listed} after the list, {loaded} after the load.")],
        drawn: Vec::new(),
    })
}

/// Who signed Railbind's certificate, PEM, as it has told the API server.
pub(crate) async fn authority(cluster: &Cluster) -> Result<Vec<u8>> {
    let configurations: Api<MutatingWebhookConfiguration> = Api::all(cluster.client().await?);
    let configuration = configurations.get("railbind-webhook").await?;
    let bundle = configuration.webhooks.iter().flatten().find_map(|webhook| webhook.client_config.ca_bundle.clone());
    Ok(bundle.context("the webhook registered no caBundle")?.0)
}

/// Resident memory now and at its peak.
pub(crate) fn memory(webhook: &Daemon) -> Result<String> {
    let status = fs::read_to_string(format!("/proc/{}/status", webhook.process.id()?)).context("read its memory")?;
    let mib = |field: &str| -> Result<f64> {
        let line = status.lines().find_map(|line| line.strip_prefix(field)).context("no such field")?;
        let kib: f64 = line.trim().trim_end_matches(" kB").parse().context("no number")?;
        Ok(kib / 1024.0)
    };
    Ok(format!("{:.1} MiB resident ({:.1} at its peak)", mib("VmRSS:")?, mib("VmHWM:")?))
}

/// Seconds of processor time so far.
fn cpu(webhook: &Daemon) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", webhook.process.id()?)).context("read its time")?;
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    let ticks = |place: usize| fields.get(place).and_then(|ticks| ticks.parse::<f64>().ok()).context("no ticks");
    // utime and stime, in hundredths of a second on every Linux.
    Ok((ticks(11)? + ticks(12)?) / 100.0)
}
