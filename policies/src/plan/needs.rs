//! What a pod needs beyond its environment: capabilities, shared memory, RDMA resources.

use std::collections::BTreeMap;

use super::Plan;
use crate::{
    intent::{ContainerIntent, PodIntent},
    names::{k8s, label},
    profile::{ResourceCount, ResourceFamily, TransportProfile},
    select::NodeView,
};

pub(super) fn privileges(profile: &TransportProfile, intent: &PodIntent, nodes: &[&NodeView], plan: &mut Plan) {
    for capability in &profile.spec.needs.capabilities {
        if let (k8s::IPC_LOCK, Some(level)) = (capability.value.as_str(), &intent.refuses_ipc_lock) {
            let unlimited = !nodes.is_empty()
                && nodes.iter().all(|node| node.labels.get(label::MEMLOCK).is_some_and(|value| value == "unlimited"));
            plan.reasons.push(format!("IPC_LOCK left out: Pod Security level `{level}` would refuse the pod"));
            if !unlimited {
                plan.warnings.push(format!("railbind: Pod Security level `{level}` refuses IPC_LOCK; RDMA needs it unless the nodes give containers unlimited locked memory"));
            }
            continue;
        }
        plan.capabilities.push(capability.value.clone());
    }
    let limited = nodes.iter().any(|node| node.labels.get(label::MEMLOCK).is_some_and(|value| value == "limited"));
    if limited && !profile.spec.needs.capabilities.is_empty() {
        for container in intent.containers.iter().filter(|container| container.non_root) {
            plan.warnings.push(format!(
                "railbind: container {} is not root: IPC_LOCK has no effect, and nodes of {} limit locked memory",
                container.name, profile.metadata.name
            ));
        }
    }
}

pub(super) fn memory(profile: &TransportProfile, intent: &PodIntent, plan: &mut Plan) {
    let Some(engine) = intent.engine else {
        plan.reasons.push("/dev/shm left alone: engine not recognised".into());
        return;
    };
    match profile.spec.needs.shared_memory.get(&engine) {
        Some(_) if intent.has_shm => plan.reasons.push("/dev/shm left alone: the pod mounts it itself".into()),
        Some(size) => {
            plan.reasons.push(format!("/dev/shm of {} for {}", size.value, engine.title()));
            plan.shared_memory = Some(size.value.clone());
        }
        None => plan.reasons.push(format!("/dev/shm left alone: the profile names no size for {}", engine.title())),
    }
}

pub(super) fn resources(profile: &TransportProfile, nodes: &[&NodeView], container: &ContainerIntent, plan: &mut Plan) {
    let Some(need) = &profile.spec.needs.resource else {
        return;
    };
    if let Some((name, count)) =
        container.resources.iter().find(|(name, _)| ResourceFamily::Rdma.has(name) || ResourceFamily::Efa.has(name))
    {
        plan.reasons.push(format!("{}: requests {name}: {count} itself", container.name));
        return;
    }
    if container.gpus == 0 {
        return;
    }
    let Some(name) = offered(need.family, nodes) else {
        plan.warnings.push(format!("railbind: no {} resource on the nodes of profile {}: is the device plugin installed? Without it the pod sees no NIC", match need.family { ResourceFamily::Rdma => "RDMA", ResourceFamily::Efa => k8s::EFA_RESOURCE }, profile.metadata.name));
        return;
    };
    let ceiling = nodes.iter().map(|node| node.count(&name)).max().unwrap_or(0);
    let wanted = match need.count {
        ResourceCount::Gpus => container.gpus,
        ResourceCount::NodeRatio => nodes
            .iter()
            .filter(|node| node.gpus() > 0)
            .map(|node| node.count(&name) * container.gpus / node.gpus())
            .filter(|count| *count > 0)
            .min()
            .unwrap_or(1),
    };
    let count = wanted.min(ceiling);
    plan.reasons.push(match (need.count, count < wanted) {
        (_, true) => format!("{}: {name}: {count}, all that a node gives, for {} GPUs", container.name, container.gpus),
        (ResourceCount::Gpus, false) => {
            format!("{}: {name}: {count}, one for each GPU", container.name)
        }
        (ResourceCount::NodeRatio, false) => {
            format!("{}: {name}: {count} for {} GPUs, the nodes' ratio", container.name, container.gpus)
        }
    });
    plan.resources.insert(container.name.clone(), (name, count));
}

/// The resource of a family that most of the nodes offer; of two that are level, `rdma/…` and then the first by name.
fn offered(family: ResourceFamily, nodes: &[&NodeView]) -> Option<String> {
    let mut offers: BTreeMap<&str, usize> = BTreeMap::new();
    for node in nodes {
        for name in node.allocatable.keys().filter(|name| family.has(name) && node.count(name) > 0) {
            *offers.entry(name).or_default() += 1;
        }
    }
    let best =
        offers.into_iter().min_by_key(|(name, count)| (std::cmp::Reverse(*count), !name.starts_with("rdma/"), *name));
    best.map(|(name, _)| name.to_owned())
}
