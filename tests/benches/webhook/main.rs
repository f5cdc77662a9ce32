//! How long reviews take: the webhook alone under a steady load, with a map of 5,000 nodes; and pods through the real API server,
//! side by side with no webhook, a MutatingAdmissionPolicy, a Go webhook and a ready answer that make the same patch. `make bench PART=webhook`.

mod alone;
mod constant;
mod load;
mod objects;
mod section;
mod stats;
mod through;

use std::{fs, process::Command};

use anyhow::{Context, Result, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use harness::{Cluster, Options};
use k8s_openapi::api::core::v1::Node;
use kube::{Api, api::PostParams};

/// Nodes of the cluster.
const NODES: usize = 5000;
/// Core of the webhook while it is measured alone; everything else is on [`OTHERS`].
const SERVER: &str = "0";
const OTHERS: &str = "1";

fn main() -> Result<()> {
    let cores = std::thread::available_parallelism().context("count cores")?.get();
    ensure!(cores >= 2, "the webhook needs a core of its own: two cores at least");
    // Before any thread and any child is there: all of them inherit it.
    pin(std::process::id(), OTHERS)?;
    let runtime = tokio::runtime::Runtime::new().context("async runtime")?;
    runtime.block_on(run(cores))
}

async fn run(cores: usize) -> Result<()> {
    let cluster = Cluster::start(Options { bare: true, ..Options::default() }).await?;
    cluster.install_identities().await?;
    let nodes: Api<Node> = Api::all(cluster.client().await?);
    let post = PostParams::default();
    let create = (0..NODES).map(objects::node).map(|node| {
        let (nodes, post) = (&nodes, &post);
        async move { nodes.create(post, &serde_json::from_value(node)?).await.context("create a node") }
    });
    stream::iter(create).buffer_unordered(16).try_for_each(|_| async { Ok(()) }).await?;
    println!("\n{} · {cores} cores · {NODES} nodes", processor());
    // `cargo bench -p railbind-tests --bench webhook -- through`: only that.
    let only = std::env::args().skip(1).find(|word| !word.starts_with('-'));
    let wanted = |part: &str| only.as_deref().is_none_or(|only| only == part);
    let alone = if wanted("alone") { Some(alone::run(&cluster).await?) } else { None };
    for id in descendants(std::process::id()) {
        pin(id, &format!("0-{}", cores - 1))?;
    }
    let through = if wanted("through") { Some(through::run(&cluster).await?) } else { None };
    if let (Some(alone), Some(through)) = (alone, through) {
        section::write(&alone, &through)?;
    }
    cluster.stop().await
}

fn processor() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ").map(|(_, name)| name));
    name.unwrap_or("unknown processor").to_owned()
}

/// Keeps a process with all its threads on some cores.
fn pin(process: u32, cores: &str) -> Result<()> {
    let output = Command::new("taskset").args(["-apc", cores, &process.to_string()]).output();
    let output = output.context("taskset (util-linux) is not here")?;
    ensure!(output.status.success(), "taskset: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// A process, its children, and theirs.
fn descendants(process: u32) -> Vec<u32> {
    let threads = fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    let lists = threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    let children: Vec<u32> =
        lists.flat_map(|ids| ids.split_whitespace().flat_map(str::parse).collect::<Vec<_>>()).collect();
    [process].into_iter().chain(children.into_iter().flat_map(descendants)).collect()
}
