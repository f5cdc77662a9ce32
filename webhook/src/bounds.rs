//! What namespaces allow their pods, kept up to date by watches: of ResourceQuotas and LimitRanges only those that bound a resource
//! which we might add, and of those only that. Most clusters have none.

use std::{collections::BTreeMap, sync::Arc};

use daemon::Check;
use futures::{StreamExt as _, future::ready};
use k8s_openapi::{
    api::core::v1::{LimitRange, ResourceQuota},
    apimachinery::pkg::api::resource::Quantity,
};
use kube::{Api, Client, core::ObjectMeta, runtime::watcher::watcher};
use policies::{
    names::k8s,
    profile::ResourceFamily,
    quantity,
    room::{Charged, LimitView, QuotaView, Room, Scope},
};

use crate::{
    mirror::{Mirror, Named, Writer},
    nodes::{self, Need, keep},
};

impl Named for QuotaView {
    type Index = ();

    fn index(_: &mut Vec<Arc<Self>>) {}

    fn name(&self) -> &str {
        &self.key
    }
}

impl Named for LimitView {
    type Index = ();

    fn index(_: &mut Vec<Arc<Self>>) {}

    fn name(&self) -> &str {
        &self.key
    }
}

/// The quotas and limits of all namespaces. What is not known yet bounds nothing: a pod that is refused is created anew by its
/// controller, one that was given nothing runs on without.
#[derive(Debug, Clone)]
pub struct Mirrors {
    quotas: Mirror<QuotaView>,
    limits: Mirror<LimitView>,
}

/// The writers' side.
#[derive(Debug)]
pub struct Writers {
    quotas: Writer<QuotaView>,
    limits: Writer<LimitView>,
}

/// Those of one namespace.
#[derive(Debug, Clone, Default)]
pub struct Bounds {
    /// Its quotas.
    pub quotas: Vec<Arc<QuotaView>>,
    /// Its limits.
    pub limits: Vec<Arc<LimitView>>,
}

impl Bounds {
    /// Whether there are none, as in most clusters.
    pub fn is_empty(&self) -> bool {
        self.quotas.is_empty() && self.limits.is_empty()
    }

    /// What they leave room for in this pod.
    pub fn room(&self, pod: &Charged) -> Room {
        Room::new(self.quotas.iter().map(Arc::as_ref), self.limits.iter().map(Arc::as_ref), pod)
    }
}

impl Mirrors {
    /// Mirrors of nothing yet, and their writers.
    pub fn new() -> (Writers, Self) {
        let ((quota_writer, quotas), (limit_writer, limits)) = (Mirror::new(), Mirror::new());
        (Writers { quotas: quota_writer, limits: limit_writer }, Self { quotas, limits })
    }

    /// Mirrors of these for ever, for tests.
    #[cfg(test)]
    pub(crate) fn of_quotas(quotas: impl IntoIterator<Item = QuotaView>) -> Self {
        use kube::runtime::watcher::Event;

        let (mut writers, mirrors) = Self::new();
        let listed = quotas.into_iter().map(Event::InitApply);
        writers.quotas.apply([Event::Init].into_iter().chain(listed).chain([Event::InitDone]));
        mirrors
    }

    /// Those of a namespace.
    pub fn of(&self, namespace: &str) -> Bounds {
        let prefix = format!("{namespace}/");
        let quotas = self.quotas.snapshot().map(|all| all.starting_with(&prefix).cloned().collect());
        let limits = self.limits.snapshot().map(|all| all.starting_with(&prefix).cloned().collect());
        Bounds { quotas: quotas.unwrap_or_default(), limits: limits.unwrap_or_default() }
    }
}

/// Follows them for ever.
pub async fn follow(client: Client, writers: Writers, quota_check: Check, limit_check: Check) {
    let quotas = watcher(Api::<ResourceQuota>::all(client.clone()), nodes::cached());
    let quotas = quotas.filter_map(|event| ready(event.map(|event| keep(event, quota, quota_identity)).transpose()));
    let limits = watcher(Api::<LimitRange>::all(client), nodes::cached());
    let limits = limits.filter_map(|event| ready(event.map(|event| keep(event, limit, limit_identity)).transpose()));
    quota_check.ready_but("the ResourceQuotas are being listed; until then they bound nothing");
    limit_check.ready_but("the LimitRanges are being listed; until then they bound nothing");
    tokio::join!(
        nodes::follow(quotas, writers.quotas, quota_check, Need::Helpful, |_| {}),
        nodes::follow(limits, writers.limits, limit_check, Need::Helpful, |_| {}),
    );
}

fn key(metadata: &ObjectMeta) -> String {
    let text = |part: &Option<String>| part.clone().unwrap_or_default();
    format!("{}/{}", text(&metadata.namespace), text(&metadata.name))
}

fn quota_identity(quota: &ResourceQuota) -> QuotaView {
    QuotaView { key: key(&quota.metadata), ..QuotaView::default() }
}

fn limit_identity(limit: &LimitRange) -> LimitView {
    LimitView { key: key(&limit.metadata), ..LimitView::default() }
}

/// Whether we might add the resource.
fn is_ours(resource: &str) -> bool {
    ResourceFamily::Rdma.has(resource) || ResourceFamily::Efa.has(resource)
}

/// The API server goes by the status: a quota that its controller has not looked at yet bounds nothing.
fn quota(quota: &ResourceQuota) -> Option<QuotaView> {
    let status = quota.status.as_ref()?;
    let number = |quantity: &Quantity| quantity::floor(&quantity.0).unwrap_or_default();
    let used = |name: &str| status.used.as_ref().and_then(|used| used.get(name)).map(number);
    let left: BTreeMap<String, u64> = status
        .hard
        .iter()
        .flatten()
        .filter_map(|(name, hard)| {
            let resource = name.strip_prefix(k8s::QUOTA_REQUESTS).filter(|resource| is_ours(resource))?;
            Some((resource.to_owned(), used(name).map_or(0, |used| number(hard).saturating_sub(used))))
        })
        .collect();
    if left.is_empty() {
        return None;
    }
    let spec = quota.spec.clone().unwrap_or_default();
    let named = spec.scopes.unwrap_or_default().into_iter();
    let named = named.map(|scope_name| Scope { scope_name, ..Scope::default() });
    let selected = spec.scope_selector.and_then(|selector| selector.match_expressions).unwrap_or_default().into_iter();
    let selected = selected.map(|scope| Scope {
        scope_name: scope.scope_name,
        operator: scope.operator,
        values: scope.values.unwrap_or_default(),
    });
    Some(QuotaView { left, scopes: named.chain(selected).collect(), ..quota_identity(quota) })
}

fn limit(limit: &LimitRange) -> Option<LimitView> {
    let mut view = limit_identity(limit);
    for item in limit.spec.iter().flat_map(|spec| &spec.limits) {
        let most = match item.type_.as_str() {
            "Pod" => &mut view.pod,
            "Container" => &mut view.container,
            _ => continue,
        };
        for (resource, quantity) in item.max.iter().flatten().filter(|(resource, _)| is_ours(resource)) {
            let number = quantity::floor(&quantity.0).unwrap_or_default();
            let bound = most.entry(resource.clone()).or_insert(number);
            *bound = number.min(*bound);
        }
    }
    (!view.pod.is_empty() || !view.container.is_empty()).then_some(view)
}

#[cfg(test)]
mod tests {
    use kube::runtime::watcher::Event;
    use serde_json::{Value, json};

    use super::{Charged, Mirrors, keep, limit, limit_identity, quota, quota_identity};

    fn a_quota(name: &str, hard: &Value, used: &Value, spec: &Value) -> k8s_openapi::api::core::v1::ResourceQuota {
        serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "ns"}, "spec": spec, "status": {"hard": hard, "used": used},
        }))
        .unwrap()
    }

    #[test]
    fn only_what_bounds_our_resources_is_kept() {
        let hard = json!({"requests.rdma/ib": "8", "requests.vpc.amazonaws.com/efa": "1k", "requests.nvidia.com/gpu": "8", "pods": "5", "rdma/ib": "1", "requests.memory": "1Gi"});
        let spec = json!({"scopes": ["NotTerminating"], "scopeSelector": {"matchExpressions": [{"scopeName": "PriorityClass", "operator": "In", "values": ["high"]}]}});
        let view = quota(&a_quota(
            "q",
            &hard,
            &json!({"requests.rdma/ib": "3", "requests.vpc.amazonaws.com/efa": "2000"}),
            &spec,
        ))
        .unwrap();
        assert_eq!(
            (view.key.as_str(), view.left.len(), view.left["rdma/ib"], view.left["vpc.amazonaws.com/efa"]),
            ("ns/q", 2, 5, 0)
        );
        assert_eq!(view.scopes.len(), 2);
        assert_eq!(view.scopes[1].values, ["high"]);
        let uncounted = quota(&a_quota("q", &json!({"requests.rdma/ib": "8"}), &json!({}), &json!({}))).unwrap();
        assert_eq!(uncounted.left["rdma/ib"], 0, "the API server lets nothing pass before it is counted");
        assert!(quota(&a_quota("q", &json!({"pods": "5"}), &json!({}), &json!({}))).is_none());
        let mut new = a_quota("q", &hard, &json!({}), &json!({"hard": {"requests.rdma/ib": "8"}}));
        new.status = None;
        assert!(quota(&new).is_none());

        let range = |limits: Value| {
            limit(
                &serde_json::from_value(
                    json!({"metadata": {"name": "l", "namespace": "ns"}, "spec": {"limits": limits}}),
                )
                .unwrap(),
            )
        };
        let view = range(json!([
            {"type": "Container", "max": {"rdma/ib": "4", "memory": "1Gi"}},
            {"type": "Container", "max": {"rdma/ib": "2"}},
            {"type": "Pod", "max": {"rdma/ib": "6"}},
            {"type": "PersistentVolumeClaim", "max": {"rdma/ib": "1"}},
        ]))
        .unwrap();
        assert_eq!((view.container["rdma/ib"], view.pod["rdma/ib"]), (2, 6));
        assert!(range(json!([{"type": "Container", "max": {"memory": "1Gi"}, "default": {"rdma/ib": "1"}}])).is_none());
    }

    #[test]
    fn each_namespace_has_its_own_and_what_is_not_known_bounds_nothing() {
        let (mut writers, mirrors) = Mirrors::new();
        let take =
            |mirrors: &Mirrors, namespace: &str| mirrors.of(namespace).room(&Charged::default()).take("rdma/ib", 8).0;
        assert_eq!(take(&mirrors, "ns"), 8, "not listed yet");
        let exhausted = a_quota("q", &json!({"requests.rdma/ib": "8"}), &json!({"requests.rdma/ib": "8"}), &json!({}));
        for event in [Event::Init, Event::InitApply(exhausted.clone()), Event::InitDone] {
            writers.quotas.apply(keep(event, quota, quota_identity));
        }
        assert_eq!((take(&mirrors, "ns"), take(&mirrors, "n"), take(&mirrors, "ns2")), (0, 8, 8));
        let range = json!({"metadata": {"name": "l", "namespace": "n"}, "spec": {"limits": [{"type": "Pod", "max": {"rdma/ib": "1"}}]}});
        for event in [Event::Init, Event::InitApply(serde_json::from_value(range).unwrap()), Event::InitDone] {
            writers.limits.apply(keep(event, limit, limit_identity));
        }
        assert_eq!(take(&mirrors, "n"), 1);
        // It does not bound our resource any more: it is gone.
        let other = a_quota("q", &json!({"pods": "1"}), &json!({}), &json!({}));
        writers.quotas.apply(keep(Event::Apply(other), quota, quota_identity));
        assert!(writers.quotas.is_empty());
        assert_eq!(take(&mirrors, "ns"), 8);
    }
}
