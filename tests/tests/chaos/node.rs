//! A Node is deleted and comes back under its name as another machine, while its agent runs.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use harness::{LIMIT, tree, until, with_namespace};
use k8s_openapi::api::core::v1::Node;
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};

use crate::{
    stage::{NODE, OURS, Stage, labels, spec},
    steady::Steady,
};

/// A token for the Node that is there now, put where the agent reads it, as the kubelet does; gives the Node's uid.
async fn token(stage: &Stage, into: &Path) -> Result<String> {
    let node: Node = Api::all(stage.cluster.client().await?).get(NODE).await?;
    let kubeconfig = stage.cluster.identity("railbind-agent", Some(&node)).await?;
    let kubeconfig: Value = serde_json::from_str(&std::fs::read_to_string(kubeconfig)?)?;
    std::fs::write(into, kubeconfig["users"][0]["user"]["token"].as_str().context("token")?)?;
    node.uid().context("uid")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn node_deleted_and_recreated() {
    let stage = Stage::new().await;
    let folder = stage.cluster.path().to_owned();
    let file = folder.join("token");
    let first = token(&stage, &file).await.unwrap();
    let kubeconfig = folder.join("agent.kubeconfig");
    let text = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": stage.cluster.url(), "certificate-authority": folder.join("ca.crt")}}],
        "users": [{"name": "c", "user": {"tokenFile": file}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
    });
    std::fs::write(&kubeconfig, text.to_string()).unwrap();
    let mut agent = stage.cluster.spawn_agent_with("agent", NODE, stage.root(), "0.5", &kubeconfig).unwrap();
    agent.ready().await.unwrap();
    let mut webhook = stage.cluster.spawn_webhook("webhook").await.unwrap();
    with_namespace(&stage.cluster, &OURS, async |namespace| {
        stage.given(namespace, "3").await?;
        let steady = Steady::start(&stage, namespace).await?;
        stage.cluster.remove_node(NODE).await?;
        // Its story goes with it, and the webhook forgets it.
        until("the NodeFabric to go", LIMIT, || async {
            let found = stage.cluster.kubectl(&["get", "nodefabrics", "-o", "name"]).await?;
            ensure!(found.is_empty(), "{found}");
            Ok(())
        })
        .await?;
        until("the webhook to forget the node", LIMIT, || async {
            let count = webhook.metric("railbind_webhook_node_map_nodes", "").await?;
            ensure!(count < 0.5, "{count}");
            Ok(())
        })
        .await?;
        let (status, report) = agent.get("/readyz").await?;
        ensure!(status == 503, "{report}");
        agent.process.check()?;

        // Another machine under the same name: its labels are its own.
        tree::move_gids(stage.root(), 3, 9)?;
        stage.cluster.add_node(spec()).await?;
        ensure!(labels(&stage.cluster, NODE).await? == json!({}), "labels of the Node that was deleted");
        let second = token(&stage, &file).await?;
        ensure!(first != second, "the same Node");
        until("the other machine's index", 3 * LIMIT, || stage.index("9")).await?;
        until("the NodeFabric of the other Node", LIMIT, || async {
            let owner = stage.fabric().await?["metadata"]["ownerReferences"][0]["uid"].clone();
            ensure!(owner == second.as_str(), "{owner}");
            Ok(())
        })
        .await?;
        stage.given(namespace, "9").await?;
        let came = steady.end("Node deleted and recreated").await?;
        ensure!(came.away == 0, "{came:?}");
        // While no node of the cluster says a fabric there is nothing to give; none went by unseen.
        #[expect(clippy::cast_precision_loss, reason = "hundreds")]
        let created = came.created.len() as f64;
        ensure!(webhook.metric("railbind_webhook_requests_total", "hook=\"pods\"").await? >= created, "{came:?}");
        agent.process.check()?;
        webhook.process.check()
    })
    .await;
    stage.cluster.stop().await.unwrap();
}
