//! The whole story: NodeFabric, Events, and an uninstall that leaves nothing.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use harness::{Cluster, LIMIT, NodeSpec, Options, railbind::binary, scene::MACHINES, until};
use serde_json::{Value, json};

use crate::{cluster, stage::stage};

async fn fabric(cluster: &Cluster, name: &str) -> Result<Value> {
    Ok(serde_json::from_str(&cluster.kubectl(&["get", "nodefabric", name, "-o", "json"]).await?)?)
}

#[tokio::test]
async fn every_node_has_its_fabric_and_the_table_shows_it() {
    stage().await;
    let cluster = cluster().await;
    for machine in MACHINES {
        let fabric = fabric(cluster, machine.node).await.unwrap();
        let survey = crate::stage::survey(&machine.root()).unwrap();
        assert_eq!(fabric["status"]["fabric"], survey["labels"]["railbind.dev/fabric"], "{}", machine.node);
        assert_eq!(fabric["status"]["problems"], survey["problems"], "{}", machine.node);
        let owner = &fabric["metadata"]["ownerReferences"][0];
        assert_eq!((&owner["kind"], &owner["name"]), (&json!("Node"), &json!(machine.node)));
    }
    let ib = fabric(cluster, "ib-1").await.unwrap();
    let device = &ib["status"]["facts"]["devices"]["known"][0];
    assert_eq!((&device["name"], &device["driver"]), (&json!("mlx5_0"), &json!("mlx5_core")));
    let table = cluster.kubectl(&["get", "nodefabrics"]).await.unwrap();
    let row = table.lines().find(|line| line.starts_with("roce-2")).context("no row").unwrap();
    let cells: Vec<&str> = row.split_whitespace().collect();
    assert_eq!(cells[..7], ["roce-2", "roce", "dmabuf", "8", "400", "5", "roce-gpudirect"], "{table}");
    let described = cluster.kubectl(&["describe", "node", "roce-2"]).await.unwrap();
    assert!(described.contains("FabricChanged") && described.contains("RoCE, 8 ports at 400 Gb/s"), "{described}");
}

#[tokio::test]
async fn a_deleted_fabric_comes_back_and_a_same_one_is_not_written() {
    stage().await;
    let cluster = cluster().await;
    // A node of its own: other tests read the scene's NodeFabrics meanwhile.
    cluster.add_node(NodeSpec::new("fabric-deleted")).await.unwrap();
    let root = harness::railbind::repository().join("tests/fixtures/efa-k68");
    let mut agent = cluster.spawn_agent("fabric-deleted", &root, "2").await.unwrap();
    agent.ready().await.unwrap();
    cluster.kubectl(&["delete", "nodefabric", "fabric-deleted"]).await.unwrap();
    until("the NodeFabric to come back", LIMIT, || fabric(cluster, "fabric-deleted")).await.unwrap();
    let count = async |result: &str| {
        let labels = format!("object=\"nodefabric\",result=\"{result}\"");
        agent.metric("railbind_agent_writes", &labels).await.unwrap()
    };
    let (written, before) = (count("written").await, count("unchanged").await);
    until("two more surveys", LIMIT, || async {
        ensure!(count("unchanged").await >= before + 2.0, "not yet");
        Ok(())
    })
    .await
    .unwrap();
    assert!((count("written").await - written).abs() < 0.1);
    agent.process.stop().await.unwrap();
    cluster.remove_node("fabric-deleted").await.unwrap();
}

#[tokio::test]
async fn an_agent_may_write_only_its_own_fabric() {
    stage().await;
    let cluster = cluster().await;
    cluster.add_node(NodeSpec::new("fabric-fence")).await.unwrap();
    let node = cluster.kubectl(&["get", "node", "fabric-fence", "-o", "json"]).await.unwrap();
    let stolen = cluster.identity("railbind-agent", Some(&serde_json::from_str(&node).unwrap())).await.unwrap();
    let apply = async |name: &str, owner: Value| {
        let object = json!({
            "apiVersion": "railbind.dev/v1alpha1", "kind": "NodeFabric",
            "metadata": {"name": name, "ownerReferences": owner}, "spec": {},
        });
        let args = ["--kubeconfig", stolen.to_str().unwrap(), "apply", "--server-side", "--force-conflicts", "-f", "-"];
        cluster.kubectl_with(&args, &object.to_string()).await.map_err(|err| format!("{err:#}"))
    };
    let denied = apply("roce-1", json!([])).await.unwrap_err();
    assert!(denied.contains("only write its own node's NodeFabric"), "{denied}");
    let foreign = json!([{"apiVersion": "v1", "kind": "Namespace", "name": "default", "uid": "x"}]);
    let denied = apply("fabric-fence", foreign).await.unwrap_err();
    assert!(denied.contains("owned by its Node alone"), "{denied}");
    apply("fabric-fence", json!([])).await.unwrap();
    cluster.kubectl(&["delete", "nodefabric", "fabric-fence"]).await.unwrap();
    cluster.remove_node("fabric-fence").await.unwrap();
}

#[tokio::test]
async fn without_the_kind_labels_are_written_all_the_same_and_uninstall_leaves_nothing() {
    let cluster = Cluster::start(Options::default()).await.unwrap();
    cluster.install_identities().await.unwrap();
    cluster.kubectl(&["delete", "crd", "nodefabrics.railbind.dev"]).await.unwrap();
    let roce = MACHINES.iter().find(|machine| machine.node == "roce-1").unwrap();
    let mut agent = cluster.add_machine(roce).await.unwrap();
    assert!(agent.metric("railbind_agent_writes", "no-kind").await.unwrap() >= 1.0);
    // The kind arrives later: no restart is needed.
    cluster.apply(include_str!("../../../manifests/base/crds/nodefabrics.yaml")).await.unwrap();
    until("the NodeFabric", LIMIT, || fabric(&cluster, "roce-1")).await.unwrap();
    cluster.kubectl(&["label", "node", "roce-1", "rack=r1"]).await.unwrap();
    agent.process.stop().await.unwrap();

    let uninstall = || {
        let output = Command::new(binary("railbind-agent").unwrap())
            .arg("uninstall")
            .env("KUBECONFIG", cluster.kubeconfig())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(uninstall(), "cleaned 1 nodes, deleted 1 NodeFabrics\n");
    let node = cluster.kubectl(&["get", "node", "roce-1", "-o", "yaml", "--show-managed-fields=false"]).await.unwrap();
    assert!(!node.contains("railbind.dev") && node.contains("rack: r1"), "{node}");
    let left = cluster.kubectl(&["get", "nodefabrics", "-o", "name"]).await.unwrap();
    assert_eq!(left, "");
    assert_eq!(uninstall(), "cleaned 0 nodes, deleted 0 NodeFabrics\n");
    cluster.stop().await.unwrap();
}
