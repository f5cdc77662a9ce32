//! Labels: what the kernel's files say is what the Node says, and nothing is written while nothing changes.

use std::{fs, time::Duration};

use anyhow::{Context, Result, ensure};
use harness::{LIMIT, NodeSpec, railbind::repository, scene::MACHINES, tree, until};
use k8s_openapi::api::core::v1::Node;
use kube::{
    Api, Client, Config,
    api::{Patch, PatchParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::{Value, json};

use crate::{
    cluster,
    stage::{stage, survey},
};

async fn node(name: &str) -> Result<Value> {
    let nodes: Api<Node> = Api::all(cluster().await.client().await?);
    Ok(serde_json::to_value(nodes.get(name).await?)?)
}

/// Our labels of a node.
fn ours(node: &Value) -> Value {
    let labels = node["metadata"]["labels"].as_object().into_iter().flatten();
    labels
        .filter(|(key, _)| key.starts_with("railbind.dev/"))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

#[tokio::test]
async fn every_machine_says_what_a_survey_of_it_says() {
    stage().await;
    for machine in MACHINES {
        let expected = survey(&machine.root()).unwrap();
        let node = node(machine.node).await.unwrap();
        assert_eq!(ours(&node), expected["labels"], "{}", machine.node);
        let conditions = node["status"]["conditions"].as_array().unwrap();
        let ready = conditions.iter().find(|condition| condition["type"] == "railbind.dev/FabricReady").unwrap();
        let rdma = expected["labels"]["railbind.dev/fabric"] != "tcp";
        assert_eq!(ready["status"], if rdma { "True" } else { "False" }, "{ready}");
        // The kubelet's own conditions are still there.
        assert!(conditions.iter().any(|condition| condition["type"] == "Ready"), "{conditions:?}");
    }
}

#[tokio::test]
async fn nothing_is_written_while_nothing_changes() {
    let agent = &stage().await.agents["ib-1"];
    let unchanged = || agent.metric("railbind_agent_writes", "object=\"node\",result=\"unchanged\"");
    let before = unchanged().await.unwrap();
    until("three more surveys", LIMIT, || async {
        ensure!(unchanged().await? >= before + 3.0, "not yet");
        Ok(())
    })
    .await
    .unwrap();
    assert!(
        (agent.metric("railbind_agent_writes", "object=\"node\",result=\"written\"").await.unwrap() - 1.0).abs() < 0.1
    );
    // What the API server saw says the same.
    let patches = cluster().await.audit().unwrap();
    let patches = patches.iter().filter(|event| {
        event["verb"] == "patch"
            && event["stage"] == "ResponseComplete"
            && event["objectRef"]["resource"] == "nodes"
            && event["objectRef"]["name"] == "ib-1"
            && event["user"]["username"] == "system:serviceaccount:railbind-system:railbind-agent"
    });
    assert_eq!(patches.count(), 1);
}

#[tokio::test]
async fn labels_follow_the_machine_and_an_unreadable_fact_removes_nothing() {
    stage().await;
    let cluster = cluster().await;
    let machine = tree::copy("roce-gid3").unwrap();
    cluster.add_node(NodeSpec::new("label-follow")).await.unwrap();
    // Somebody else's label must survive everything.
    cluster.kubectl(&["label", "node", "label-follow", "rack=r7"]).await.unwrap();
    let mut agent = cluster.spawn_agent("label-follow", machine.path(), "0.5").await.unwrap();
    agent.ready().await.unwrap();
    let becomes = async |what: &str, key: &str, value: Option<&str>| {
        until(what, LIMIT, || async {
            let labels = ours(&node("label-follow").await?);
            ensure!(labels.get(key).and_then(Value::as_str) == value, "{labels}");
            Ok(())
        })
        .await
        .unwrap_or_else(|err| panic!("{err:?}\n{}", agent.process.tail(20)));
    };
    becomes("the first labels", "railbind.dev/gid-index", Some("3")).await;

    tree::move_gids(machine.path(), 3, 9).unwrap();
    becomes("the moved index", "railbind.dev/gid-index", Some("9")).await;

    // A file where a directory should be: not "no devices", but "cannot be read".
    let class = machine.path().join("sys/class/infiniband");
    let away = machine.path().join("away");
    fs::rename(&class, &away).unwrap();
    fs::write(&class, "").unwrap();
    until("the condition to say Unknown", LIMIT, || async {
        let node = node("label-follow").await?;
        let conditions = node["status"]["conditions"].as_array().context("conditions")?.clone();
        let ours =
            conditions.iter().find(|condition| condition["type"] == "railbind.dev/FabricReady").context("ours")?;
        ensure!(ours["status"] == "Unknown", "{ours}");
        Ok(())
    })
    .await
    .unwrap();
    let labels = ours(&node("label-follow").await.unwrap());
    assert_eq!(labels["railbind.dev/fabric"], "roce", "{labels}");
    assert_eq!(labels["railbind.dev/gid-index"], "9", "{labels}");

    // Really gone: now the labels go too.
    fs::remove_file(&class).unwrap();
    becomes("the fabric to be gone", "railbind.dev/fabric", Some("tcp")).await;
    let now = node("label-follow").await.unwrap();
    for key in ["gid-index", "gid-kind", "rdma-ports", "rate-gbps", "fabric-domain"] {
        assert_eq!(ours(&now).get(format!("railbind.dev/{key}")), None, "{key}");
    }
    assert_eq!(now["metadata"]["labels"]["rack"], "r7");
    agent.process.stop().await.unwrap();
    cluster.remove_node("label-follow").await.unwrap();
}

#[tokio::test]
async fn an_agent_is_kept_to_its_own_node_and_to_our_keys() {
    stage().await;
    let cluster = cluster().await;
    // A node of its own: an agent would mend what is done to it here.
    cluster.add_node(NodeSpec::new("label-fence")).await.unwrap();
    let own = Api::<Node>::all(cluster.client().await.unwrap()).get("label-fence").await.unwrap();
    let stolen = as_agent(Some(&own)).await.unwrap();
    let patch = async |node: &str, body: Value| {
        stolen.patch_status(node, &PatchParams::default(), &Patch::Strategic(body)).await.map_err(|err| err.to_string())
    };
    let condition = |kind: &str| json!({"status": {"conditions": [{"type": kind, "status": "False", "reason": "X", "message": "x"}]}});
    for (node, body, why) in [
        ("roce-1", json!({"metadata": {"labels": {"railbind.dev/fabric": "tcp"}}}), "only change its own node"),
        ("label-fence", json!({"metadata": {"labels": {"rack": "r1"}}}), "may not set this label"),
        ("label-fence", json!({"metadata": {"labels": {"kubernetes.io/hostname": null}}}), "may not remove this label"),
        ("label-fence", json!({"metadata": {"annotations": {"x": "y"}}}), "may not set this annotation"),
        ("label-fence", condition("Ready"), "may not change this condition"),
        (
            "label-fence",
            json!({"status": {"capacity": {"nvidia.com/gpu": "64"}}}),
            "may not change this part of status",
        ),
        ("label-fence", json!({"metadata": {"finalizers": ["x.example/y"]}}), "finalizers"),
    ] {
        let denied = patch(node, body.clone()).await.expect_err(&body.to_string());
        assert!(denied.contains(why), "{body}: {denied}");
    }
    // Through the main resource RBAC says no before the policy is asked; through status, spec is ignored.
    let taint = json!({"spec": {"taints": [{"key": "x", "effect": "NoSchedule"}], "unschedulable": true}});
    let direct =
        stolen.patch("label-fence", &PatchParams::default(), &Patch::Strategic(taint.clone())).await.unwrap_err();
    assert!(direct.to_string().contains("forbidden"), "{direct}");
    let before = node("label-fence").await.unwrap()["spec"].clone();
    patch("label-fence", taint).await.unwrap();
    assert_eq!(node("label-fence").await.unwrap()["spec"], before);
    for body in [json!({"metadata": {"labels": {"railbind.dev/test": "x"}}}), condition("railbind.dev/Test")] {
        patch("label-fence", body).await.unwrap();
    }
    let delete = json!([{"type": "railbind.dev/Test", "$patch": "delete"}]);
    let clean = json!({"metadata": {"labels": {"railbind.dev/test": null}}, "status": {"conditions": delete}});
    patch("label-fence", clean).await.unwrap();
    // A token without a node claim may change nothing.
    let unbound = as_agent(None).await.unwrap();
    let body = Patch::Strategic(json!({"metadata": {"labels": {"railbind.dev/fabric": "tcp"}}}));
    let denied = unbound.patch_status("label-fence", &PatchParams::default(), &body).await.unwrap_err();
    assert!(denied.to_string().contains("only change its own node"), "{denied}");
    cluster.remove_node("label-fence").await.unwrap();
}

/// The API as the agent of a node sees it.
async fn as_agent(node: Option<&Node>) -> Result<Api<Node>> {
    let file = cluster().await.identity("railbind-agent", node).await?;
    let config = Config::from_custom_kubeconfig(Kubeconfig::read_from(file)?, &KubeConfigOptions::default()).await?;
    Ok(Api::all(Client::try_from(config)?))
}

#[tokio::test]
async fn an_agent_without_an_api_server_waits_and_says_so() {
    let cluster = cluster().await;
    let closed = harness::free_port().unwrap();
    let kubeconfig = cluster.path().join("nowhere.kubeconfig");
    let text = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": format!("https://127.0.0.1:{closed}")}}],
        "users": [{"name": "c", "user": {"token": "t"}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
    });
    fs::write(&kubeconfig, text.to_string()).unwrap();
    let root = repository().join("tests/fixtures/tcp-only");
    let mut agent = cluster.spawn_agent_with("agent-nowhere", "nowhere", &root, "1", &kubeconfig).unwrap();
    until("the agent to say what is wrong", LIMIT, || async {
        let (status, body) = agent.get("/readyz").await?;
        ensure!(status == 503 && body.contains("reading Node nowhere") && body.contains("next try"), "{status} {body}");
        Ok(())
    })
    .await
    .unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    agent.process.check().unwrap();
    assert_eq!(agent.get("/healthz").await.unwrap().0, 200);
    agent.process.stop().await.unwrap();
}
