//! What a platform team does with Railbind: renders it, installs it, reads its rights, upgrades it, takes it away.

#![allow(clippy::unwrap_used, reason = "all of it is tests, helpers included")]

mod access;
mod break_glass;
mod certificates;
mod images;
mod lifecycle;
mod monitoring;
mod render;
mod security;
mod selftest;
mod taint;
mod trace;

use anyhow::Result;
use harness::{Cluster, LIMIT, Options, railbind::repository, until};
use serde_json::json;
use tokio::sync::OnceCell;

/// A cluster with the base installed and two nodes, shared by the tests that change nothing of either.
async fn installed() -> &'static Cluster {
    static SHARED: OnceCell<Result<Cluster, String>> = OnceCell::const_new();
    let started = SHARED.get_or_init(async || install().await.map_err(|err| format!("{err:?}")));
    started.await.as_ref().unwrap_or_else(|err| panic!("{err}"))
}

async fn install() -> Result<Cluster> {
    let cluster = Cluster::start(Options::default()).await?;
    cluster.kubectl(&["apply", "-k", &repository().join("manifests/base").display().to_string()]).await?;
    for name in ["own", "other"] {
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
            "status": {"capacity": {"cpu": "8"}, "allocatable": {"cpu": "8"}, "addresses": [{"type": "Hostname", "address": name}],
                       "conditions": [{"type": "Ready", "status": "True"}]}});
        cluster.apply(&node.to_string()).await?;
        cluster.kubectl_with(&["apply", "--subresource=status", "--server-side", "-f", "-"], &node.to_string()).await?;
    }
    // A policy takes effect some time after it was written, all of them at the same.
    let probe =
        r#"{"apiVersion": "railbind.dev/v1alpha1", "kind": "NodeFabric", "metadata": {"name": "probe"}, "spec": {}}"#;
    let agent = "--as=system:serviceaccount:railbind-system:railbind-agent";
    let webhook = "--as=system:serviceaccount:railbind-system:railbind-webhook";
    until("the policies", LIMIT, || async {
        for (args, input, why) in [
            (vec!["create", "--dry-run=server", "-f", "-", agent], probe, "its own node's NodeFabric"),
            (
                vec!["create", "secret", "generic", "probe", "-n", "railbind-system", "--dry-run=server", webhook],
                "",
                "Secret with its CA",
            ),
        ] {
            let refused = cluster.kubectl_with(&args, input).await.err().map(|err| err.to_string()).unwrap_or_default();
            anyhow::ensure!(refused.contains(why), "{args:?}: {refused}");
        }
        Ok(())
    })
    .await?;
    Ok(cluster)
}
