//! What a namespace's ResourceQuotas and LimitRanges leave room for: more than that, and the API server would refuse a pod that it
//! would have admitted without us.
//!
//! A pod is charged for an extended resource under `requests.NAME`, and only where a quota lists it. Quotas apply by scope, as
//! `k8s.io/kubernetes/pkg/quota/v1/evaluator/core` decides it. Of LimitRanges only the maxima of a pod and a container matter:
//! what we add has requests equal to limits, and a minimum refuses a pod without the resource as well.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What the webhook keeps of a ResourceQuota.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct QuotaView {
    /// Namespace and name, with a slash in between.
    pub key: String,
    /// What a pod must be for the quota to count it; all must hold.
    pub scopes: Vec<Scope>,
    /// What is left of each extended resource that it lists. Without a count of what is used the API server lets nothing pass.
    pub left: BTreeMap<String, u64>,
}

/// One scope of a quota.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Scope {
    /// `Terminating`, `PriorityClass`…
    pub scope_name: String,
    /// `In`, `NotIn`, `Exists`, `DoesNotExist`.
    #[serde(default)]
    pub operator: String,
    /// Names of priority classes.
    #[serde(default)]
    pub values: Vec<String>,
}

/// What the webhook keeps of a LimitRange.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LimitView {
    /// Namespace and name, with a slash in between.
    pub key: String,
    /// The most of each extended resource that a pod may have.
    pub pod: BTreeMap<String, u64>,
    /// The most of each extended resource that a container may have.
    pub container: BTreeMap<String, u64>,
}

/// What quotas look at in a pod.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Charged {
    /// It has a deadline (`activeDeadlineSeconds`).
    pub terminating: bool,
    /// No container requests CPU or memory.
    pub best_effort: bool,
    /// Name of its priority class.
    pub priority_class: Option<String>,
    /// It wants to be near to, or far from, pods of other namespaces.
    pub crosses_namespaces: bool,
    /// Extended resources that it requests itself, all containers that run side by side together.
    pub requests: BTreeMap<String, u64>,
}

impl QuotaView {
    /// Whether the quota counts the pod. A scope that nobody knows matches none.
    pub fn counts(&self, pod: &Charged) -> bool {
        self.scopes.iter().all(|scope| match scope.scope_name.as_str() {
            "Terminating" => pod.terminating,
            "NotTerminating" => !pod.terminating,
            "BestEffort" => pod.best_effort,
            "NotBestEffort" => !pod.best_effort,
            "CrossNamespacePodAffinity" => pod.crosses_namespaces,
            "PriorityClass" => {
                let class = pod.priority_class.as_ref();
                match scope.operator.as_str() {
                    "In" => class.is_some_and(|class| scope.values.contains(class)),
                    "NotIn" => class.is_none_or(|class| !scope.values.contains(class)),
                    "DoesNotExist" => class.is_none(),
                    _ => class.is_some(),
                }
            }
            _ => false,
        })
    }
}

/// How much of each extended resource a pod can be given. Without a bound: as much as one likes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Room {
    pod: BTreeMap<String, Bound>,
    container: BTreeMap<String, Bound>,
}

/// A bound, and what sets it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Bound {
    most: u64,
    by: String,
}

impl Room {
    /// What these leave room for in this pod.
    pub fn new<'a>(
        quotas: impl IntoIterator<Item = &'a QuotaView>,
        limits: impl IntoIterator<Item = &'a LimitView>,
        pod: &Charged,
    ) -> Self {
        let mut room = Self::default();
        let own = |resource: &str| pod.requests.get(resource).copied().unwrap_or_default();
        for quota in quotas.into_iter().filter(|quota| quota.counts(pod)) {
            for (resource, left) in &quota.left {
                tighten(&mut room.pod, resource, left.saturating_sub(own(resource)), "ResourceQuota", &quota.key);
            }
        }
        for limit in limits {
            for (resource, most) in &limit.pod {
                tighten(&mut room.pod, resource, most.saturating_sub(own(resource)), "LimitRange", &limit.key);
            }
            for (resource, most) in &limit.container {
                tighten(&mut room.container, resource, *most, "LimitRange", &limit.key);
            }
        }
        room
    }

    /// Takes room for one container: as much as there is of what is wanted, and what sets the bound where that is less.
    pub fn take(&mut self, resource: &str, wanted: u64) -> (u64, Option<String>) {
        let bounds = [self.pod.get(resource), self.container.get(resource)];
        let bound = bounds.into_iter().flatten().min_by_key(|bound| bound.most).filter(|bound| bound.most < wanted);
        let (given, by) = bound.map_or((wanted, None), |bound| (bound.most, Some(bound.by.clone())));
        if let Some(pod) = self.pod.get_mut(resource) {
            pod.most -= given;
        }
        (given, by)
    }
}

fn tighten(bounds: &mut BTreeMap<String, Bound>, resource: &str, most: u64, kind: &str, key: &str) {
    if bounds.get(resource).is_none_or(|bound| most < bound.most) {
        let name = key.rsplit('/').next().unwrap_or(key);
        bounds.insert(resource.into(), Bound { most, by: format!("{kind} {name}") });
    }
}

#[cfg(test)]
mod tests {
    use super::{BTreeMap, Charged, LimitView, QuotaView, Room, Scope};

    const IB: &str = "rdma/ib";

    fn map(pairs: &[(&str, u64)]) -> BTreeMap<String, u64> {
        pairs.iter().map(|(key, value)| ((*key).into(), *value)).collect()
    }

    fn quota(name: &str, left: u64, scopes: &[(&str, &str, &[&str])]) -> QuotaView {
        let scopes = scopes.iter().map(|(name, operator, values)| Scope {
            scope_name: (*name).into(),
            operator: (*operator).into(),
            values: values.iter().map(|&value| value.into()).collect(),
        });
        QuotaView { key: format!("ns/{name}"), scopes: scopes.collect(), left: map(&[(IB, left)]) }
    }

    #[test]
    fn the_tightest_bound_counts_and_what_one_container_takes_the_next_cannot() {
        let quotas = [quota("wide", 9, &[]), quota("tight", 5, &[])];
        let limit = LimitView { key: "ns/each".into(), container: map(&[(IB, 3)]), ..LimitView::default() };
        let mut room = Room::new(&quotas, [&limit], &Charged::default());
        assert_eq!(room.take(IB, 8), (3, Some("LimitRange each".into())));
        assert_eq!(room.take(IB, 1), (1, None));
        assert_eq!(room.take(IB, 8), (1, Some("ResourceQuota tight".into())));
        assert_eq!(room.take(IB, 8), (0, Some("ResourceQuota tight".into())));
        assert_eq!(room.take("rdma/other", 8), (8, None), "what no quota lists is not bounded");
        assert_eq!(Room::default().take(IB, 8), (8, None));
    }

    #[test]
    fn what_the_pod_requests_itself_is_charged_first() {
        let pod = Charged { requests: map(&[(IB, 2)]), ..Charged::default() };
        assert_eq!(Room::new(&[quota("q", 3, &[])], [], &pod).take(IB, 8).0, 1);
        assert_eq!(Room::new(&[quota("q", 1, &[])], [], &pod).take(IB, 8).0, 0);
        let limit = LimitView { key: "ns/pod".into(), pod: map(&[(IB, 4)]), ..LimitView::default() };
        assert_eq!(Room::new([], [&limit], &pod).take(IB, 8), (2, Some("LimitRange pod".into())));
    }

    #[test]
    fn scopes() {
        let high = || Some("high".to_owned());
        let none = Charged::default();
        let full = Charged {
            terminating: true,
            best_effort: true,
            priority_class: high(),
            crosses_namespaces: true,
            ..Charged::default()
        };
        for (scope, counts_none, counts_full) in [
            (("Terminating", "Exists", &[][..]), false, true),
            (("NotTerminating", "Exists", &[]), true, false),
            (("BestEffort", "", &[]), false, true),
            (("NotBestEffort", "", &[]), true, false),
            (("CrossNamespacePodAffinity", "Exists", &[]), false, true),
            (("PriorityClass", "In", &["low", "high"]), false, true),
            (("PriorityClass", "In", &["low"]), false, false),
            (("PriorityClass", "NotIn", &["high"]), true, false),
            (("PriorityClass", "Exists", &[]), false, true),
            (("PriorityClass", "DoesNotExist", &[]), true, false),
            (("SomethingNew", "Exists", &[]), false, false),
        ] {
            let quota = quota("q", 0, &[scope]);
            assert_eq!((quota.counts(&none), quota.counts(&full)), (counts_none, counts_full), "{scope:?}");
        }
        let both = quota("q", 0, &[("Terminating", "", &[]), ("PriorityClass", "In", &["low"])]);
        assert!(!both.counts(&full), "all scopes must hold");
        assert_eq!(Room::new(&[both], [], &full).take(IB, 4), (4, None));
    }
}
