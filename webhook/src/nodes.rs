//! The nodes and namespaces of the cluster, kept up to date by watches.

use std::{
    collections::BTreeMap,
    fmt::Debug,
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use daemon::Check;
use futures::{Stream, StreamExt as _, TryStreamExt as _, pin_mut};
use k8s_openapi::api::core::v1::{Namespace, Taint};
use kube::{
    Api, Client,
    core::PartialObjectMeta,
    runtime::{
        WatchStreamExt as _,
        watcher::{Config, Error, Event, watcher},
    },
};
use policies::{
    names::annotation,
    node_map::{NodeMap, Pool, SharedNode},
    select::{self, NodeView},
};

use crate::{
    lean::LeanNode,
    metrics::Metrics,
    mirror::{Named, Writer},
    retry,
};

impl Named for SharedNode {
    type Index = NodeMap;

    fn index(nodes: &mut Vec<Arc<Self>>) -> NodeMap {
        NodeMap::new(nodes)
    }

    fn name(&self) -> &str {
        &self.name
    }
}

/// What the webhook keeps of a Namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NamespaceView {
    /// Name.
    pub name: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
}

impl Named for NamespaceView {
    type Index = ();

    fn index(_: &mut Vec<Arc<Self>>) {}

    fn name(&self) -> &str {
        &self.name
    }
}

/// Follows the nodes for ever.
pub async fn follow_nodes(client: Client, writer: Writer<SharedNode>, check: Check, metrics: Metrics) {
    let pool = Mutex::new(Pool::default());
    let pooled = || pool.lock().unwrap_or_else(PoisonError::into_inner);
    let share = |node| pooled().share(view(node));
    let events = watcher(Api::<LeanNode>::all(client), pages()).map_ok(|event| trimmed(event, share));
    let heard = |count| {
        pooled().sweep();
        metrics.nodes(count, SystemTime::now());
    };
    follow(events, writer, check, Need::Required, heard).await;
}

/// Follows the namespaces for ever.
pub async fn follow_namespaces(client: Client, writer: Writer<NamespaceView>, check: Check) {
    let events = watcher(Api::<PartialObjectMeta<Namespace>>::all(client), cached());
    follow(events.map_ok(|event| trimmed(event, namespace_view)), writer, check, Need::Required, |_| {}).await;
}

/// Events that are taken together, at most.
const BURST: usize = 512;
/// Objects that are asked for at a time in a list: the text of a page is whole in memory, and a Node's is 10 to 30 KB.
const PAGE: u32 = 25;

/// How long a watch is open (in seconds) before it is begun anew where it was: a connection that carries nothing any more is noticed then, and what
/// is known is not older for long. It costs a request a minute.
pub(crate) const WATCH_SECONDS: u32 = 60;

/// How to watch. From the API server's cache: what comes is as new as the watch.
pub(crate) fn cached() -> Config {
    Config::default().timeout(WATCH_SECONDS).any_semantic()
}

/// How to list kinds of which there are thousands. In pages: `resourceVersion=0` would spare etcd the list, and bring all of it at
/// once into our memory.
pub(crate) fn pages() -> Config {
    Config::default().timeout(WATCH_SECONDS).page_size(PAGE)
}

/// Whether reviews can be answered without what a watch brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// Not ready until it is there.
    Required,
    /// Ready without it: better decisions are made with it.
    Helpful,
}

/// The event of the object's view; that of its end, where the object is not, or no longer, one of those that are kept.
pub(crate) fn keep<K, T>(event: Event<K>, view: fn(&K) -> Option<T>, identity: fn(&K) -> T) -> Option<Event<T>> {
    Some(match event {
        Event::Init => Event::Init,
        Event::InitDone => Event::InitDone,
        Event::InitApply(object) => Event::InitApply(view(&object)?),
        Event::Apply(object) => match view(&object) {
            Some(view) => Event::Apply(view),
            None => Event::Delete(identity(&object)),
        },
        Event::Delete(object) => Event::Delete(identity(&object)),
    })
}

/// The event of what is kept of the object.
pub(crate) fn trimmed<K, T>(event: Event<K>, trim: impl Fn(K) -> T) -> Event<T> {
    match event {
        Event::Init => Event::Init,
        Event::InitDone => Event::InitDone,
        Event::InitApply(object) => Event::InitApply(trim(object)),
        Event::Apply(object) => Event::Apply(trim(object)),
        Event::Delete(object) => Event::Delete(trim(object)),
    }
}

/// Feeds a watch into a mirror. Once the first list is in, trouble leaves the check ready: what is known stays good enough to
/// decide by, and a webhook that is taken out of service decides nothing at all.
///
/// The objects come as they are kept: a burst of nodes as the API server sends them would be megabytes.
pub(crate) async fn follow<T: Named + PartialEq + Debug + Send>(
    events: impl Stream<Item = Result<Event<T>, Error>> + Send,
    mut writer: Writer<T>,
    check: Check,
    need: Need,
    heard: impl Fn(usize),
) {
    let bursts = events.default_backoff().ready_chunks(BURST);
    pin_mut!(bursts);
    let mut synced = false;
    while let Some(burst) = bursts.next().await {
        let mut taken = Vec::with_capacity(burst.len());
        for event in burst {
            match event {
                Ok(event) => {
                    synced |= matches!(event, Event::InitDone);
                    taken.push(event);
                }
                Err(error) if synced => {
                    tracing::warn!(error = why(error), "watch; going on with what is known");
                }
                Err(error) => match need {
                    Need::Required => check.not_ready(format!("first list: {}", why(error))),
                    Need::Helpful => check.ready_but(&format!("first list: {}", why(error))),
                },
            }
        }
        writer.apply(taken);
        if synced {
            check.ready();
            heard(writer.len());
        }
    }
    tracing::error!("a watch ended");
}

/// In a sentence: as it is, it shows the API server's answer twice, once as a structure.
pub(crate) fn why(error: Error) -> String {
    match error {
        Error::InitialListFailed(error) | Error::WatchStartFailed(error) | Error::WatchFailed(error) => {
            retry::sort(error).to_string()
        }
        Error::WatchError(status) => status.message,
        Error::NoResourceVersion => error.to_string(),
    }
}

/// What decisions are about in a Node.
pub fn view(node: LeanNode) -> NodeView {
    let mut annotations = node.metadata.annotations.unwrap_or_default();
    let taints = node.spec.taints.into_iter().flatten();
    let allocatable = node.status.allocatable.into_iter();
    NodeView {
        name: node.metadata.name.unwrap_or_default(),
        labels: node.metadata.labels.unwrap_or_default(),
        allocatable: allocatable.map(|(name, quantity)| (name, quantity.0)).collect(),
        unschedulable: node.spec.unschedulable.unwrap_or_default(),
        taints: taints.map(|Taint { key, value, effect, .. }| select::Taint { key, value, effect }).collect(),
        net_devices: annotations.remove(annotation::NET_DEVICES),
        roce_subnets: annotations.remove(annotation::ROCE_SUBNETS),
        fastest_set: annotations.remove(annotation::FASTEST_SET),
    }
}

pub(crate) fn namespace_view(namespace: PartialObjectMeta<Namespace>) -> NamespaceView {
    let metadata = namespace.metadata;
    NamespaceView {
        name: metadata.name.unwrap_or_default(),
        labels: metadata.labels.unwrap_or_default(),
        annotations: metadata.annotations.unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use daemon::Readiness;
    use futures::stream;
    use serde_json::json;

    use super::{Error, Event, LeanNode, Need, NodeView, Pool, SharedNode, follow, select::Taint, view};
    use crate::mirror::Mirror;

    fn node(name: &str) -> LeanNode {
        serde_json::from_value(json!({
            "metadata": {"name": name, "labels": {"railbind.dev/fabric": "roce"}, "annotations": {"a": "b", "railbind.dev/net-devices": "mlx5_0:1"}},
            "spec": {"unschedulable": true, "taints": [{"key": "nvidia.com/gpu", "effect": "NoSchedule"}]},
            "status": {"allocatable": {"nvidia.com/gpu": "8", "memory": "64Gi"}, "images": [{"names": ["x"]}]}
        }))
        .unwrap()
    }

    #[test]
    fn trimmed() {
        let pairs = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        assert_eq!(
            view(node("a")),
            NodeView {
                name: "a".into(),
                labels: pairs(&[("railbind.dev/fabric", "roce")]),
                allocatable: pairs(&[("nvidia.com/gpu", "8"), ("memory", "64Gi")]),
                unschedulable: true,
                taints: vec![Taint { key: "nvidia.com/gpu".into(), value: None, effect: "NoSchedule".into() }],
                net_devices: Some("mlx5_0:1".into()),
                roce_subnets: None,
                fastest_set: None,
            }
        );
        assert_eq!(view(LeanNode::default()), NodeView::default());
    }

    #[tokio::test]
    async fn trouble_before_the_first_list_shows_and_later_trouble_does_not_take_us_out_of_service() {
        let readiness = Readiness::default();
        let (writer, mirror) = Mirror::new();
        let check = readiness.check("nodes");
        let before = stream::iter([Err(Error::NoResourceVersion), Ok(Event::Init)]);
        follow::<SharedNode>(before, writer, check.clone(), Need::Required, |_| {}).await;
        assert!(
            readiness.report().starts_with("[-] nodes: first list: no metadata.resourceVersion"),
            "{}",
            readiness.report()
        );
        assert!(mirror.snapshot().is_none());

        let (writer, mirror) = Mirror::new();
        let events = [
            Ok(Event::Init),
            Ok(Event::InitApply(Pool::default().share(view(node("a"))))),
            Ok(Event::InitDone),
            Err(Error::NoResourceVersion),
            Ok(Event::Init),
        ];
        follow(stream::iter(events), writer, check, Need::Required, |count| assert_eq!(count, 1)).await;
        assert!(readiness.is_ready());
        assert_eq!(mirror.snapshot().unwrap().all().len(), 1);
    }
}
