//! Nodes and pods as the watches read them. There are thousands, of 10 to 30 KB each: what is large and of no use here (a node's
//! images, managed fields, most of a status) is skipped while it is read, and is never in memory.

use std::collections::BTreeMap;

use k8s_openapi::{
    Metadata, Resource,
    api::core::v1::{Node, NodeSpec, Pod},
    apimachinery::pkg::{
        api::resource::Quantity,
        apis::meta::v1::{ObjectMeta, Time},
    },
};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// A Node.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct LeanNode {
    /// Name, version, labels and annotations.
    #[serde(deserialize_with = "lean")]
    pub metadata: ObjectMeta,
    /// As it is.
    pub spec: NodeSpec,
    /// What pods can ask of it.
    pub status: LeanNodeStatus,
}

/// The status of a Node.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct LeanNodeStatus {
    /// Resources by name.
    pub allocatable: BTreeMap<String, Quantity>,
}

/// A Pod.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct LeanPod {
    /// Name, version, labels and annotations.
    #[serde(deserialize_with = "lean")]
    pub metadata: ObjectMeta,
    /// Raw, as a review brings it.
    pub spec: Value,
    /// How far it is.
    pub status: LeanPodStatus,
}

/// The status of a Pod.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct LeanPodStatus {
    /// `Running`, say.
    pub phase: String,
}

impl Resource for LeanNode {
    type Scope = <Node as Resource>::Scope;

    const API_VERSION: &'static str = Node::API_VERSION;
    const GROUP: &'static str = Node::GROUP;
    const KIND: &'static str = Node::KIND;
    const URL_PATH_SEGMENT: &'static str = Node::URL_PATH_SEGMENT;
    const VERSION: &'static str = Node::VERSION;
}

impl Metadata for LeanNode {
    type Ty = ObjectMeta;

    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn metadata_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

impl Resource for LeanPod {
    type Scope = <Pod as Resource>::Scope;

    const API_VERSION: &'static str = Pod::API_VERSION;
    const GROUP: &'static str = Pod::GROUP;
    const KIND: &'static str = Pod::KIND;
    const URL_PATH_SEGMENT: &'static str = Pod::URL_PATH_SEGMENT;
    const VERSION: &'static str = Pod::VERSION;
}

impl Metadata for LeanPod {
    type Ty = ObjectMeta;

    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn metadata_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// The metadata that a watch and a decision need.
fn lean<'de, D: Deserializer<'de>>(metadata: D) -> Result<ObjectMeta, D::Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Lean {
        name: Option<String>,
        namespace: Option<String>,
        uid: Option<String>,
        resource_version: Option<String>,
        deletion_timestamp: Option<Time>,
        labels: Option<BTreeMap<String, String>>,
        annotations: Option<BTreeMap<String, String>>,
    }
    let Lean { name, namespace, uid, resource_version, deletion_timestamp, labels, annotations } =
        Lean::deserialize(metadata)?;
    Ok(ObjectMeta {
        name,
        namespace,
        uid,
        resource_version,
        deletion_timestamp,
        labels,
        annotations,
        ..ObjectMeta::default()
    })
}

#[cfg(test)]
mod tests {
    use kube::Resource as _;
    use serde_json::{Value, json};

    use super::{LeanNode, LeanPod, Metadata};

    fn metadata() -> Value {
        json!({
            "name": "a", "namespace": "b", "uid": "c", "resourceVersion": "7", "deletionTimestamp": "2026-01-02T03:04:05Z",
            "labels": {"l": "m"}, "annotations": {"n": "o"},
            "managedFields": [{"manager": "kubelet", "fieldsV1": {"f:status": {}}}], "ownerReferences": [],
        })
    }

    #[test]
    fn the_same_places_as_the_full_kinds() {
        use k8s_openapi::api::core::v1::{Node, Pod};
        assert_eq!(LeanNode::url_path(&(), None), Node::url_path(&(), None));
        assert_eq!(LeanPod::url_path(&(), Some("ns")), Pod::url_path(&(), Some("ns")));
        assert_eq!((LeanNode::kind(&()), LeanPod::kind(&())), (Node::kind(&()), Pod::kind(&())));
    }

    #[test]
    fn what_is_needed_is_kept_and_the_rest_is_not() {
        let node: LeanNode = serde_json::from_value(json!({
            "metadata": metadata(), "spec": {"unschedulable": true},
            "status": {"allocatable": {"nvidia.com/gpu": "8"}, "images": [{"names": ["x"]}]},
        }))
        .unwrap();
        let mut kept = metadata();
        for gone in ["managedFields", "ownerReferences"] {
            kept.as_object_mut().unwrap().remove(gone);
        }
        assert_eq!(serde_json::to_value(node.metadata()).unwrap(), kept);
        assert_eq!((node.spec.unschedulable, node.status.allocatable["nvidia.com/gpu"].0.as_str()), (Some(true), "8"));
        let pod = json!({"metadata": metadata(), "spec": {"x": 1}, "status": {"phase": "Running", "conditions": []}});
        let pod: LeanPod = serde_json::from_value(pod).unwrap();
        assert_eq!(serde_json::to_value(&pod.metadata).unwrap(), kept);
        assert_eq!((pod.spec, pod.status.phase.as_str()), (json!({"x": 1}), "Running"));
    }

    #[test]
    fn parts_may_be_missing() {
        for text in [r#"{"metadata": {}}"#, "{}"] {
            assert!(serde_json::from_str::<LeanNode>(text).unwrap().metadata.name.is_none());
            assert!(serde_json::from_str::<LeanPod>(text).unwrap().spec.is_null());
        }
    }
}
