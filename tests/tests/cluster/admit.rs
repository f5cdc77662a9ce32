//! Admission and binding: what the containers of real pods got from the real kubelets.

use anyhow::{Context, Result, ensure};
use harness::{Cluster, LIMIT, until, with_namespace};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use serde_json::{Value, json};

use crate::{cluster, stage::stage};

const INJECT: &[(&str, &str)] = &[("railbind.dev/inject", "enabled")];

/// A vLLM decode worker of llm-d with two GPUs; `more` is merged into its spec.
fn worker(namespace: &str, name: &str, more: &Value) -> Value {
    let mut pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": {"llm-d.ai/role": "decode"}},
        "spec": {"containers": [{
            "name": "main",
            "image": "vllm/vllm-openai",
            "resources": {"limits": {"nvidia.com/gpu": "2"}},
        }]},
    });
    for (key, value) in more.as_object().into_iter().flatten() {
        pod["spec"][key] = value.clone();
    }
    pod
}

async fn pod(cluster: &Cluster, namespace: &str, name: &str) -> Result<Value> {
    let pods: Api<Pod> = Api::namespaced(cluster.client().await?, namespace);
    Ok(serde_json::to_value(pods.get(name).await?)?)
}

fn ucx(record: &Value) -> Value {
    let env = record["env"].as_object().into_iter().flatten().filter(|(name, _)| name.starts_with("UCX_"));
    env.map(|(name, value)| (name.clone(), value.clone())).collect()
}

#[tokio::test]
async fn a_free_worker_gets_infiniband_as_the_guide_has_it() {
    stage().await;
    with_namespace(cluster().await, INJECT, async |namespace| {
        let cluster = cluster().await;
        cluster.apply(&worker(namespace, "w", &json!({})).to_string()).await?;
        let record = cluster.recorded(namespace, "w", "main").await?;
        assert_eq!(record["node"], "ib-1");
        let guide = json!({
            "UCX_TLS": "rc_x,rc,dc_x,dc,cuda_copy,cuda_ipc",
            "UCX_RNDV_SCHEME": "get_zcopy",
            "UCX_RNDV_THRESH": "0",
        });
        assert_eq!(ucx(&record), guide);
        let added = &record["linux"]["security_context"]["capabilities"]["add_capabilities"];
        assert_eq!(*added, json!(["IPC_LOCK"]));
        let mounts = record["mounts"].as_array().context("mounts")?;
        assert!(mounts.iter().any(|mount| mount["container_path"] == "/dev/shm"), "{mounts:?}");
        let pod = pod(cluster, namespace, "w").await?;
        let resources = &pod["spec"]["containers"][0]["resources"];
        assert_eq!((&resources["limits"]["rdma/ib"], &resources["requests"]["rdma/ib"]), (&json!("2"), &json!("2")));
        let decision: Value = serde_json::from_str(
            pod["metadata"]["annotations"]["railbind.dev/decision"].as_str().context("decision")?,
        )?;
        assert_eq!(decision["profile"], "infiniband-gpudirect");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn roce_workers_get_the_index_of_the_node_they_land_on() {
    stage().await;
    with_namespace(cluster().await, INJECT, async |namespace| {
        let cluster = cluster().await;
        let apart = json!({
            "nodeSelector": {"railbind.dev/fabric": "roce"},
            "affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{
                "labelSelector": {"matchLabels": {"llm-d.ai/role": "decode"}},
                "topologyKey": "kubernetes.io/hostname",
            }]}},
        });
        let mut seen = Vec::new();
        for name in ["a", "b"] {
            cluster.apply(&worker(namespace, name, &apart).to_string()).await?;
            let record = cluster.recorded(namespace, name, "main").await?;
            let node = record["node"].as_str().context("node")?.to_owned();
            let index = record["env"]["UCX_IB_GID_INDEX"].as_str().context("index")?.to_owned();
            assert_eq!(cluster.label(&node, "railbind.dev/gid-index").await?, index);
            seen.push((node, index));
        }
        seen.sort();
        assert_eq!(seen, [("roce-1".into(), "3".into()), ("roce-2".into(), "5".into())]);
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_preset_node_gives_its_values_at_creation() {
    stage().await;
    with_namespace(cluster().await, INJECT, async |namespace| {
        let cluster = cluster().await;
        cluster.apply(&worker(namespace, "w", &json!({"nodeName": "roce-2"})).to_string()).await?;
        let record = cluster.recorded(namespace, "w", "main").await?;
        assert_eq!(record["env"]["UCX_IB_GID_INDEX"], "5");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn efa_on_kernel_6_8_is_staged_and_tcp_is_warned_of() {
    stage().await;
    with_namespace(cluster().await, INJECT, async |namespace| {
        let cluster = cluster().await;
        cluster
            .apply(&worker(namespace, "efa", &json!({"nodeSelector": {"railbind.dev/fabric": "efa"}})).to_string())
            .await?;
        let record = cluster.recorded(namespace, "efa", "main").await?;
        let guide = json!({"UCX_TLS": "srd,cuda_copy,tcp", "UCX_RNDV_SCHEME": "auto", "UCX_RNDV_THRESH": "8192"});
        assert_eq!(ucx(&record), guide);
        let efa = pod(cluster, namespace, "efa").await?;
        assert_eq!(efa["spec"]["containers"][0]["resources"]["limits"]["vpc.amazonaws.com/efa"], "1");

        // kubectl prints admission warnings to standard error, which `--warnings-as-errors` turns into a failure.
        let tcp = worker(namespace, "tcp", &json!({"nodeSelector": {"railbind.dev/fabric": "tcp"}})).to_string();
        let warned = cluster.kubectl_with(&["create", "--warnings-as-errors", "-f", "-"], &tcp).await.unwrap_err();
        assert!(format!("{warned:#}").contains("+90-100s"), "{warned:#}");
        let record = cluster.recorded(namespace, "tcp", "main").await?;
        assert_eq!(ucx(&record), json!({"UCX_TLS": "tcp,cuda_copy,cuda_ipc"}));
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn what_is_not_ours_is_not_touched() {
    stage().await;
    let ordinary = |namespace: &str| {
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "ordinary", "namespace": namespace},
            "spec": {"containers": [{"name": "main", "image": "nginx"}]},
        })
    };
    with_namespace(cluster().await, INJECT, async |namespace| {
        let cluster = cluster().await;
        cluster.apply(&ordinary(namespace).to_string()).await?;
        let record = cluster.recorded(namespace, "ordinary", "main").await?;
        assert_eq!(ucx(&record), json!({}));
        let annotations = pod(cluster, namespace, "ordinary").await?["metadata"]["annotations"].clone();
        let ours =
            annotations.as_object().is_some_and(|map| map.keys().any(|key| key.contains("railbind.dev/decision")));
        assert!(!ours, "{annotations}");
        Ok(())
    })
    .await;
    // A worker in a namespace that did not ask.
    with_namespace(cluster().await, &[], async |namespace| {
        let cluster = cluster().await;
        cluster.apply(&worker(namespace, "w", &json!({})).to_string()).await?;
        let record = cluster.recorded(namespace, "w", "main").await?;
        assert_eq!(ucx(&record), json!({}));
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_deployment_is_patched_once_and_a_dry_run_writes_nothing() {
    stage().await;
    with_namespace(cluster().await, INJECT, async |namespace| {
        let cluster = cluster().await;
        let manifest = worker(namespace, "dry", &json!({})).to_string();
        let shown = cluster.kubectl_with(&["create", "--dry-run=server", "-o", "json", "-f", "-"], &manifest).await?;
        assert!(shown.contains("UCX_TLS"), "{shown}");
        assert!(pod(cluster, namespace, "dry").await.is_err());

        let template = json!({
            "metadata": {"labels": {"llm-d.ai/role": "decode", "app": "d"}},
            "spec": worker(namespace, "x", &json!({}))["spec"],
        });
        let deployment = json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "d", "namespace": namespace},
            "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "d"}}, "template": template},
        });
        cluster.apply(&deployment.to_string()).await?;
        let pods: Api<Pod> = Api::namespaced(cluster.client().await?, namespace);
        let found = until("two pods", LIMIT, || async {
            let found = pods.list(&kube::api::ListParams::default().labels("app=d")).await?.items;
            ensure!(found.len() == 2, "{}", found.len());
            Ok(found)
        })
        .await?;
        for pod in found {
            let pod = serde_json::to_value(pod)?;
            let env = pod["spec"]["containers"][0]["env"].as_array().context("env")?.clone();
            let count = env.iter().filter(|variable| variable["name"] == "UCX_TLS").count();
            assert_eq!(count, 1, "{env:?}");
        }
        Ok(())
    })
    .await;
}
