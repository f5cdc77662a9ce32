//! Versions side by side: an agent of a later version, and one of an earlier, beside this version's webhook and agent. There is no other
//! release yet: both are **played by the test**, with the agent's own rights and field manager, and say what this version does not know,
//! or less than it does. Replicas of the webhook that replace each other are load/rolling.rs, upgrade and rollback install/lifecycle.rs.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use harness::{
    railbind::{binary, repository},
    with_namespace,
};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    Api, Client, Config,
    api::{Patch, PatchParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::{Value, json};

use crate::{
    stage::{OURS, Stage, labels, worker},
    steady::Steady,
};

/// A node, and what its agent says of it, with that agent's rights.
async fn agent(stage: &Stage, name: &str, says: &Value, status: &Value) -> Result<()> {
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, "rack": "r1"}}});
    stage.cluster.apply(&node.to_string()).await?;
    let node: Node = Api::all(stage.cluster.client().await?).get(name).await?;
    let kubeconfig = stage.cluster.identity("railbind-agent", Some(&node)).await?;
    let config =
        Config::from_custom_kubeconfig(Kubeconfig::read_from(&kubeconfig)?, &KubeConfigOptions::default()).await?;
    let nodes: Api<Node> = Api::all(Client::try_from(config)?);
    let object = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": says, "annotations": {"railbind.dev/later-note": "x"}}});
    nodes.patch_status(name, &PatchParams::apply("railbind-agent").force(), &Patch::Apply(object)).await?;
    let fabric =
        json!({"apiVersion": "railbind.dev/v1alpha1", "kind": "NodeFabric", "metadata": {"name": name}, "spec": {}});
    let with_status = json!({"apiVersion": "railbind.dev/v1alpha1", "kind": "NodeFabric", "metadata": {"name": name}, "status": status});
    let apply = ["apply", "--server-side", "--force-conflicts", "--field-manager=railbind-agent", "-f", "-"];
    let kubeconfig = ["--kubeconfig", kubeconfig.to_str().context("path")?];
    stage.cluster.kubectl_with(&[&kubeconfig[..], &apply].concat(), &fabric.to_string()).await?;
    let status = [&kubeconfig[..], &["apply", "--subresource=status"], &apply[1..]].concat();
    stage.cluster.kubectl_with(&status, &with_status.to_string()).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_and_new_versions_side_by_side() {
    let stage = Stage::new().await;
    let _agent = stage.agent().await;
    let mut webhook = stage.cluster.spawn_webhook("webhook").await.unwrap();
    with_namespace(&stage.cluster, &OURS, async |namespace| {
        stage.given(namespace, "3").await?;
        let steady = Steady::start(&stage, namespace).await?;
        let later = json!({
            "railbind.dev/fabric": "ultra-ethernet", "railbind.dev/profile": "ultra-ethernet-gpudirect",
            "railbind.dev/gpudirect": "by-other-means", "railbind.dev/selftest": "doubtful", "railbind.dev/lanes": "16",
        });
        let story = json!({"fabric": "ultra-ethernet", "profile": "ultra-ethernet-gpudirect", "selftest": {"verdict": "slow", "lanes": {"16": true}}, "lanes": [{"speed": "1600"}]});
        agent(&stage, "later-1", &later, &story).await?;
        let earlier = json!({"railbind.dev/fabric": "infiniband", "railbind.dev/profile": "infiniband-gpudirect"});
        agent(&stage, "earlier-1", &earlier, &json!({"fabric": "infiniband"})).await?;

        // Workers for nodes that this version knows get what they got; those for others are admitted, and those for few labels patched.
        stage.given(namespace, "3").await?;
        let pods: Api<Pod> = Api::namespaced(stage.cluster.client().await?, namespace);
        for (node, patched) in [("later-1", false), ("earlier-1", true)] {
            let mut pod = worker(&format!("on-{node}"), true);
            pod["spec"]["nodeSelector"] = json!({"kubernetes.io/hostname": node});
            let made = serde_json::to_value(pods.create(&PostParams::default(), &serde_json::from_value(pod)?).await?)?;
            let env = &made["spec"]["containers"][0]["env"];
            ensure!(env.as_array().is_some_and(|env| !env.is_empty()) == patched, "{node}: {env}");
        }
        let status = Command::new(binary("kubectl-railbind")?).arg("status").env("KUBECONFIG", stage.cluster.kubeconfig()).output()?;
        let text = String::from_utf8_lossy(&status.stdout);
        ensure!(text.contains("later-1") && text.contains("earlier-1"), "{text}{}", String::from_utf8_lossy(&status.stderr));

        // Back to this version: nothing that the later one said is left, and what others said is.
        let root = repository().join("tests/fixtures/ib-ndr-gdr");
        let mut back = stage.cluster.spawn_agent("later-1", &root, "0.5").await?;
        back.ready().await?;
        let survey = Command::new(binary("railbind-agent")?).args(["survey", "--json", "--root"]).arg(&root).output()?;
        let survey: Value = serde_json::from_slice(&survey.stdout)?;
        ensure!(labels(&stage.cluster, "later-1").await? == survey["labels"], "{}", labels(&stage.cluster, "later-1").await?);
        let node = stage.cluster.kubectl(&["get", "node", "later-1", "-o", "yaml", "--show-managed-fields=false"]).await?;
        ensure!(node.contains("rack: r1") && !node.contains("later-note"), "{node}");
        let fabric: Value = serde_json::from_str(&stage.cluster.kubectl(&["get", "nodefabric", "later-1", "-o", "json"]).await?)?;
        ensure!(fabric["status"]["lanes"].is_null() && fabric["status"]["fabric"] == "infiniband", "{}", fabric["status"]);

        let came = steady.end("versions side by side").await?;
        ensure!(came.away == 0 && came.unpatched == 0, "{came:?}\n{}", webhook.process.tail(20));
        webhook.process.check()
    })
    .await;
    stage.cluster.stop().await.unwrap();
}
