//! Everything that a cluster holds, to see what an installation left behind.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use harness::{Cluster, LIMIT, until};
use serde_json::Value;

/// Kinds that come and go by themselves.
const RESTLESS: [&str; 3] = ["events", "events.events.k8s.io", "componentstatuses"];

/// Kind, namespace and name of every object of every kind that the API server lists; of nodes also labels, annotations and conditions.
pub(crate) async fn everything(cluster: &Cluster) -> Result<BTreeSet<String>> {
    let kinds = cluster.kubectl(&["api-resources", "--verbs=list", "--cached=false", "-o", "name"]).await?;
    let kinds: Vec<&str> = kinds.lines().filter(|kind| !RESTLESS.contains(kind)).collect();
    ensure!(kinds.len() > 40, "{kinds:?}");
    let columns = "custom-columns=K:.kind,A:.apiVersion,NS:.metadata.namespace,N:.metadata.name";
    let objects = cluster.kubectl(&["get", &kinds.join(","), "-A", "--no-headers", "-o", columns]).await?;
    let mut all: BTreeSet<String> =
        objects.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    let nodes: Value = serde_json::from_str(&cluster.kubectl(&["get", "nodes", "-o", "json"]).await?)?;
    for node in nodes["items"].as_array().into_iter().flatten() {
        let name = &node["metadata"]["name"];
        for part in ["labels", "annotations"] {
            let map = node["metadata"][part].as_object().into_iter().flatten();
            all.extend(map.map(|(key, value)| format!("{name} {part} {key}={value}")));
        }
        let conditions = node["status"]["conditions"].as_array().into_iter().flatten();
        all.extend(conditions.map(|condition| format!("{name} condition {}", condition["type"])));
    }
    Ok(all)
}

/// Waits until the cluster holds exactly what it held before.
pub(crate) async fn none_left(cluster: &Cluster, before: &BTreeSet<String>) -> Result<()> {
    until("the cluster to be as it was", LIMIT, || async {
        let now = everything(cluster).await?;
        let left: Vec<_> = now.difference(before).collect();
        let gone: Vec<_> = before.difference(&now).collect();
        ensure!(left.is_empty() && gone.is_empty(), "left behind: {left:#?}\nmissing: {gone:#?}");
        Ok(())
    })
    .await
}
