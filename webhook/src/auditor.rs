//! The auditor: counts workers that were admitted without us, or that run without their node's values, and tells on the pod.
//!
//! The webhook fails open, so somebody has to look afterwards.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use k8s_openapi::{
    api::core::v1::{Event, EventSource, ObjectReference},
    apimachinery::pkg::apis::meta::v1::Time,
    jiff::Timestamp,
};
use kube::{Api, Client, api::PostParams, core::ObjectMeta};
use policies::{
    names::{WEBHOOK_MANAGER, label},
    node_map::SharedNode,
    plan::bind_values,
    profile::Profiles,
};
use tokio::sync::watch;

use crate::{
    metrics::Metrics,
    mirror::{Mirror, Snapshot},
    nodes::NamespaceView,
    profiles::InForce,
    retry::{ApiError, call},
    workers::WorkerView,
};

/// How often it looks, at most.
const EVERY: Duration = Duration::from_secs(5);
/// Events in one look: a burst of thousands would be the next trouble.
const MAX_EVENTS: usize = 200;

/// What there is to say about a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Finding {
    /// All is well: it is bound, with its node's values.
    Bound,
    /// It was admitted without a decision of ours.
    Unpatched,
    /// It is bound, and its node's values are not what it has.
    WithoutValues,
}

impl Finding {
    /// The Event's reason.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Bound => "FabricBound",
            Self::Unpatched => "FabricNotInjected",
            Self::WithoutValues => "FabricValuesMissing",
        }
    }
}

/// What there is to say about a worker, if anything yet.
pub fn look(worker: &WorkerView, nodes: &Snapshot<SharedNode>, profiles: &Profiles) -> Option<(Finding, String)> {
    let Some(node) = worker.node.as_deref() else {
        return (!worker.decided).then(|| (Finding::Unpatched, unpatched()));
    };
    if !worker.decided {
        return Some((Finding::Unpatched, unpatched()));
    }
    let node = nodes.get(node)?;
    let values = bind_values(profiles, &node.kind);
    // The container has been given the value that is in the annotation; those of other profiles are none of its business.
    let missing: Vec<&String> = worker
        .values
        .iter()
        .filter(|(name, value)| values.get(*name).is_some_and(|now| now != *value))
        .map(|(name, _)| name)
        .collect();
    if !missing.is_empty() {
        let names = missing.into_iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        return Some((
            Finding::WithoutValues,
            format!("not what node {} has: {names}; create the pod anew to get it", node.name),
        ));
    }
    let facts: Vec<String> = worker.values.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let profile = worker.profile.as_deref()?;
    let domain = node.label(label::FABRIC_DOMAIN).map(|domain| format!(", domain {domain}")).unwrap_or_default();
    Some((
        Finding::Bound,
        format!("profile {profile} on {}{domain} {}", node.name, facts.join(" ")).trim_end().to_owned(),
    ))
}

fn unpatched() -> String {
    "a worker that was admitted without Railbind's settings (its webhook was not there): create it anew".into()
}

/// The auditor.
pub struct Auditor {
    /// The API server.
    pub client: Client,
    /// The workers.
    pub workers: Mirror<WorkerView>,
    /// The nodes.
    pub nodes: Mirror<SharedNode>,
    /// The namespaces: only those in scope are looked at.
    pub namespaces: Mirror<NamespaceView>,
    /// The profiles.
    pub profiles: InForce,
    /// Only the leader looks.
    pub leads: watch::Receiver<bool>,
    /// What is counted.
    pub metrics: Metrics,
}

impl Auditor {
    /// Runs for ever.
    pub async fn run(mut self) {
        let mut told: BTreeSet<(String, Finding)> = BTreeSet::new();
        loop {
            if *self.leads.borrow() {
                self.round(&mut told).await;
            } else {
                self.metrics.audit(0, 0);
            }
            tokio::time::sleep(EVERY).await;
            // Nothing to see is nothing to do.
            tokio::select! {
                () = self.workers.changed() => {}
                () = self.nodes.changed() => {}
                _ = self.leads.changed() => {}
                () = tokio::time::sleep(Duration::from_mins(1)) => {}
            }
        }
    }

    async fn round(&self, told: &mut BTreeSet<(String, Finding)>) {
        let (Some(workers), Some(nodes), Some(namespaces)) =
            (self.workers.snapshot(), self.nodes.snapshot(), self.namespaces.snapshot())
        else {
            return;
        };
        let profiles = self.profiles.current();
        let (mut unpatched, mut without) = (0, 0);
        let mut news: Vec<(Arc<WorkerView>, Finding, String)> = Vec::new();
        let mut current = BTreeSet::new();
        for worker in workers.all() {
            let in_scope = namespaces
                .get(&worker.namespace)
                .is_some_and(|namespace| namespace.labels.get(label::INJECT).is_some_and(|value| value == "enabled"));
            let Some((finding, text)) = look(worker, &nodes, &profiles).filter(|_| in_scope) else { continue };
            match finding {
                Finding::Bound => {}
                Finding::Unpatched => unpatched += 1,
                Finding::WithoutValues => without += 1,
            }
            let key = (worker.uid.clone(), finding);
            if !told.contains(&key) {
                news.push((worker.clone(), finding, text));
            }
            current.insert(key);
        }
        self.metrics.audit(unpatched, without);
        // Whoever is gone needs no remembering.
        told.retain(|key| current.contains(key));
        for (worker, finding, text) in news.into_iter().take(MAX_EVENTS) {
            // The other end of the line that was logged when it was admitted.
            tracing::info!(
                namespace = worker.namespace,
                pod = worker.pod,
                uid = worker.uid,
                decision = worker.decision,
                node = worker.node,
                finding = finding.reason(),
                text,
                "worker"
            );
            let text = match &worker.decision {
                Some(id) => format!("{text} (decision {id})"),
                None => text,
            };
            match self.tell(&worker, finding, text).await {
                Ok(()) => {
                    told.insert((worker.uid.clone(), finding));
                }
                Err(error) => {
                    tracing::warn!(%error, "event");
                    return;
                }
            }
        }
    }

    /// The Event's name follows from pod and finding: another leader writes none a second time.
    async fn tell(&self, worker: &WorkerView, finding: Finding, text: String) -> Result<(), ApiError> {
        let now = Some(Time(Timestamp::now()));
        let short = worker.uid.get(..8).unwrap_or(&worker.uid);
        let pod = worker.pod.get(..200).unwrap_or(&worker.pod);
        let event = Event {
            metadata: ObjectMeta {
                name: Some(format!("{pod}.{}.{short}", finding.reason().to_ascii_lowercase())),
                namespace: Some(worker.namespace.clone()),
                ..ObjectMeta::default()
            },
            involved_object: ObjectReference {
                api_version: Some("v1".into()),
                kind: Some("Pod".into()),
                name: Some(worker.pod.clone()),
                namespace: Some(worker.namespace.clone()),
                uid: Some(worker.uid.clone()),
                ..ObjectReference::default()
            },
            type_: Some(if finding == Finding::Bound { "Normal" } else { "Warning" }.into()),
            reason: Some(finding.reason().into()),
            message: Some(text),
            source: Some(EventSource { component: Some(WEBHOOK_MANAGER.into()), host: None }),
            count: Some(1),
            first_timestamp: now.clone(),
            last_timestamp: now,
            ..Event::default()
        };
        let events: Api<Event> = Api::namespaced(self.client.clone(), &worker.namespace);
        match call(events.create(&PostParams::default(), &event)).await {
            // Told before; or the namespace is going away.
            Ok(_) | Err(ApiError::Conflict(_) | ApiError::NotFound(_)) => Ok(()),
            Err(ApiError::Refused(text)) if text.contains("being terminated") => Ok(()),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use policies::{node_map::Pool, profile::Profiles, select::NodeView};

    use super::{Finding, look};
    use crate::{mirror::Mirror, workers::WorkerView};

    #[test]
    fn findings() {
        let labels = [("railbind.dev/fabric", "roce"), ("railbind.dev/gid-index", "5")];
        let node = NodeView {
            name: "n".into(),
            labels: labels.map(|(key, value)| (key.into(), value.into())).into(),
            ..NodeView::default()
        };
        let (mut writer, mirror) = Mirror::new();
        for event in [
            kube::runtime::watcher::Event::Init,
            kube::runtime::watcher::Event::InitApply(Pool::default().share(node)),
            kube::runtime::watcher::Event::InitDone,
        ] {
            writer.apply([event]);
        }
        let nodes = mirror.snapshot().unwrap();
        let profiles = Profiles::embedded().unwrap();
        let worker = |decided: bool, node: Option<&str>, index: &str| WorkerView {
            decided,
            profile: Some("roce-gpudirect".into()),
            node: node.map(str::to_owned),
            values: [("UCX_IB_GID_INDEX".to_owned(), index.to_owned())].into(),
            ..WorkerView::default()
        };
        let found = |worker: &WorkerView| look(worker, &nodes, &profiles).map(|(finding, _)| finding);
        assert_eq!(found(&worker(true, None, "auto")), None);
        assert_eq!(found(&worker(false, None, "auto")), Some(Finding::Unpatched));
        assert_eq!(found(&worker(false, Some("n"), "auto")), Some(Finding::Unpatched));
        assert_eq!(found(&worker(true, Some("n"), "auto")), Some(Finding::WithoutValues));
        assert_eq!(found(&worker(true, Some("n"), "5")), Some(Finding::Bound));
        assert_eq!(found(&worker(true, Some("unknown"), "auto")), None);
        let (_, text) = look(&worker(true, Some("n"), "5"), &nodes, &profiles).unwrap();
        assert_eq!(text, "profile roce-gpudirect on n UCX_IB_GID_INDEX=5");
    }
}
