//! A connection that carries nothing any more: of the agent, of the webhook, and of the API server to the webhook. When it is mended,
//! what was connected before stays silent for ever.

use std::time::Duration;

use anyhow::{Result, ensure};
use harness::{LIMIT, free_port, outage::Wire, tree, until, with_namespace};
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use tokio::time::sleep;

use crate::{
    stage::{NODE, OURS, Stage, labels},
    steady::Steady,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partition_of_the_agent() {
    let stage = Stage::new().await;
    let wire = stage.wire().await.unwrap();
    let node: Node = Api::all(stage.cluster.client().await.unwrap()).get(NODE).await.unwrap();
    let kubeconfig = stage.through(&wire, "railbind-agent", Some(&node)).await.unwrap();
    let mut agent = stage.cluster.spawn_agent_with("agent", NODE, stage.root(), "0.5", &kubeconfig).unwrap();
    agent.ready().await.unwrap();
    stage.index("3").await.unwrap();
    wire.cut();
    tree::move_gids(stage.root(), 3, 9).unwrap();
    // It does not wait for an answer for ever: it says what is wrong.
    until("the agent to notice", LIMIT, || async {
        let (status, report) = agent.get("/readyz").await?;
        ensure!(status == 503 && report.contains("next try"), "{report}");
        Ok(())
    })
    .await
    .unwrap();
    // Nobody else knows: what it said last stays. The cluster's own taint keeps pods off a node that is cut off.
    assert_eq!(labels(&stage.cluster, NODE).await.unwrap()["railbind.dev/gid-index"], "3");
    wire.mend();
    stage.index("9").await.unwrap();
    agent.process.check().unwrap();
    stage.cluster.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partition_of_the_webhook() {
    let stage = Stage::new().await;
    let _agent = stage.agent().await;
    let wire = stage.wire().await.unwrap();
    let kubeconfig = stage.through(&wire, "railbind-webhook", None).await.unwrap();
    let listen = format!("127.0.0.1:{}", free_port().unwrap());
    let url = format!("https://{listen}");
    let mut webhook = stage.webhook(&[], [&listen, &url], &[], &kubeconfig).await.unwrap();
    with_namespace(&stage.cluster, &OURS, async |namespace| {
        stage.given(namespace, "3").await?;
        let steady = Steady::start(&stage, namespace).await?;
        wire.cut();
        tree::move_gids(stage.root(), 3, 9)?;
        stage.index("9").await?;
        sleep(Duration::from_secs(5)).await;
        let (status, report) = webhook.get("/readyz").await?;
        ensure!(status == 200, "{report}");
        wire.mend();
        // It finds out that its watches are silent, and follows the nodes again.
        stage.given(namespace, "9").await?;
        let came = steady.end("webhook cut off").await?;
        ensure!(came.unpatched == 0 && came.away == 0, "{came:?}\n{}", webhook.process.tail(20));
        webhook.process.check()
    })
    .await;
    stage.cluster.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partition_between_api_server_and_webhook() {
    let stage = Stage::new().await;
    let _agent = stage.agent().await;
    let listen = format!("127.0.0.1:{}", free_port().unwrap());
    let wire = Wire::start(listen.parse().unwrap()).await.unwrap();
    let url = format!("https://{}", wire.address());
    let _webhook = stage.cluster.spawn_webhook_at("webhook", &listen, &url, &["--drain-seconds", "1"]).await.unwrap();
    with_namespace(&stage.cluster, &OURS, async |namespace| -> Result<()> {
        stage.given(namespace, "3").await?;
        let steady = Steady::start(&stage, namespace).await?;
        wire.cut();
        sleep(Duration::from_secs(10)).await;
        ensure!(!stage.patched(namespace).await?, "nothing was cut");
        wire.mend();
        stage.becomes_patched(namespace).await?;
        let came = steady.end("API server cut off from the webhook").await?;
        ensure!(came.away == 0, "{came:?}");
        // Each waits for the webhook's three seconds and is then admitted as it is.
        ensure!((1..=6).contains(&came.unpatched), "{came:?}");
        stage.given(namespace, "3").await
    })
    .await;
    stage.cluster.stop().await.unwrap();
}
