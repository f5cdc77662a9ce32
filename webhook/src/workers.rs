//! The workers that are there, kept up to date by a watch: what the others of a deployment ask of their nodes, and what the
//! auditor looks through.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use daemon::Check;
use futures::{StreamExt as _, TryStreamExt as _, future::ready};
use kube::{
    Api, Client,
    runtime::watcher::{Event, watcher},
};
use policies::{
    intent::PodIntent,
    kinds::Kinds,
    names::annotation,
    node_map::NodeMap,
    profile::Profiles,
    workers::{self, Group},
};
use serde_json::{Value, json};

use crate::{
    lean::LeanPod,
    metrics::Metrics,
    mirror::{Named, Snapshot, Writer},
    mutate::{self, Context},
    nodes::{self, Need},
};

/// All workers at one moment.
pub type Workers = Snapshot<WorkerView>;

/// More kinds of worker than this no deployment has.
const MAX_KINDS: usize = 16;
/// Reasons kept of a decision, and characters of each: a pod's owner could write a book into the annotation.
const MAX_REASONS: usize = 16;
const MAX_REASON: usize = 300;

/// What the webhook keeps of a worker.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct WorkerView {
    /// Namespace, deployment and name, so that a deployment's workers are next to each other.
    pub(crate) key: String,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub pod: String,
    /// Identity.
    pub uid: String,
    /// Node, once it is bound.
    pub node: Option<String>,
    /// Whether this webhook decided about it when it was created.
    pub decided: bool,
    /// What that decision is called.
    pub decision: Option<String>,
    /// Profile that it got.
    pub profile: Option<String>,
    /// Its late-bound values, by variable.
    pub values: BTreeMap<String, String>,
    /// Reasons of the decision, for people.
    pub reasons: Vec<String>,
    /// What it asks of its node: held once for all that ask the same, and compared by where it is.
    pub(crate) constraints: Arc<PodIntent>,
}

impl WorkerView {
    /// The same, with what it asks held once: thousands of workers of a deployment ask the same.
    fn sharing(mut self, kinds: &mut Kinds<PodIntent>) -> Self {
        self.constraints = kinds.share(self.constraints);
        self
    }
}

impl Named for WorkerView {
    type Index = ();

    fn index(_: &mut Vec<Arc<Self>>) {}

    fn name(&self) -> &str {
        &self.key
    }
}

/// Follows the pods for ever; only workers are kept, and only while they live.
pub async fn follow_workers(client: Client, writer: Writer<WorkerView>, check: Check, metrics: Metrics) {
    let events = watcher(Api::<LeanPod>::all(client), nodes::pages());
    let workers = events.filter_map(|event| ready(event.map(keep).transpose()));
    // With ten thousand workers the first list takes a while, and a new replica must not wait for it while the old ones leave.
    check.ready_but("the workers are being listed; until then a deployment agrees by its own nodes");
    let kinds = Mutex::new(Kinds::default());
    let kinds = || kinds.lock().unwrap_or_else(PoisonError::into_inner);
    let heard = |count| {
        kinds().sweep();
        metrics.workers(count);
    };
    let shared = workers.map_ok(|event| nodes::trimmed(event, |worker: WorkerView| worker.sharing(&mut kinds())));
    nodes::follow(shared, writer, check, Need::Helpful, heard).await;
}

pub(crate) fn keep(event: Event<LeanPod>) -> Option<Event<WorkerView>> {
    nodes::keep(event, view, identity)
}

fn identity(pod: &LeanPod) -> WorkerView {
    let metadata = &pod.metadata;
    let none = BTreeMap::new();
    let group = workers::group(metadata.labels.as_ref().unwrap_or(&none));
    let namespace = metadata.namespace.clone().unwrap_or_default();
    let pod = metadata.name.clone().unwrap_or_default();
    let key = prefix(&namespace, group.as_ref()) + &pod;
    WorkerView { key, namespace, pod, uid: metadata.uid.clone().unwrap_or_default(), ..WorkerView::default() }
}

/// No label value has a slash, and no namespace.
fn prefix(namespace: &str, group: Option<&Group>) -> String {
    match group {
        Some(group) => format!("{namespace}/{}={}/", group.key, group.value),
        None => format!("{namespace}//"),
    }
}

/// The pod as a worker; `None` for other pods, and for those that have ended or are about to.
fn view(pod: &LeanPod) -> Option<WorkerView> {
    let phase = pod.status.phase.as_str();
    if pod.metadata.deletion_timestamp.is_some() || matches!(phase, "Succeeded" | "Failed") {
        return None;
    }
    let object = json!({
        "metadata": { "labels": pod.metadata.labels, "annotations": pod.metadata.annotations },
        "spec": pod.spec,
    });
    let intent = intent(&object)?;
    let none = BTreeMap::new();
    let annotations = pod.metadata.annotations.as_ref().unwrap_or(&none);
    let values = annotations
        .iter()
        .filter_map(|(key, value)| Some((key.strip_prefix(annotation::ENV_PREFIX)?.to_owned(), value.clone())));
    let constraints = if intent.group.is_some() { intent.constraints() } else { PodIntent::default() };
    Some(WorkerView {
        node: intent.node_name,
        decided: annotations.contains_key(annotation::DECISION),
        decision: annotations.get(annotation::DECISION).and_then(|decision| mutate::id_in(decision)),
        profile: intent.decided,
        values: values.collect(),
        reasons: annotations.get(annotation::DECISION).map(|decision| reasons(decision)).unwrap_or_default(),
        constraints: Arc::new(constraints),
        ..identity(pod)
    })
}

/// The reasons in a decision's annotation; none where it is not one of ours.
fn reasons(decision: &str) -> Vec<String> {
    let decision: Value = serde_json::from_str(decision).unwrap_or_default();
    let texts = decision["reasons"].as_array().into_iter().flatten().filter_map(Value::as_str);
    texts.take(MAX_REASONS).map(|text| text.chars().take(MAX_REASON).collect()).collect()
}

fn intent(object: &Value) -> Option<PodIntent> {
    let none = BTreeMap::new();
    let profiles = Profiles::new(Vec::new()).ok()?;
    let nodes = NodeMap::default();
    let context = Context {
        namespace_labels: &none,
        namespace_annotations: &none,
        nodes: &nodes,
        profiles: &profiles,
        namespace: "",
        workers: None,
        bounds: None,
        decision: None,
    };
    Some(mutate::read(object, &context).ok()?.ok()?.intent)
}

/// What other kinds of worker of a deployment ask of their nodes, each kind once.
pub fn siblings(workers: &Workers, namespace: &str, group: &Group, own: &PodIntent) -> Vec<PodIntent> {
    let own = own.constraints();
    let mut kinds: Vec<&Arc<PodIntent>> = Vec::new();
    let prefix = prefix(namespace, Some(group));
    for worker in workers.starting_with(&prefix) {
        let seen = kinds.iter().any(|kind| Arc::ptr_eq(kind, &worker.constraints));
        // One more than is told: the pod's own kind may be among them.
        if !seen && kinds.len() <= MAX_KINDS {
            kinds.push(&worker.constraints);
        }
    }
    kinds.into_iter().filter(|kind| ***kind != own).take(MAX_KINDS).map(|kind| PodIntent::clone(kind)).collect()
}

/// The one of this name, whatever its deployment: all of the namespace are looked through.
pub fn find(workers: &Workers, namespace: &str, pod: &str) -> Option<Arc<WorkerView>> {
    workers.starting_with(&format!("{namespace}/")).find(|worker| worker.pod == pod).cloned()
}

/// All of them, for tests and the auditor.
pub fn all(workers: &Workers) -> &[Arc<WorkerView>] {
    workers.all()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{Arc, Event, Kinds, LeanPod, WorkerView, find, keep, siblings, view};
    use crate::{mirror::Mirror, nodes};

    fn pod(name: &str, role: &str, spec: &Value) -> LeanPod {
        let mut pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": "ns", "uid": name,
                "labels": {"llm-d.ai/role": role, "llm-d.ai/model": "m"},
                "annotations": {"railbind.dev/decision": r#"{"id":"1b4e28ba-2fa1","profile":"tcp"}"#, "env.railbind.dev/X": "1"}},
            "spec": {"containers": [{"name": "c", "resources": {"limits": {"nvidia.com/gpu": "1"}}}]},
            "status": {"phase": "Running"},
        });
        for (key, value) in spec.as_object().unwrap() {
            pod["spec"][key] = value.clone();
        }
        serde_json::from_value(pod).unwrap()
    }

    #[test]
    fn only_living_workers_are_kept() {
        let worker = pod("a", "decode", &json!({"nodeName": "n"}));
        let seen = view(&worker).unwrap();
        assert_eq!((seen.node.as_deref(), seen.decided, seen.profile.as_deref()), (Some("n"), true, Some("tcp")));
        assert_eq!((seen.values["X"].as_str(), seen.decision.as_deref()), ("1", Some("1b4e28ba-2fa1")));
        assert!(view(&pod("b", "frontend", &json!({}))).is_none());
        let mut done = worker;
        done.status.phase = "Succeeded".into();
        assert!(view(&done).is_none());
        assert!(matches!(keep(Event::Apply(done)), Some(Event::Delete(WorkerView { key, .. })) if key == seen.key));
    }

    #[test]
    fn siblings_are_other_kinds_of_the_same_deployment_without_what_we_added() {
        let (mut writer, mirror) = Mirror::new();
        let ours = json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{"matchExpressions": [
                {"key": "railbind.dev/profile", "operator": "In", "values": ["tcp"]}]}]}}}});
        let picky = json!({"nodeSelector": {"pool": "b"}});
        let pool = std::cell::RefCell::new(Kinds::default());
        for event in [
            Event::Init,
            Event::InitApply(pod("a", "prefill", &ours)),
            Event::InitApply(pod("b", "decode", &picky)),
            Event::InitApply(pod("c", "decode", &picky)),
            Event::InitDone,
        ] {
            if let Some(event) = keep(event) {
                writer.apply([nodes::trimmed(event, |worker: WorkerView| worker.sharing(&mut pool.borrow_mut()))]);
            }
        }
        let workers = mirror.snapshot().unwrap();
        let [a, b, c] = workers.all() else { panic!("{workers:?}") };
        assert!(Arc::ptr_eq(&b.constraints, &c.constraints) && !Arc::ptr_eq(&a.constraints, &b.constraints));
        let own = view(&pod("d", "prefill", &json!({}))).unwrap().constraints;
        let group = policies::workers::group(&[("llm-d.ai/model".to_owned(), "m".to_owned())].into()).unwrap();
        let kinds = siblings(&workers, "ns", &group, &own);
        assert_eq!(kinds.len(), 1, "{kinds:?}");
        assert_eq!(kinds[0].node_selector["pool"], "b");
        assert_eq!(siblings(&workers, "elsewhere", &group, &own), []);
        assert_eq!(find(&workers, "ns", "c").map(|worker| worker.uid.clone()).as_deref(), Some("c"));
        assert!(find(&workers, "ns", "d").is_none() && find(&workers, "n", "c").is_none());

        pool.borrow_mut().sweep();
        assert_eq!(pool.borrow().len(), 2);
        drop(workers);
        writer.apply([Event::Init, Event::InitDone]);
        pool.borrow_mut().sweep();
        assert!(pool.borrow().is_empty());
    }
}
