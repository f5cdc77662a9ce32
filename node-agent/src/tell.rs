//! Events on the Node: what `kubectl describe node` ends with.

use k8s_openapi::api::core::v1::{Node, ObjectReference};
use kube::{
    Client, Resource, ResourceExt,
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use policies::{names::AGENT_MANAGER, report::Announcement};

/// Tells the cluster of changes.
pub struct Teller(Recorder);

impl std::fmt::Debug for Teller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Teller")
    }
}

impl Teller {
    /// As the agent of `node`.
    pub fn new(client: Client, node: &str) -> Self {
        Self(Recorder::new(client, Reporter { controller: AGENT_MANAGER.into(), instance: Some(node.into()) }))
    }

    /// Writes one Event. A lost Event is logged and not retried: the condition says the same.
    pub async fn tell(&self, node: &Node, announcement: &Announcement) {
        let event = Event {
            type_: if announcement.warning { EventType::Warning } else { EventType::Normal },
            reason: announcement.reason.into(),
            note: Some(announcement.note.clone()),
            action: "Survey".into(),
            secondary: None,
        };
        // Describe finds events of a Node by its uid; cluster-scoped objects have theirs in `default`.
        let about = ObjectReference {
            api_version: Some(Node::api_version(&()).into_owned()),
            kind: Some(Node::kind(&()).into_owned()),
            name: Some(node.name_any()),
            uid: node.uid(),
            ..ObjectReference::default()
        };
        if let Err(error) = self.0.publish(&event, &about).await {
            tracing::warn!(%error, reason = announcement.reason, "could not write the Event");
        }
    }
}
