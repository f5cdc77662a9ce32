//! The API server is killed while pods are created and the machine changes.

use std::time::Duration;

use anyhow::ensure;
use harness::{LIMIT, tree, until, with_namespace};
use tokio::time::sleep;

use crate::{
    stage::{OURS, Stage},
    steady::Steady,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn api_server_killed() {
    let stage = Stage::new().await;
    let mut agent = stage.agent().await;
    let mut webhook = stage.cluster.spawn_webhook("webhook").await.unwrap();
    with_namespace(&stage.cluster, &OURS, async |namespace| {
        stage.given(namespace, "3").await?;
        let steady = Steady::start(&stage, namespace).await?;
        sleep(Duration::from_secs(1)).await;
        stage.cluster.kill_component("kube-apiserver").await?;
        tree::move_gids(stage.root(), 3, 9)?;
        sleep(Duration::from_secs(4)).await;
        // What is known stays good enough to decide by: a webhook that left its Service would decide nothing.
        let (status, report) = webhook.get("/readyz").await?;
        ensure!(status == 200, "{report}");
        let (status, report) = agent.get("/readyz").await?;
        ensure!(status == 503 && report.contains("next try"), "{report}");
        stage.cluster.revive("kube-apiserver").await?;
        stage.index("9").await?;
        until("the NodeFabric to say the same", LIMIT, || async {
            let fabric = stage.fabric().await?;
            ensure!(fabric["status"]["gidIndex"] == 9, "{}", fabric["status"]["gidIndex"]);
            Ok(())
        })
        .await?;
        stage.given(namespace, "9").await?;
        let came = steady.end("API server killed").await?;
        ensure!(came.away > 0, "it was never away");
        ensure!(came.unpatched == 0, "{came:?}\n{}", webhook.process.tail(20));
        agent.process.check()?;
        webhook.process.check()
    })
    .await;
    stage.cluster.stop().await.unwrap();
}
