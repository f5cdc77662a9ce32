//! The disk is full: what the agent and the webhook write, their logs, cannot be written; and nothing can be written to the cluster.

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, ensure};
use harness::{LIMIT, free_port, railbind::Daemon, tree, until, with_namespace};
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use serde_json::json;
use tokio::time::sleep;

use crate::{
    stage::{NODE, OURS, Stage, labels},
    steady::Steady,
};

/// Runs a program with its output, and its temporary files, on a file system of 64 KiB that is full: a real tmpfs, in a mount
/// namespace of its own.
const FULL: &str = "mount -t tmpfs -o size=64k full \"$0\" || exit 1
cat /dev/zero >\"$0/fill\" 2>/dev/null
TMPDIR=\"$0\" exec \"$@\" >\"$0/log\" 2>&1";

/// A file on the process's full disk.
fn inside(daemon: &Daemon, folder: &str, name: &str) -> Result<PathBuf> {
    Ok(format!("/proc/{}/root{folder}/{name}", daemon.process.id()?).into())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_disk() {
    let stage = Stage::new().await;
    let folder = stage.cluster.path().join("full");
    fs::create_dir(&folder).unwrap();
    let folder = folder.to_str().unwrap();
    let starter = ["unshare", "-rm", "sh", "-c", FULL, folder];
    let node: Node = Api::all(stage.cluster.client().await.unwrap()).get(NODE).await.unwrap();
    let kubeconfig = stage.cluster.identity("railbind-agent", Some(&node)).await.unwrap();
    let root = stage.root().to_str().unwrap();
    let args = ["run", "--node-name", NODE, "--root", root, "--period", "0.5", "--start-jitter", "0", "--probes=false"];
    let mut agent = stage.cluster.daemon(&starter, "agent", "railbind-agent", &args, &kubeconfig).unwrap();
    agent.ready().await.unwrap();
    stage.index("3").await.unwrap();
    let listen = format!("127.0.0.1:{}", free_port().unwrap());
    let url = format!("https://{listen}");
    let kubeconfig = stage.cluster.identity("railbind-webhook", None).await.unwrap();
    let mut webhook = stage.webhook(&starter, [&listen, &url], &[], &kubeconfig).await.unwrap();
    with_namespace(&stage.cluster, &OURS, async |namespace| {
        stage.given(namespace, "3").await?;
        let steady = Steady::start(&stage, namespace).await?;
        tree::move_gids(stage.root(), 3, 9)?;
        stage.index("9").await?;
        stage.given(namespace, "9").await?;
        sleep(Duration::from_secs(1)).await;
        let came = steady.end("full disk").await?;
        ensure!(came.away == 0 && came.unpatched == 0, "{came:?}");
        for daemon in [&mut agent, &mut webhook] {
            daemon.process.check()?;
            // The disk was full indeed: nothing of what they had to say is there.
            let log = inside(daemon, folder, "log")?;
            ensure!(fs::metadata(&log).context("its log")?.len() == 0, "{}", fs::read_to_string(&log)?);
            // When there is room again, they write.
            fs::remove_file(inside(daemon, folder, "fill")?).context("make room")?;
        }
        tree::move_gids(stage.root(), 9, 3)?;
        stage.index("3").await?;
        stage.patched(namespace).await?;
        for daemon in [&agent, &webhook] {
            let log = inside(daemon, folder, "log")?;
            until(format_args!("a line of {}", daemon.process.name()), LIMIT, || async {
                ensure!(fs::metadata(&log)?.len() > 0, "nothing yet");
                Ok(())
            })
            .await?;
        }
        Ok(())
    })
    .await;
    stage.cluster.stop().await.unwrap();
}

/// Raises or lowers the alarm that etcd raises itself when its room is used up: with it, etcd takes no write that needs room.
async fn alarm(stage: &Stage, action: &str) -> Result<()> {
    let answer = stage.cluster.etcd("/v3/maintenance/alarm", &json!({"action": action, "alarm": "NOSPACE"})).await?;
    ensure!(answer["alarms"][0]["alarm"] == "NOSPACE", "{answer}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_disk_of_etcd() {
    let stage = Stage::new().await;
    let mut agent = stage.agent().await;
    let mut webhook = stage.cluster.spawn_webhook("webhook").await.unwrap();
    with_namespace(&stage.cluster, &OURS, async |namespace| {
        stage.given(namespace, "3").await?;
        let steady = Steady::start(&stage, namespace).await?;
        sleep(Duration::from_secs(1)).await;
        alarm(&stage, "ACTIVATE").await?;
        tree::move_gids(stage.root(), 3, 9)?;
        until("the agent to say why it cannot write", LIMIT, || async {
            let (status, report) = agent.get("/readyz").await?;
            ensure!(status == 503 && report.contains("database space exceeded"), "{report}");
            Ok(())
        })
        .await?;
        ensure!(labels(&stage.cluster, NODE).await?["railbind.dev/gid-index"] == "3", "who wrote that?");
        let (status, report) = webhook.get("/readyz").await?;
        ensure!(status == 200, "{report}");
        alarm(&stage, "DEACTIVATE").await?;
        stage.index("9").await?;
        stage.given(namespace, "9").await?;
        let came = steady.end("etcd without room").await?;
        // What it does not take is refused by etcd, in its own words.
        ensure!(came.away > 0 && came.unpatched == 0, "{came:?}\n{}", webhook.process.tail(20));
        agent.process.check()?;
        webhook.process.check()
    })
    .await;
    stage.cluster.stop().await.unwrap();
}
