//! The binding engines: the same pods get the same from both, and what comes of it when nobody is there to bind them.

use anyhow::{Context, Result, ensure};
use harness::{
    Cluster, LIMIT, NodeSpec, Options, free_port,
    railbind::{Daemon, repository},
    until, with_namespace,
};
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::{
    Api,
    api::{ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};

const NODES: [(&str, &str, &str); 2] = [("roce-1", "3", "mlx5_0:1,mlx5_1:1"), ("roce-2", "5", "mlx5_2:1")];
const INJECT: &[(&str, &str)] = &[("railbind.dev/inject", "enabled")];

async fn start() -> Result<Cluster> {
    let cluster = Cluster::start(Options::default()).await?;
    let crd = repository().join("manifests/base/crds/bindingvalues.yaml");
    cluster.apply(&std::fs::read_to_string(crd)?).await?;
    cluster.kubectl(&["wait", "--for=condition=Established", "crd/bindingvalues.railbind.dev"]).await?;
    cluster.install_identities().await?;
    for (name, index, devices) in NODES {
        let spec = NodeSpec::new(name).resource("nvidia.com/gpu", "8").resource("rdma/roce", "8");
        let labels = [("fabric", "roce"), ("profile", "roce-gpudirect"), ("gpudirect", "dmabuf"), ("gid-index", index)];
        let spec = labels.iter().fold(spec, |spec, (key, value)| spec.label(format!("railbind.dev/{key}"), *value));
        cluster.add_node(spec).await?;
        let annotations =
            [format!("railbind.dev/net-devices={devices}"), "railbind.dev/roce-subnets=10.20.0.0/16".into()];
        cluster.kubectl(&["annotate", "node", name, &annotations[0], &annotations[1]]).await?;
    }
    Ok(cluster)
}

async fn webhook(cluster: &Cluster, name: &str, engine: &str) -> Result<Daemon> {
    let listen = format!("127.0.0.1:{}", free_port()?);
    let more = ["--drain-seconds", "1", "--binding-engine", engine];
    cluster.spawn_webhook_at(name, &listen, &format!("https://{listen}"), &more).await
}

fn worker(namespace: &str, name: &str, node: &str, set: &str, gated: bool) -> Value {
    let waits = if gated { json!([{"name": "test/wait"}]) } else { json!([]) };
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": name, "namespace": namespace,
            "labels": {"llm-d.ai/role": "decode"}, "annotations": {"railbind.dev/profile-set": set},
        },
        "spec": {
            "schedulingGates": waits,
            "nodeSelector": {"kubernetes.io/hostname": node},
            "containers": [{"name": "main", "image": "vllm/vllm-openai", "resources": {"limits": {"nvidia.com/gpu": "1"}}}],
        },
    })
}

/// What the containers were given, and the late-bound annotations, for the same four pods.
async fn given(cluster: &Cluster, namespace: &str) -> Result<Value> {
    let mut given = json!({});
    let pods: Api<Pod> = Api::namespaced(cluster.client().await?, namespace);
    for set in ["guide", "nixl"] {
        for (node, ..) in NODES {
            let name = format!("{set}-{node}");
            cluster.apply(&worker(namespace, &name, node, set, false).to_string()).await?;
            let record = cluster.recorded(namespace, &name, "main").await?;
            let ours = |map: &Value, prefix: &str| -> Value {
                let pairs = map.as_object().into_iter().flatten().filter(|(key, _)| key.starts_with(prefix));
                pairs.map(|(key, value)| (key.clone(), value.clone())).collect()
            };
            let pod = serde_json::to_value(pods.get(&name).await?)?;
            given[&name] = json!({
                "env": ours(&record["env"], "UCX_"),
                "annotations": ours(&pod["metadata"]["annotations"], "env.railbind.dev/"),
            });
        }
    }
    Ok(given)
}

#[tokio::test]
async fn both_engines_give_the_same_and_the_policy_needs_no_webhook() {
    let cluster = start().await.unwrap();
    let mut by_webhook = Value::Null;
    let mut first = webhook(&cluster, "by-webhook", "webhook").await.unwrap();
    with_namespace(&cluster, INJECT, async |namespace| {
        by_webhook = given(&cluster, namespace).await?;
        Ok(())
    })
    .await;
    assert_eq!(by_webhook["guide-roce-2"]["env"]["UCX_IB_GID_INDEX"], "5");
    assert_eq!(by_webhook["nixl-roce-1"]["env"]["UCX_NET_DEVICES"], "mlx5_0:1,mlx5_1:1");
    assert_eq!(by_webhook["nixl-roce-1"]["env"]["UCX_IB_ROCE_SUBNETS"], "10.20.0.0/16");
    first.process.stop().await.unwrap();

    // `auto` on this version is the policy.
    let mut second = webhook(&cluster, "by-policy", "auto").await.unwrap();
    let hooks =
        cluster.kubectl(&["get", "mutatingwebhookconfiguration", "railbind-webhook", "-o", "json"]).await.unwrap();
    assert!(!hooks.contains("bindings.railbind.dev"), "no webhook is in the scheduler's way: {hooks}");
    until("the policy's parameters", LIMIT, || async {
        ensure!(second.metric("railbind_webhook_binding_shards", "").await? > 0.0);
        Ok(())
    })
    .await
    .with_context(|| second.process.tail(20))
    .unwrap();
    // The API server's own informers need a moment for a policy that is new.
    with_namespace(&cluster, INJECT, async |namespace| {
        until("the policy to be in force", LIMIT, || async {
            let name = format!("probe-{}", free_port()?);
            cluster.apply(&worker(namespace, &name, "roce-1", "guide", false).to_string()).await?;
            let record = cluster.recorded(namespace, &name, "main").await?;
            ensure!(record["env"]["UCX_IB_GID_INDEX"] == "3", "{}", record["env"]);
            Ok(())
        })
        .await?;
        let by_policy = given(&cluster, namespace).await?;
        assert_eq!(by_policy, by_webhook, "both engines give the same");
        println!("both engines: {}", serde_json::to_string_pretty(&by_policy)?);

        // A node's new index is in the parameters before long; and the policy does its work with the webhook gone.
        cluster.kubectl(&["label", "node", "roce-1", "--overwrite", "railbind.dev/gid-index=7"]).await?;
        until("the new value in the parameters", LIMIT, || async {
            let map = cluster.kubectl(&["get", "bindingvalues", "railbind-bindings-0", "-o", "json"]).await?;
            ensure!(map.contains("7|10.20"), "{map}");
            Ok(())
        })
        .await?;
        cluster.apply(&worker(namespace, "late", "roce-1", "guide", true).to_string()).await?;
        second.process.kill().await?;
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        ungate(&cluster, namespace, "late").await?;
        let record = cluster.recorded(namespace, "late", "main").await?;
        assert_eq!(record["env"]["UCX_IB_GID_INDEX"], "7");
        Ok(())
    })
    .await;
    cluster.stop().await.unwrap();
}

async fn ungate(cluster: &Cluster, namespace: &str, name: &str) -> Result<()> {
    let pods: Api<Pod> = Api::namespaced(cluster.client().await?, namespace);
    let none = Patch::Merge(json!({"spec": {"schedulingGates": null}}));
    pods.patch(name, &PatchParams::default(), &none).await.context("remove the gate")?;
    Ok(())
}

#[tokio::test]
async fn with_the_webhook_dead_pods_bind_with_their_defaults_and_the_auditor_counts_them() {
    let cluster = start().await.unwrap();
    let mut hook = webhook(&cluster, "first", "webhook").await.unwrap();
    with_namespace(&cluster, INJECT, async |namespace| {
        cluster.apply(&worker(namespace, "waits", "roce-1", "guide", true).to_string()).await?;
        cluster.apply(&worker(namespace, "well", "roce-2", "guide", false).to_string()).await?;
        cluster.recorded(namespace, "well", "main").await?;
        hook.process.kill().await?;

        ungate(&cluster, namespace, "waits").await?;
        let record = cluster.recorded(namespace, "waits", "main").await?;
        assert_eq!(record["env"]["UCX_IB_GID_INDEX"], "auto", "UCX's own choice, not an empty variable");
        cluster.apply(&worker(namespace, "missed", "roce-1", "guide", false).to_string()).await?;
        let record = cluster.recorded(namespace, "missed", "main").await?;
        assert_eq!(record["env"].get("UCX_TLS"), None);

        let again = webhook(&cluster, "second", "webhook").await?;
        until("the auditor", 2 * LIMIT, || async {
            let count = async |problem: &str| again.metric("railbind_webhook_audit_workers", problem).await;
            let (missed, without) = (count("unpatched").await?, count("without_node_values").await?);
            ensure!((missed, without) == (1.0, 1.0), "{missed} {without}");
            Ok(())
        })
        .await?;
        let events: Api<Event> = Api::namespaced(cluster.client().await?, namespace);
        let told = until("events", LIMIT, || async {
            let mut told: Vec<(String, String, String)> = Vec::new();
            for event in events.list(&ListParams::default()).await?.items {
                let reason = event.reason.unwrap_or_default();
                if reason.starts_with("Fabric") {
                    told.push((
                        event.involved_object.name.unwrap_or_default(),
                        reason,
                        event.message.unwrap_or_default(),
                    ));
                }
            }
            ensure!(told.len() >= 3, "{told:?}");
            told.sort();
            Ok(told)
        })
        .await?;
        println!("{told:#?}");
        let short: Vec<(&str, &str)> = told.iter().map(|(pod, reason, _)| (pod.as_str(), reason.as_str())).collect();
        let expected = [("missed", "FabricNotInjected"), ("waits", "FabricValuesMissing"), ("well", "FabricBound")];
        assert_eq!(short, expected);
        assert!(told[2].2.contains("UCX_IB_GID_INDEX=5"), "{told:?}");
        Ok(())
    })
    .await;
    cluster.stop().await.unwrap();
}
