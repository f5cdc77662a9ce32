//! A ResourceQuota or LimitRange that our additions would break: the pod is admitted all the same, with what there is room for.

use anyhow::{Context, Result, ensure};
use harness::{Cluster, LIMIT, Options, until, with_namespace};
use k8s_openapi::api::core::v1::{Pod, ResourceQuota};
use kube::{Api, api::PostParams};
use serde_json::{Value, json};

fn worker(name: &str) -> Result<Pod> {
    Ok(serde_json::from_value(json!({
        "metadata": {"name": name, "labels": {"llm-d.ai/role": "decode"}},
        "spec": {
            "schedulingGates": [{"name": "test/never"}],
            "containers": [{"name": "main", "image": "vllm/vllm-openai", "resources": {"limits": {"nvidia.com/gpu": "2"}}}],
        },
    }))?)
}

/// Creates a worker; gives what it got of `rdma/ib`, and what was decided.
async fn create(pods: &Api<Pod>, name: &str) -> Result<(Value, String)> {
    let pod = serde_json::to_value(pods.create(&PostParams::default(), &worker(name)?).await?)?;
    let decision = pod["metadata"]["annotations"]["railbind.dev/decision"].as_str().context("no decision")?;
    Ok((pod["spec"]["containers"][0]["resources"]["requests"]["rdma/ib"].clone(), decision.to_owned()))
}

#[tokio::test]
async fn pods_that_a_quota_or_limit_would_refuse_with_us_are_admitted_with_what_fits() {
    let cluster = Cluster::start(Options::default()).await.unwrap();
    cluster.install_identities().await.unwrap();
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "ib-1", "labels": {
        "railbind.dev/fabric": "infiniband", "railbind.dev/profile": "infiniband-gpudirect"}}});
    cluster.apply(&node.to_string()).await.unwrap();
    let allocatable = r#"--patch={"status":{"capacity":{"nvidia.com/gpu":"8","rdma/ib":"8"},"allocatable":{"nvidia.com/gpu":"8","rdma/ib":"8"}}}"#;
    cluster.kubectl(&["patch", "node", "ib-1", "--subresource=status", "--type=merge", allocatable]).await.unwrap();
    let _webhook = cluster.spawn_webhook("webhook").await.unwrap();
    with_namespace(&cluster, &[("railbind.dev/inject", "enabled")], async |namespace| {
        let client = cluster.client().await?;
        let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
        assert_eq!(create(&pods, "before").await?.0, "2");
        let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "team", "namespace": namespace},
            "spec": {"hard": {"requests.rdma/ib": "5"}}});
        cluster.apply(&quota.to_string()).await?;
        let quotas: Api<ResourceQuota> = Api::namespaced(client, namespace);
        let used = async |wanted: &str| {
            until(format_args!("{wanted} used"), LIMIT, || async {
                let status = serde_json::to_value(quotas.get("team").await?.status)?;
                ensure!(status["used"]["requests.rdma/ib"] == wanted, "{status}");
                Ok(())
            })
            .await?;
            // Our own watch has it too: one review later at the latest.
            tokio::time::sleep(std::time::Duration::from_millis(500)).await;
            anyhow::Ok(())
        };
        used("2").await?;
        assert_eq!(create(&pods, "fits").await?.0, "2");
        used("4").await?;
        let (given, why) = create(&pods, "partly").await?;
        ensure!(given == "1" && why.contains("rdma/ib: 1 of 2, all that ResourceQuota team leaves room for"), "{given} {why}");
        used("5").await?;
        let (given, why) = create(&pods, "none").await?;
        ensure!(given.is_null() && why.contains("rdma/ib: none of 2"), "{given} {why}");
        // The same pod with what we would have added is what the API server refuses.
        let mut greedy = serde_json::to_value(worker("greedy")?)?;
        greedy["spec"]["containers"][0]["resources"]["limits"]["rdma/ib"] = json!("2");
        let refused = pods.create(&PostParams::default(), &serde_json::from_value(greedy)?).await.unwrap_err().to_string();
        ensure!(refused.contains("exceeded quota: team"), "{refused}");
        Ok(())
    })
    .await;
    with_namespace(&cluster, &[("railbind.dev/inject", "enabled")], async |namespace| {
        let pods: Api<Pod> = Api::namespaced(cluster.client().await?, namespace);
        let range = json!({"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "each", "namespace": namespace},
            "spec": {"limits": [{"type": "Pod", "max": {"rdma/ib": "1"}}]}});
        cluster.apply(&range.to_string()).await?;
        until("the limit to be known", LIMIT, || async {
            let (given, why) = create(&pods, &format!("p{}", harness::free_port()?)).await?;
            ensure!(given == "1" && why.contains("LimitRange each"), "{given} {why}");
            Ok(())
        })
        .await
    })
    .await;
    cluster.stop().await.unwrap();
}
