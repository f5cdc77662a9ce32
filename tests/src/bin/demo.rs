//! `make demo`: the main job from the kernel's files to the containers' environment, on a real control plane.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use clap::{Parser, Subcommand};
use harness::{
    Cluster, LIMIT, Options,
    railbind::{Daemon, repository},
    scene::MACHINES,
    until,
};
use serde_json::Value;

/// Railbind on six nodes.
#[derive(Debug, Parser)]
struct Args {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start it in the background and leave it running.
    Up,
    /// Stop what `up` started.
    Down,
    /// What `up` runs in the background.
    #[command(hide = true)]
    Serve,
}

const WORKERS: &str = include_str!("../../demo/workers.yaml");

#[tokio::main]
async fn main() -> Result<()> {
    match Args::parse().command {
        None => {
            let scene = Scene::start().await?;
            scene.play().await?;
            scene.cluster.stop().await
        }
        Some(Command::Up) => up().await,
        Some(Command::Down) => down().await,
        Some(Command::Serve) => serve().await,
    }
}

struct Scene {
    cluster: Cluster,
    webhook: Daemon,
    _agents: Vec<Daemon>,
}

impl Scene {
    async fn start() -> Result<Self> {
        say("Starting etcd, kube-apiserver, kube-scheduler and kube-controller-manager");
        let cluster = Cluster::start(Options::default()).await?;
        cluster.install_identities().await?;
        say("Starting six nodes (real kubelets over a runtime that records) and an agent for each");
        let mut agents = Vec::new();
        for machine in MACHINES {
            println!("  {:<13} {}", machine.node, machine.what);
            agents.push(cluster.add_machine(machine).await?);
        }
        say("Starting the webhook, which registers itself");
        let webhook = cluster.spawn_webhook("webhook").await?;
        Ok(Self { cluster, webhook, _agents: agents })
    }

    async fn play(&self) -> Result<()> {
        let cluster = &self.cluster;
        say("What the agents found: kubectl get nodes -L railbind.dev/…");
        let columns = "railbind.dev/fabric,railbind.dev/gpudirect,railbind.dev/profile,railbind.dev/gid-index,railbind.dev/rdma-ports,railbind.dev/rate-gbps";
        let table = cluster.kubectl(&["get", "nodes", "-L", columns]).await?;
        print!("{}", without_columns(&table, &["STATUS", "ROLES", "AGE", "VERSION"]));

        say("kubectl describe node roce-2 (ours of it)");
        print!("{}", ours(&cluster.kubectl(&["describe", "node", "roce-2"]).await?));

        say(
            "An ordinary pod, a worker, an EFA worker, and a Dynamo prefill/decode pair: nobody names a fabric setting",
        );
        cluster.apply(WORKERS).await?;
        let pods = ["ordinary", "worker", "efa-worker", "prefill", "decode"];
        let mut records = Vec::new();
        for pod in pods {
            records.push((pod, cluster.recorded("demo", pod, "main").await?));
        }
        cluster.kubectl(&["wait", "-n", "demo", "--for=jsonpath={.status.phase}=Running", "pod", "--all"]).await?;
        print!(
            "{}",
            cluster
                .kubectl(&[
                    "get",
                    "pods",
                    "-n",
                    "demo",
                    "-o",
                    "custom-columns=NAME:.metadata.name,NODE:.spec.nodeName,PHASE:.status.phase"
                ])
                .await?
        );

        say("kubectl describe pod prefill (ours of it)");
        print!("{}", ours(&cluster.kubectl(&["describe", "pod", "-n", "demo", "prefill"]).await?));

        say("What the kubelets really handed each container");
        for (pod, record) in &records {
            println!("  {pod} on {}", record["node"].as_str().unwrap_or("?"));
            let mut lines = environment(record);
            lines.extend(privileges(record));
            if lines.is_empty() {
                lines.push("nothing from Railbind".into());
            }
            for line in lines {
                println!("      {line}");
            }
        }
        check(cluster, &records).await
    }
}

/// What must have come out; the demo fails if it did not.
async fn check(cluster: &Cluster, records: &[(&str, Value)]) -> Result<()> {
    let of = |pod: &str| records.iter().find(|(name, _)| *name == pod).map(|(_, record)| record).context("no record");
    let env =
        |pod: &str, name: &str| -> Result<Option<String>> { Ok(of(pod)?["env"][name].as_str().map(str::to_owned)) };
    ensure!(environment(of("ordinary")?).is_empty(), "the ordinary pod was touched");
    for (name, value) in [("UCX_TLS", "srd,cuda_copy,tcp"), ("UCX_RNDV_SCHEME", "auto"), ("UCX_RNDV_THRESH", "8192")] {
        ensure!(env("efa-worker", name)?.as_deref() == Some(value), "EFA: {name} is not {value}");
    }
    for (name, value) in
        [("UCX_TLS", "rc_x,rc,dc_x,dc,cuda_copy,cuda_ipc"), ("UCX_RNDV_SCHEME", "get_zcopy"), ("UCX_RNDV_THRESH", "0")]
    {
        ensure!(env("worker", name)?.as_deref() == Some(value), "InfiniBand: {name} is not {value}");
    }
    ensure!(env("worker", "UCX_IB_GID_INDEX")?.is_none(), "a GID index on InfiniBand");
    let mut seen = Vec::new();
    for pod in ["prefill", "decode"] {
        let node = of(pod)?["node"].as_str().context("no node")?;
        let own = cluster.label(node, "railbind.dev/gid-index").await?;
        ensure!(env(pod, "UCX_IB_GID_INDEX")? == Some(own.clone()), "{pod} has not the index of {node}");
        seen.push(own);
    }
    ensure!(seen[0] != seen[1], "prefill and decode were to show two nodes' values");
    say(&format!(
        "Each RoCE container got its own node's GID index ({} and {}), and nobody named either. Next: make demo-up",
        seen[0], seen[1]
    ));
    Ok(())
}

fn say(text: &str) {
    println!("\n▌ {text}");
}

/// The UCX environment of a container.
fn environment(record: &Value) -> Vec<String> {
    let variables = record["env"].as_object().into_iter().flatten().filter(|(name, _)| name.starts_with("UCX_"));
    variables.map(|(name, value)| format!("{name}={}", value.as_str().unwrap_or_default())).collect()
}

/// Added capabilities, and the memory at `/dev/shm`.
fn privileges(record: &Value) -> Vec<String> {
    let added = &record["linux"]["security_context"]["capabilities"]["add_capabilities"];
    let mut lines: Vec<String> = added
        .as_array()
        .into_iter()
        .flatten()
        .map(|name| format!("capability {}", name.as_str().unwrap_or_default()))
        .collect();
    let mounts = record["mounts"].as_array().into_iter().flatten();
    if mounts.into_iter().any(|mount| mount["container_path"] == "/dev/shm") {
        lines.push("memory volume at /dev/shm".into());
    }
    lines
}

/// The lines of a `kubectl describe` that speak of us, with the lines that continue them.
fn ours(text: &str) -> String {
    let mut shown = String::new();
    let mut indent = None;
    for line in text.lines() {
        let depth = line.len() - line.trim_start().len();
        let found = line.find("railbind.dev").or_else(|| line.find("UCX_"));
        let continues = indent.is_some_and(|indent| depth > indent);
        if found.is_some() || continues {
            shown.push_str(line.trim_end());
            shown.push('\n');
        }
        indent = found.filter(|_| line.trim_end().ends_with(':')).or(indent.filter(|_| continues));
    }
    shown
}

/// A kubectl table without some of its columns.
fn without_columns(table: &str, unwanted: &[&str]) -> String {
    let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    let Some(header) = rows.first() else { return String::new() };
    // An empty cell is blanks only, so cells are cut where the header's words start.
    let first = table.lines().next().unwrap_or_default();
    let starts: Vec<usize> = header
        .iter()
        .scan(0, |from, word| {
            let at = first[*from..].find(word).map(|at| at + *from)?;
            *from = at + word.len();
            Some(at)
        })
        .collect();
    let cell = |line: &str, column: usize| {
        let end = starts.get(column + 1).copied().unwrap_or(line.len()).min(line.len());
        line.get(starts[column].min(end)..end).unwrap_or_default().trim().to_owned()
    };
    let kept: Vec<usize> = (0..header.len()).filter(|column| !unwanted.contains(&header[*column])).collect();
    let cells: Vec<Vec<String>> =
        table.lines().map(|line| kept.iter().map(|column| cell(line, *column)).collect()).collect();
    let widths: Vec<usize> =
        (0..kept.len()).map(|column| cells.iter().map(|row| row[column].chars().count()).max().unwrap_or(0)).collect();
    let line = |row: &Vec<String>| {
        let padded: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        format!("  {}\n", padded.join("  ").trim_end())
    };
    cells.iter().map(line).collect()
}

fn state() -> PathBuf {
    repository().join(".demo")
}

/// Starts `serve` as a process of its own and waits until it has played.
async fn up() -> Result<()> {
    let state = state();
    if running(&state) {
        bail!("it runs already: `make demo-down` stops it");
    }
    let _ = fs::remove_dir_all(&state);
    fs::create_dir_all(&state)?;
    let log = fs::File::create(state.join("log"))?;
    let mut child = std::process::Command::new(std::env::current_exe()?)
        .arg("serve")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("start the background part")?;
    fs::write(state.join("pid"), child.id().to_string())?;
    let shown = until("the demo to be up", LIMIT * 4, || {
        let ended = child.try_wait();
        let text = fs::read_to_string(state.join("log")).unwrap_or_default();
        async move {
            match ended {
                Ok(None) if text.contains("▌ Ready:") => Ok(Ok(text)),
                Ok(None) => bail!("not yet"),
                _ => Ok(Err(anyhow::anyhow!("it ended:\n{text}"))),
            }
        }
    })
    .await??;
    print!("{shown}");
    Ok(())
}

async fn serve() -> Result<()> {
    let scene = Scene::start().await?;
    scene.play().await?;
    let kubeconfig = state().join("kubeconfig");
    fs::copy(scene.cluster.kubeconfig(), &kubeconfig)?;
    let plugin = harness::railbind::binary("kubectl-railbind")?;
    let kubectl = state().join("kubectl");
    let kube = harness::kube_binary().await?;
    fs::write(
        &kubectl,
        // Beside it on the PATH is kubectl-railbind, which makes `kubectl railbind` work.
        format!(
            "#!/bin/sh\nPATH='{}':\"$PATH\" KUBECONFIG='{}' exec '{}' kubectl \"$@\"\n",
            plugin.parent().unwrap_or(&plugin).display(),
            kubeconfig.display(),
            kube.display()
        ),
    )?;
    fs::set_permissions(&kubectl, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    // A machine without an address of its own has no page, and everything else.
    let page = scene.cluster.publish_page().await;
    match &page {
        Ok(balancer) => {
            balancer.add(scene.webhook.admin());
            say("The page: .demo/kubectl railbind ui");
        }
        Err(error) => say(&format!("The page is not there: {error:#}")),
    }
    say("Ready: .demo/kubectl is kubectl for it (kubeconfig: .demo/kubeconfig); `make demo-down` stops it");
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    terminate.recv().await;
    scene.cluster.stop().await
}

async fn down() -> Result<()> {
    let state = state();
    if !running(&state) {
        println!("nothing runs");
        return Ok(());
    }
    let pid = fs::read_to_string(state.join("pid"))?;
    let status = std::process::Command::new("kill").arg(pid.trim()).status()?;
    ensure!(status.success(), "could not stop process {pid}");
    until("the demo to end", Duration::from_secs(30), || async {
        ensure!(!running(&state), "still there");
        Ok(())
    })
    .await?;
    fs::remove_dir_all(&state)?;
    println!("stopped");
    Ok(())
}

/// Whether the process that `up` started is there: its id may have gone to another program since.
fn running(state: &Path) -> bool {
    let Ok(pid) = fs::read_to_string(state.join("pid")) else { return false };
    let command = fs::read(format!("/proc/{}/cmdline", pid.trim())).unwrap_or_default();
    command.ends_with(b"serve\0")
}
