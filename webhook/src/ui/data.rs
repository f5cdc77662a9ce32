//! What the page shows without asking the API server: nodes and workers as the webhook has them in memory.

use std::{cmp::Reverse, collections::BTreeMap};

use policies::{
    names::{DOMAIN, label},
    node_map::SharedNode,
    plan::bind_values,
    profile::{Profiles, ResourceFamily},
};
use serde::Serialize;

use crate::{
    auditor::{self, Finding},
    mirror::Snapshot,
    state::State,
    workers::WorkerView,
};

/// Nodes shown; those that somebody should look at come first.
pub const MAX_NODES: usize = 5000;
/// Workers shown; likewise.
pub const MAX_WORKERS: usize = 2000;

/// `data.json`.
#[derive(Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Data {
    /// Version of this webhook.
    pub version: &'static str,
    /// The nodes; `None` until they have been listed.
    pub nodes: Option<Vec<NodeRow>>,
    /// Nodes beyond [`MAX_NODES`].
    pub nodes_left_off: usize,
    /// The living workers of namespaces in scope; `None` until they have been listed.
    pub workers: Option<Vec<WorkerRow>>,
    /// Workers beyond [`MAX_WORKERS`].
    pub workers_left_off: usize,
}

/// A node.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeRow {
    /// Name.
    pub name: String,
    /// Our labels, without our prefix.
    pub labels: BTreeMap<String, String>,
    /// GPUs that it offers.
    pub gpus: u64,
    /// RDMA resources that it offers.
    pub nics: BTreeMap<String, u64>,
    /// Cordoned.
    pub unschedulable: bool,
    /// Values that a pod bound to it gets.
    pub values: BTreeMap<String, String>,
}

/// A worker.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkerRow {
    /// Namespace.
    pub namespace: String,
    /// Pod.
    pub pod: String,
    /// Node, once it is bound.
    pub node: Option<String>,
    /// Profile.
    pub profile: Option<String>,
    /// Its late-bound values.
    pub values: BTreeMap<String, String>,
    /// `unpatched`, `without-values`, `bound` or `waiting`.
    pub state: &'static str,
    /// The state in a sentence.
    pub says: String,
    /// Reasons of its decision.
    pub reasons: Vec<String>,
}

/// Everything there is now.
pub fn collect(state: &State) -> Data {
    let profiles = state.profiles.current();
    let nodes = state.nodes.snapshot();
    let mut data = Data { version: env!("CARGO_PKG_VERSION"), ..Data::default() };
    let Some(nodes) = nodes else { return data };
    let mut rows: Vec<NodeRow> = nodes.all().iter().map(|node| node_row(node, &profiles)).collect();
    // A cluster's other nodes are of no interest here before those with a fabric.
    rows.sort_by_key(|row| !row.labels.contains_key("fabric"));
    let (left_off, rows) = cut(rows, MAX_NODES);
    (data.nodes_left_off, data.nodes) = (left_off, Some(rows));
    if let (Some(workers), Some(namespaces)) = (state.workers.snapshot(), state.namespaces.snapshot()) {
        let in_scope = |worker: &WorkerView| {
            let namespace = namespaces.get(&worker.namespace);
            namespace
                .is_some_and(|namespace| namespace.labels.get(label::INJECT).is_some_and(|value| value == "enabled"))
        };
        let mut rows: Vec<(Option<Finding>, WorkerRow)> = workers
            .all()
            .iter()
            .filter(|worker| in_scope(worker))
            .map(|worker| worker_row(worker, &nodes, &profiles))
            .collect();
        // Unpatched before without values before the others.
        rows.sort_by_key(|(finding, _)| {
            Reverse(match finding {
                Some(Finding::Unpatched) => 2,
                Some(Finding::WithoutValues) => 1,
                Some(Finding::Bound) | None => 0,
            })
        });
        let (left_off, rows) = cut(rows.into_iter().map(|(_, row)| row).collect(), MAX_WORKERS);
        (data.workers_left_off, data.workers) = (left_off, Some(rows));
    }
    data
}

/// The first so many, and how many are left off.
fn cut<T>(mut rows: Vec<T>, most: usize) -> (usize, Vec<T>) {
    let left_off = rows.len().saturating_sub(most);
    rows.truncate(most);
    (left_off, rows)
}

fn node_row(node: &SharedNode, profiles: &Profiles) -> NodeRow {
    // Our own labels are all of the kind's: they are what makes a kind.
    let (name, node) = (&node.name, &*node.kind);
    let ours =
        node.labels.iter().filter_map(|(key, value)| Some((key.strip_prefix(DOMAIN)?.strip_prefix('/')?, value)));
    let nics = node.allocatable.keys().filter(|name| ResourceFamily::Rdma.has(name) || ResourceFamily::Efa.has(name));
    NodeRow {
        name: name.clone(),
        labels: ours.map(|(key, value)| (key.to_owned(), value.clone())).collect(),
        gpus: node.gpus(),
        nics: nics.map(|name| (name.clone(), node.count(name))).collect(),
        unschedulable: node.unschedulable,
        values: bind_values(profiles, node),
    }
}

fn worker_row(worker: &WorkerView, nodes: &Snapshot<SharedNode>, profiles: &Profiles) -> (Option<Finding>, WorkerRow) {
    let found = auditor::look(worker, nodes, profiles);
    let finding = found.as_ref().map(|(finding, _)| *finding);
    let row = WorkerRow {
        namespace: worker.namespace.clone(),
        pod: worker.pod.clone(),
        node: worker.node.clone(),
        profile: worker.profile.clone(),
        values: worker.values.clone(),
        state: match finding {
            Some(Finding::Unpatched) => "unpatched",
            Some(Finding::WithoutValues) => "without-values",
            Some(Finding::Bound) => "bound",
            None => "waiting",
        },
        says: found.map_or_else(
            || "nothing to say yet: it is not bound, or its node or profile is not known".into(),
            |(_, says)| says,
        ),
        reasons: worker.reasons.clone(),
    };
    (finding, row)
}
