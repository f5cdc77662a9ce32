//! The cluster's own transport profiles: what the API server refuses, and what takes effect without a restart.

use anyhow::{Result, ensure};
use harness::{Cluster, LIMIT, NodeSpec, Options, railbind::repository, until, with_namespace};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use serde_json::{Value, json};

const TCP: &str = include_str!("../../../policies/profiles/guide/tcp.yaml");

async fn worker(cluster: &Cluster, namespace: &str, name: &str) -> Result<Value> {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": {"llm-d.ai/role": "decode"}},
        "spec": {"containers": [{"name": "main", "image": "x", "resources": {"limits": {"nvidia.com/gpu": "1"}}}]},
    });
    cluster.apply(&pod.to_string()).await?;
    let pods: Api<Pod> = Api::namespaced(cluster.client().await?, namespace);
    Ok(serde_json::to_value(pods.get(name).await?)?)
}

#[tokio::test]
async fn objects_are_checked_by_the_api_server_and_take_effect_at_once() {
    let cluster = Cluster::start(Options::default()).await.unwrap();
    let crd = repository().join("manifests/base/crds/transportprofiles.yaml");
    cluster.apply(&std::fs::read_to_string(crd).unwrap()).await.unwrap();
    cluster.kubectl(&["wait", "--for=condition=Established", "crd/transportprofiles.railbind.dev"]).await.unwrap();
    cluster.install_identities().await.unwrap();
    let node = NodeSpec::new("tcp-1").resource("nvidia.com/gpu", "8").label("railbind.dev/fabric", "tcp");
    cluster.add_node(node.label("railbind.dev/profile", "tcp")).await.unwrap();
    let webhook = cluster.spawn_webhook("webhook").await.unwrap();
    with_namespace(&cluster, &[("railbind.dev/inject", "enabled")], async |namespace| {
        for (from, to, said) in [
            ("fabric: [tcp]", "fabric: []", "at least 1 items"),
            ("fabric: [tcp]", "fabric: [carrier-pigeon]", "Unsupported value"),
            ("set: guide", "set: auto", "`auto` is no set"),
            ("name: UCX_TLS, value", "name: ucx-tls, value", "should match"),
            ("value: \"tcp,cuda_copy,cuda_ipc\"", "from: gid-index", "together with `from`"),
            ("value: \"tcp,cuda_copy,cuda_ipc\", ", "", "give either `value`, or `from`"),
            ("priority: 100", "priority: high", "must be of type integer"),
            ("priority: 100", "priority: 100\n  colour: red", "unknown field"),
        ] {
            let wrong = TCP.replacen(from, to, 1);
            ensure!(wrong != TCP, "{from}");
            let refused = cluster.apply(&wrong).await.unwrap_err().to_string();
            ensure!(refused.contains(said), "{to}: {refused}");
        }

        let before = worker(&cluster, namespace, "before").await?;
        assert_eq!(before["spec"]["containers"][0]["env"][0]["value"], "tcp,cuda_copy,cuda_ipc");
        cluster.apply(&TCP.replacen("tcp,cuda_copy,cuda_ipc", "tcp,sm,cuda_copy", 1)).await?;
        until("the webhook to take the profile over", LIMIT, || async {
            ensure!(webhook.metric("railbind_webhook_transport_profiles", r#"state="good""#).await? > 0.0);
            Ok(())
        })
        .await?;
        let after = worker(&cluster, namespace, "after").await?;
        assert_eq!(after["spec"]["containers"][0]["env"][0]["value"], "tcp,sm,cuda_copy");
        let (_, ready) = webhook.get("/readyz").await?;
        ensure!(ready.contains("[+] profiles"), "{ready}");

        cluster.kubectl(&["delete", "transportprofile", "tcp"]).await?;
        until("the embedded profile to be back", LIMIT, || async {
            ensure!(webhook.metric("railbind_webhook_transport_profiles", r#"state="good""#).await? < 1.0);
            Ok(())
        })
        .await?;
        let back = worker(&cluster, namespace, "back").await?;
        assert_eq!(back["spec"]["containers"][0]["env"][0]["value"], "tcp,cuda_copy,cuda_ipc");
        Ok(())
    })
    .await;
    cluster.stop().await.unwrap();
}
