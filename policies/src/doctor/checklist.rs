//! The guide's diagnostic checklist, each line yes, no or not known.

use serde::Serialize;

use super::scene::{NodeScene, Scene};
use crate::{matrix::RED_FLAG, names::label, profile::ResourceFamily};

/// Whether a line of the checklist holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It holds everywhere that was looked at.
    Yes,
    /// It does not hold somewhere.
    No,
    /// Nothing says.
    Unknown,
}

/// A line of the checklist.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// As the guide words it, shortened.
    pub item: &'static str,
    /// Whether it holds.
    pub state: State,
    /// Of what.
    pub detail: String,
}

/// The guide's Diagnostic Checklist on the nodes that matter: those asked for, or with workers, or with RDMA and GPUs.
pub fn checklist(scene: &Scene) -> Vec<Check> {
    let nodes: Vec<&NodeScene> =
        scene.nodes.iter().filter(|node| scene.matters(node) || (node.has_rdma() && node.has_gpus())).collect();
    let rdma = |node: &NodeScene| {
        node.view
            .allocatable
            .keys()
            .any(|name| (ResourceFamily::Rdma.has(name) || ResourceFamily::Efa.has(name)) && node.view.count(name) > 0)
    };
    let ports = |node: &NodeScene| node.label(label::FABRIC).map(|fabric| fabric != "tcp");
    let direct = |node: &NodeScene| node.label(label::GPUDIRECT).map(|way| way != "none");
    let logs: Vec<Option<bool>> = scene
        .pods
        .iter()
        .filter(|pod| pod.worker.is_some())
        .flat_map(|pod| &pod.containers)
        .map(|container| container.logs.known().and_then(|logs| (!logs.backends.is_empty()).then_some(true)))
        .collect();
    let speed = |node: &NodeScene| {
        let test = node.selftest.as_ref()?;
        let mut measured = test
            .partners
            .iter()
            .filter(|partner| partner.name != node.view.name)
            .filter_map(|partner| partner.gbytes_per_s)
            .peekable();
        measured.peek()?;
        Some(measured.all(|gbytes| gbytes > RED_FLAG))
    };
    vec![
        check(
            "RDMA resources are allocatable",
            "nodes",
            &nodes.iter().map(|node| Some(rdma(node))).collect::<Vec<_>>(),
        ),
        check("RDMA ports are ACTIVE", "nodes", &nodes.iter().map(|node| ports(node)).collect::<Vec<_>>()),
        check(
            "GPU memory reaches the NIC (GPUDirect)",
            "nodes",
            &nodes.iter().map(|node| direct(node)).collect::<Vec<_>>(),
        ),
        check("NIXL made a backend, by its log", "containers", &logs),
        check(
            "transfer bandwidth > 1 GB/s, by the self-test",
            "nodes",
            &nodes.iter().map(|node| speed(node)).collect::<Vec<_>>(),
        ),
    ]
}

fn check(item: &'static str, of: &str, seen: &[Option<bool>]) -> Check {
    let count = |wanted: Option<bool>| seen.iter().filter(|state| **state == wanted).count();
    let (yes, no, unknown) = (count(Some(true)), count(Some(false)), count(None));
    let state = match (yes, no) {
        (_, 1..) => State::No,
        (1.., 0) => State::Yes,
        (0, 0) => State::Unknown,
    };
    let rest = if unknown > 0 { format!(", {unknown} not known") } else { String::new() };
    let detail = format!("{yes} of {} {of}{rest}", seen.len());
    Check { item, state, detail }
}
