//! The cluster itself: what every other test here takes for granted.

use harness::{LIMIT, NodeSpec, until, with_namespace};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use serde_json::json;

use crate::cluster;

#[tokio::test]
async fn a_node_reports_the_machine_it_was_given() {
    let node = NodeSpec::new("smoke-machine")
        .resource("rdma/ib", "8")
        .resource("nvidia.com/gpu", "8")
        .label("topology.kubernetes.io/zone", "z1")
        .kernel("5.15.0-1001-aws");
    cluster().await.add_node(node).await.unwrap();

    let described = cluster().await.kubectl(&["describe", "node", "smoke-machine"]).await.unwrap();
    for line in ["rdma/ib: 8", "nvidia.com/gpu: 8", "cpu: 128", "memory: 1Ti", "topology.kubernetes.io/zone=z1"] {
        let (key, value) = line.rsplit_once(' ').unwrap_or(("", line));
        let found = described.lines().any(|text| text.contains(key) && text.trim_end().ends_with(value));
        assert!(found, "no {line:?} in:\n{described}");
    }
    for line in ["5.15.0-1001-aws", "v1.36.3"] {
        assert!(described.contains(line), "no {line:?} in:\n{described}");
    }

    cluster().await.remove_node("smoke-machine").await.unwrap();
}

#[tokio::test]
async fn what_a_container_gets_is_recorded() {
    let node = NodeSpec::new("smoke-pod").resource("smoke/rdma", "1");
    cluster().await.add_node(node).await.unwrap();
    with_namespace(cluster().await, &[("kind", "smoke")], async |namespace| {
        let cluster = cluster().await;
        let pod = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "p", "namespace": namespace, "annotations": {"smoke/tls": "rc,cuda"}},
            "spec": {
                "initContainers": [{"name": "first", "image": "i", "command": ["true"]}],
                "containers": [{
                    "name": "main",
                    "image": "engine:1",
                    "env": [{"name": "UCX_TLS", "valueFrom": {
                        "fieldRef": {"fieldPath": "metadata.annotations['smoke/tls']"},
                    }}],
                    "resources": {"limits": {"smoke/rdma": "1", "memory": "200Gi", "ephemeral-storage": "1Gi"}},
                    "securityContext": {"capabilities": {"add": ["IPC_LOCK"]}},
                    "volumeMounts": [{"name": "shm", "mountPath": "/dev/shm"}],
                }],
                "volumes": [{"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "8Gi"}}],
            },
        });
        cluster.apply(&pod.to_string()).await?;

        let record = cluster.recorded(namespace, "p", "main").await?;
        assert_eq!(record["node"], "smoke-pod");
        assert_eq!(record["image"], "engine:1");
        assert_eq!(record["annotations"]["smoke/tls"], "rc,cuda");
        assert_eq!(record["env"]["UCX_TLS"], "rc,cuda");
        assert_eq!(record["linux"]["security_context"]["capabilities"]["add_capabilities"], json!(["IPC_LOCK"]));
        assert_eq!(record["linux"]["resources"]["memory_limit_in_bytes"], 200_u64 << 30);
        let mounts: Vec<_> =
            record["mounts"].as_array().unwrap().iter().map(|mount| &mount["container_path"]).collect();
        assert!(mounts.contains(&&json!("/dev/shm")), "{mounts:?}");
        // Its API credentials were made by the token controller and mounted by the kubelet.
        assert!(mounts.contains(&&json!("/var/run/secrets/kubernetes.io/serviceaccount")), "{mounts:?}");

        let pods: Api<Pod> = Api::namespaced(cluster.client().await?, namespace);
        until("the pod to run", LIMIT, || async {
            let phase = pods.get("p").await?.status.and_then(|status| status.phase);
            anyhow::ensure!(phase.as_deref() == Some("Running"), "its phase is {phase:?}");
            Ok(())
        })
        .await
    })
    .await;
    cluster().await.remove_node("smoke-pod").await.unwrap();
}

#[tokio::test]
async fn requests_are_audited_with_who_sent_them() {
    with_namespace(cluster().await, &[], async |namespace| {
        cluster().await.kubectl(&["create", "configmap", "audited", "-n", namespace]).await?;
        let log = cluster().await.audit()?;
        let mine = log
            .iter()
            .find(|event| event["objectRef"]["name"] == "audited" && event["objectRef"]["namespace"] == namespace);
        let mine = mine.expect("no event");
        assert_eq!((&mine["verb"], &mine["user"]["username"]), (&json!("create"), &json!("admin")));
        Ok(())
    })
    .await;
}

#[tokio::test]
#[should_panic(expected = "the pod's own failure")]
async fn a_failing_test_fails_as_it_did() {
    with_namespace(cluster().await, &[], async |_| anyhow::bail!("the pod's own failure")).await;
}
