//! A broken Railbind never stops a cluster from creating pods. This has a cluster of its own, to break.

use std::time::Instant;

use anyhow::Result;
use harness::{Cluster, Options, scene::MACHINES, with_namespace};
use serde_json::{Value, json};

fn worker(namespace: &str, name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": {"llm-d.ai/role": "decode"}},
        "spec": {
            "nodeSelector": {"railbind.dev/fabric": "roce"},
            "containers": [{"name": "main", "image": "vllm/vllm-openai", "resources": {"limits": {"nvidia.com/gpu": "1"}}}],
        },
    })
}

async fn env(cluster: &Cluster, namespace: &str, name: &str) -> Result<Value> {
    cluster.apply(&worker(namespace, name).to_string()).await?;
    Ok(cluster.recorded(namespace, name, "main").await?["env"].clone())
}

#[tokio::test]
async fn pods_are_created_and_bound_while_the_webhook_is_gone_and_patched_when_it_is_back() {
    let cluster = Cluster::start(Options::default()).await.unwrap();
    cluster.install_identities().await.unwrap();
    let roce = MACHINES.iter().find(|machine| machine.node == "roce-2").unwrap();
    let _agent = cluster.add_machine(roce).await.unwrap();
    let mut webhook = cluster.spawn_webhook("webhook-1").await.unwrap();
    with_namespace(&cluster, &[("railbind.dev/inject", "enabled")], async |namespace| {
        assert_eq!(env(&cluster, namespace, "before").await?["UCX_IB_GID_INDEX"], "5");

        webhook.process.kill().await?;
        let started = Instant::now();
        let while_gone = env(&cluster, namespace, "while-gone").await?;
        assert_eq!(while_gone.get("UCX_TLS"), None, "{while_gone}");
        println!("created, bound and started without the webhook in {:?}", started.elapsed());

        let _webhook = cluster.spawn_webhook("webhook-2").await?;
        assert_eq!(env(&cluster, namespace, "after").await?["UCX_IB_GID_INDEX"], "5");
        Ok(())
    })
    .await;
    cluster.stop().await.unwrap();
}
