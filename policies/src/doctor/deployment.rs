//! What is wrong between the workers of one deployment.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Cause, Diagnosis, Severity, node,
    scene::{NodeScene, PodScene, Scene},
};
use crate::{
    matrix::{Matrix, RED_FLAG},
    names::label,
    roles::Fabric,
    workers::Role,
};

/// Label of NVIDIA's GPU feature discovery: NVLink domain and clique.
const CLIQUE: &str = "nvidia.com/gpu.clique";

pub(super) fn look(scene: &Scene, found: &mut Vec<Diagnosis>) {
    let mut groups: BTreeMap<(String, String), Vec<(&PodScene, &NodeScene)>> = BTreeMap::new();
    for pod in scene.pods.iter().filter(|pod| pod.worker.is_some()) {
        if let (Some(group), Some(node)) = (pod.group(), scene.node_of(pod)) {
            groups.entry(group).or_default().push((pod, node));
        }
    }
    for ((namespace, name), pods) in groups.iter().filter(|(_, pods)| pods.len() > 1) {
        let title = format!("deployment {namespace}/{name}");
        domains(&title, pods, found);
        efa(&title, pods, found);
        mtu(&title, pods, found);
        measured(scene, &title, pods, found);
        versions(&title, pods, found);
        nvlink(&title, pods, found);
    }
}

/// Prefill and decode that cannot reach each other.
fn domains(title: &str, pods: &[(&PodScene, &NodeScene)], found: &mut Vec<Diagnosis>) {
    let place = |node: &NodeScene| {
        let fabric = node.label(label::FABRIC)?.to_owned();
        Some((fabric, node.label(label::FABRIC_DOMAIN).map(str::to_owned)))
    };
    let places: BTreeSet<_> = pods.iter().filter_map(|(_, node)| place(node)).collect();
    let fabrics: BTreeSet<&String> = places.iter().map(|(fabric, _)| fabric).collect();
    // A domain that is not known on one of them says nothing.
    let known: BTreeSet<&String> = places.iter().filter_map(|(_, domain)| domain.as_ref()).collect();
    if fabrics.len() < 2 && known.len() < 2 {
        return;
    }
    let cause =
        "its workers are on fabrics that do not reach each other: KV cache between them goes over TCP, or not at all";
    let mut diagnosis = Diagnosis::new(Cause::DomainsDiffer, Severity::Fault, title, cause)
        .remedy("put prefill and decode into one fabric domain: Railbind does (pod affinity over railbind.dev/fabric-domain) where it may place them, see railbind.dev/placement");
    for (pod, node) in pods {
        let (fabric, domain) = place(node).unwrap_or_default();
        diagnosis = diagnosis.seen(format!(
            "{}{} on {}: {fabric}, domain {}",
            pod.title(),
            role(pod),
            node.view.name,
            domain.as_deref().unwrap_or("unknown")
        ));
    }
    found.push(diagnosis);
}

fn role(pod: &PodScene) -> &'static str {
    match pod.role() {
        Some(Role::Prefill) => " (prefill)",
        Some(Role::Decode) => " (decode)",
        None => "",
    }
}

/// EFA's read retries within a node (NVIDIA Dynamo's guide, newer than ours: prefill and decode must be on different nodes).
fn efa(title: &str, pods: &[(&PodScene, &NodeScene)], found: &mut Vec<Diagnosis>) {
    for (prefill, node) in pods.iter().filter(|(pod, _)| pod.role() == Some(Role::Prefill)) {
        let decode =
            pods.iter().find(|(pod, other)| pod.role() == Some(Role::Decode) && other.view.name == node.view.name);
        let (Some((decode, _)), Some(Fabric::Efa)) = (decode, node.view.fabric()) else { continue };
        let cause = "prefill and decode are on one EFA node, where reads between them are tried again for ever";
        found.push(
            Diagnosis::new(Cause::EfaSameNode, Severity::Fault, title, cause)
                .seen(format!("{} and {} on {}", prefill.title(), decode.title(), node.view.name))
                .remedy(
                    "keep them on different nodes (pod anti-affinity over kubernetes.io/hostname, which Railbind adds)",
                ),
        );
    }
}

fn mtu(title: &str, pods: &[(&PodScene, &NodeScene)], found: &mut Vec<Diagnosis>) {
    let mut by_mtu: BTreeMap<u32, BTreeSet<String>> = BTreeMap::new();
    for (_, node) in pods.iter().filter(|(_, node)| node.view.fabric() == Some(Fabric::Roce)) {
        if let Some(least) = node::mtus(node).iter().map(|(_, mtu)| *mtu).min() {
            by_mtu.entry(least).or_default().insert(node.view.name.clone());
        }
    }
    if by_mtu.len() < 2 {
        return;
    }
    let cause = "its nodes' RoCE interfaces have different MTU: large messages between them are dropped or slow";
    let mut diagnosis = Diagnosis::new(Cause::MtuDiffers, Severity::Fault, title, cause)
        .remedy("give all RoCE interfaces, and the switch ports, one MTU (9000 where the fabric takes it)");
    for (mtu, nodes) in by_mtu {
        diagnosis = diagnosis.seen(format!("MTU {mtu}: {}", nodes.into_iter().collect::<Vec<_>>().join(", ")));
    }
    found.push(diagnosis);
}

/// What was measured between the very nodes.
fn measured(scene: &Scene, title: &str, pods: &[(&PodScene, &NodeScene)], found: &mut Vec<Diagnosis>) {
    let names: BTreeSet<&str> = pods.iter().map(|(_, node)| node.view.name.as_str()).collect();
    let nodes: Vec<_> = scene
        .nodes
        .iter()
        .filter(|node| names.contains(node.view.name.as_str()))
        .map(|node| {
            (
                node.view.name.clone(),
                node.label(label::FABRIC_DOMAIN).unwrap_or_default().to_owned(),
                node.selftest.clone(),
            )
        })
        .collect();
    let matrix = Matrix::new(&nodes);
    let mut seen = BTreeSet::new();
    for (one, here) in pods.iter().filter(|(pod, _)| pod.role() == Some(Role::Prefill)) {
        for (other, there) in pods.iter().filter(|(pod, _)| pod.role() == Some(Role::Decode)) {
            let (here, there) = (&here.view.name, &there.view.name);
            let Some(gbytes) = matrix.between(here, there).filter(|gbytes| *gbytes < RED_FLAG) else { continue };
            if seen.insert((here.clone(), there.clone())) {
                let cause = "the self-test between its nodes moved less than 1 GB/s: that is no RDMA";
                found.push(
                    Diagnosis::new(Cause::PairSlow, Severity::Fault, title, cause)
                        .seen(format!("{here} to {there}: {gbytes:.2} GB/s ({} and {})", one.title(), other.title()))
                        .remedy("kubectl railbind matrix shows whether it is a node or the pair; kubectl railbind doctor node NAME says what is wrong with it"),
                );
            }
        }
    }
}

/// Guide, Intermittent transfer failures: mismatched UCX versions between pods.
fn versions(title: &str, pods: &[(&PodScene, &NodeScene)], found: &mut Vec<Diagnosis>) {
    let mut by_version: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (pod, _) in pods {
        for container in &pod.containers {
            if let Some(version) = container.logs.known().and_then(|logs| logs.ucx.clone()) {
                by_version.entry(version).or_default().push(pod.title());
            }
        }
    }
    if by_version.len() < 2 {
        return;
    }
    let cause = "its workers run different versions of UCX";
    let mut diagnosis = Diagnosis::new(Cause::UcxVersionsDiffer, Severity::Warning, title, cause)
        .remedy("run prefill and decode from images with one UCX: between 1.18 and 1.19 remote reads over TCP fail with \"Unsupported operation\"");
    for (version, pods) in by_version {
        diagnosis = diagnosis.seen(format!("UCX {version}: {}", pods.join(", ")));
    }
    found.push(diagnosis);
}

/// Why NVLink is not used, or when it could be.
fn nvlink(title: &str, pods: &[(&PodScene, &NodeScene)], found: &mut Vec<Diagnosis>) {
    let cliques: BTreeSet<&str> = pods.iter().filter_map(|(_, node)| node.label(CLIQUE)).collect();
    let asked = pods.iter().find(|(pod, _)| {
        pod.containers.iter().any(|container| {
            container.value("UCX_CUDA_IPC_ENABLE_MNNVL").is_some_and(|value| matches!(value, "y" | "yes" | "1"))
        })
    });
    if let (Some((pod, _)), true) = (asked, cliques.len() > 1) {
        let cause =
            "its workers are in different NVLink domains and are told to use NVLink: transfers fail without an error";
        found.push(
            Diagnosis::new(Cause::CliquesDiffer, Severity::Fault, title, cause)
                .seen(format!(
                    "{}: UCX_CUDA_IPC_ENABLE_MNNVL=y; {CLIQUE}: {}",
                    pod.title(),
                    cliques.iter().copied().collect::<Vec<_>>().join(", ")
                ))
                .remedy("keep the deployment in one clique (ComputeDomain), or leave UCX_CUDA_IPC_ENABLE_MNNVL out"),
        );
        return;
    }
    let imex = |node: &NodeScene| {
        node.facts().is_some_and(|facts| facts.imex_channels.known().is_some_and(|all| !all.is_empty()))
    };
    let (cause, evidence) = if cliques.len() == 1
        && pods.iter().all(|(pod, node)| node.label(CLIQUE).is_some() && imex(node) && pod.claims)
    {
        (
            "these workers can use NVLink across pods: one clique, IMEX channels on the nodes, and a ComputeDomain's claim (the guide's \"never\" predates NVL72); the engine must allocate fabric memory",
            format!("{CLIQUE} {}", cliques.iter().copied().collect::<Vec<_>>().join("")),
        )
    } else {
        let nodes: BTreeSet<&str> = pods.iter().map(|(_, node)| node.view.name.as_str()).collect();
        if nodes.len() == pods.len() && cliques.is_empty() {
            return;
        }
        (
            "these workers do not use NVLink between each other: a pod sees its own GPUs only, and NVLink needs both in one process (or an NVL72 clique with a ComputeDomain); RDMA carries the KV cache, on one node too",
            format!("{} workers on {} nodes", pods.len(), nodes.len()),
        )
    };
    found.push(
        Diagnosis::new(Cause::NvLink, Severity::Note, title, cause)
            .seen(evidence)
            .remedy("nothing to do: parallelism within a pod uses NVLink"),
    );
}
