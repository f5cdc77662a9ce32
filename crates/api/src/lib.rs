//! Railbind's objects in the cluster, as kube types: what the CRDs are generated from.

mod node_fabric;
pub mod transport_profile;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt as _;

pub use node_fabric::{NodeFabric, NodeFabricSpec};

/// Every CRD, with the name of its file under `manifests/base/crds`.
pub fn crds() -> Vec<(&'static str, CustomResourceDefinition)> {
    let mut crds = vec![("nodefabrics.yaml", NodeFabric::crd())];
    crds.extend(transport_profile::crd().map(|crd| ("transportprofiles.yaml", crd)));
    crds
}

/// A CRD as its manifest.
///
/// # Errors
/// None that a test would not have seen: the types serialise.
pub fn yaml(crd: &CustomResourceDefinition) -> Result<String, Box<dyn std::error::Error>> {
    // By way of JSON, whose maps are sorted.
    let value = serde_json::to_value(crd)?;
    Ok(format!("# Generated from crates/api by `make generate`.\n{}", serde_saphyr::to_string(&value)?))
}
