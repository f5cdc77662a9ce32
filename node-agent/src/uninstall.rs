//! `railbind-agent uninstall`: everything that agents wrote, off the cluster.

use std::collections::BTreeMap;

use anyhow::Context;
use api::NodeFabric;
use k8s_openapi::api::core::v1::Node;
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use policies::names::{AGENT_MANAGER, CONDITION, DOMAIN};
use serde_json::{Value, json};

/// Removes our labels, annotations, conditions and NodeFabrics from every node, with the rights of the caller.
///
/// # Errors
/// The first node that could not be cleaned, after all were tried; it can be run again.
pub async fn run() -> anyhow::Result<()> {
    let client = Client::try_default().await.context("finding the API server: set KUBECONFIG")?;
    let nodes: Api<Node> = Api::all(client.clone());
    let fabrics: Api<NodeFabric> = Api::all(client);
    let mut failed = None;
    let mut cleaned = 0_usize;
    for node in nodes.list(&ListParams::default()).await.context("listing nodes")? {
        match clean(&nodes, &node).await {
            Ok(changed) => cleaned += usize::from(changed),
            Err(error) => {
                eprintln!("{}: {error}", node.name_any());
                failed.get_or_insert(error);
            }
        }
    }
    let deleted = match fabrics.delete_collection(&DeleteParams::default(), &ListParams::default()).await {
        Ok(answer) => answer.left().map_or(0, |list| list.items.len()),
        Err(kube::Error::Api(error)) if error.code == 404 => 0,
        Err(error) => return Err(error).context("deleting NodeFabrics"),
    };
    println!("cleaned {cleaned} nodes, deleted {deleted} NodeFabrics");
    match failed {
        Some(error) => Err(error).context("not every node could be cleaned; run it again"),
        None => Ok(()),
    }
}

async fn clean(nodes: &Api<Node>, node: &Node) -> kube::Result<bool> {
    let Some(patch) = removal(node) else { return Ok(false) };
    let params = PatchParams { field_manager: Some(AGENT_MANAGER.into()), ..PatchParams::default() };
    nodes.patch_status(&node.name_any(), &params, &Patch::Strategic(patch)).await?;
    Ok(true)
}

/// The strategic merge patch that takes what is ours off a Node; `None` where nothing is.
fn removal(node: &Node) -> Option<Value> {
    let prefix = format!("{DOMAIN}/");
    let nulls = |map: &BTreeMap<String, String>| -> BTreeMap<String, Value> {
        map.keys().filter(|key| key.starts_with(&prefix)).map(|key| (key.clone(), Value::Null)).collect()
    };
    let (labels, annotations) = (nulls(node.labels()), nulls(node.annotations()));
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    let condition = conditions.is_some_and(|list| list.iter().any(|condition| condition.type_ == CONDITION));
    if labels.is_empty() && annotations.is_empty() && !condition {
        return None;
    }
    let mut patch = json!({ "metadata": { "labels": labels, "annotations": annotations } });
    if condition {
        patch["status"] = json!({ "conditions": [{ "type": CONDITION, "$patch": "delete" }] });
    }
    Some(patch)
}
