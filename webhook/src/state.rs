//! What a review is answered from.

use std::collections::BTreeMap;

use policies::{node_map::SharedNode, plan, profile::Profiles, select::NodeView};
use serde_json::Value;

use crate::{
    args::BindingEngine,
    bounds,
    engine::{self, Chosen},
    metrics::Metrics,
    mirror::Mirror,
    mutate::{self, Context, Malformed, Outcome},
    nodes::NamespaceView,
    profiles::InForce,
    workers::WorkerView,
};

/// Decides about a pod.
pub type Mutate = fn(&Value, &Context<'_>) -> Result<Outcome, Malformed>;
/// A node's late-bound variables.
pub type BindValues = fn(&Profiles, &NodeView) -> BTreeMap<String, String>;

/// What a review is answered from.
#[derive(Debug)]
pub struct State {
    /// The nodes.
    pub nodes: Mirror<SharedNode>,
    /// The namespaces.
    pub namespaces: Mirror<NamespaceView>,
    /// The workers that are there.
    pub workers: Mirror<WorkerView>,
    /// The quotas and limits of the namespaces.
    pub bounds: bounds::Mirrors,
    /// The profiles.
    pub profiles: InForce,
    /// Whether Bindings get values here.
    pub binding: Chosen,
    /// What is counted.
    pub metrics: Metrics,
    /// The decision about a pod, [`mutate::pod`]; a field so that tests can put trouble in its place.
    pub mutate: Mutate,
    /// A node's values, [`plan::bind_values`].
    pub bind_values: BindValues,
}

impl State {
    /// With the decisions of this version, and quotas and limits that are not known.
    pub fn new(
        nodes: Mirror<SharedNode>,
        namespaces: Mirror<NamespaceView>,
        workers: Mirror<WorkerView>,
        profiles: InForce,
        binding: BindingEngine,
        metrics: Metrics,
    ) -> Self {
        let (mutate, bind_values) = (mutate::pod as Mutate, plan::bind_values as BindValues);
        let binding = engine::fixed(binding);
        let (_, bounds) = bounds::Mirrors::new();
        Self { nodes, namespaces, workers, bounds, profiles, binding, metrics, mutate, bind_values }
    }
}
