//! Publishing the whole story: the `NodeFabric` of this node, owned by its Node.

use std::collections::BTreeMap;

use api::NodeFabric;
use k8s_openapi::{api::core::v1::Node, apimachinery::pkg::apis::meta::v1::OwnerReference};
use kube::{
    Api, Resource, ResourceExt,
    api::{Patch, PatchParams},
};
use policies::{
    names::{AGENT_MANAGER, label},
    node_fabric::{self, NodeFabricStatus},
    roles::Fabric,
    selftest::own,
};
use serde_json::json;

/// What a write did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The object said it already.
    Unchanged,
    /// Written.
    Written,
    /// The cluster has no such kind: the CRD is not installed.
    NoKind,
}

/// Makes the node's `NodeFabric` say `status`.
///
/// # Errors
/// The API server's, as they are: the caller retries.
pub async fn publish(fabrics: &Api<NodeFabric>, node: &Node, status: &NodeFabricStatus) -> kube::Result<Outcome> {
    let name = node.name_any();
    let owner = OwnerReference {
        api_version: Node::api_version(&()).into_owned(),
        kind: Node::kind(&()).into_owned(),
        name: name.clone(),
        uid: node.uid().unwrap_or_default(),
        ..OwnerReference::default()
    };
    let params = PatchParams::apply(AGENT_MANAGER).force();
    let current = match fabrics.get_opt(&name).await {
        // Not "no such object", which is no error here, but "no such page": the kind itself is unknown.
        Err(kube::Error::Api(error)) if error.code == 404 => return Ok(Outcome::NoKind),
        current => current?,
    };
    // What agents select partners by.
    let fabric = status.fabric.as_deref().and_then(Fabric::named);
    let labels: BTreeMap<&str, String> = own::domain(fabric, status.fabric_domain.as_deref())
        .map(|domain| (label::FABRIC_DOMAIN, domain))
        .into_iter()
        .collect();
    let has_metadata = current.as_ref().is_some_and(|fabric| {
        let domain = fabric.labels().get(label::FABRIC_DOMAIN);
        fabric.owner_references().contains(&owner) && domain == labels.get(label::FABRIC_DOMAIN)
    });
    if !has_metadata {
        // A Node that was deleted and made again has another uid, and the old reference would have the object collected.
        let object = json!({
            "apiVersion": NodeFabric::api_version(&()),
            "kind": NodeFabric::kind(&()),
            "metadata": { "name": name, "ownerReferences": [owner], "labels": labels },
            "spec": {},
        });
        fabrics.patch(&name, &params, &Patch::Apply(object)).await?;
    }
    if has_metadata
        && current.and_then(|fabric| fabric.status).is_some_and(|current| node_fabric::same(&current, status))
    {
        return Ok(Outcome::Unchanged);
    }
    let object = json!({
        "apiVersion": NodeFabric::api_version(&()),
        "kind": NodeFabric::kind(&()),
        "metadata": { "name": name },
        "status": status,
    });
    fabrics.patch_status(&name, &params, &Patch::Apply(object)).await?;
    Ok(Outcome::Written)
}
