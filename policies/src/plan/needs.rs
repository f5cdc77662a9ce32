//! What a pod needs beyond its environment: capabilities, shared memory, RDMA resources.

use std::collections::BTreeMap;

use super::Plan;
use crate::{
    intent::{ContainerIntent, PodIntent},
    names::{k8s, label},
    node_map::Group,
    profile::{ResourceCount, ResourceFamily, TransportProfile},
    quantity,
    room::Room,
};

const MEBIBYTE: u64 = 1 << 20;
/// What `/dev/shm` is where nobody says otherwise.
const SMALLEST: u64 = 64 * MEBIBYTE;

pub(super) fn privileges(profile: &TransportProfile, intent: &PodIntent, nodes: &[Group<'_>], plan: &mut Plan) {
    for capability in &profile.spec.needs.capabilities {
        if let (k8s::IPC_LOCK, Some(level)) = (capability.value.as_str(), &intent.refuses_ipc_lock) {
            let unlimited = !nodes.is_empty()
                && nodes
                    .iter()
                    .all(|group| group.kind.labels.get(label::MEMLOCK).is_some_and(|value| value == "unlimited"));
            plan.reasons.push(format!("IPC_LOCK left out: Pod Security level `{level}` would refuse the pod"));
            if !unlimited {
                plan.warnings.push(format!("railbind: Pod Security level `{level}` refuses IPC_LOCK; RDMA needs it unless the nodes give containers unlimited locked memory"));
            }
            continue;
        }
        plan.capabilities.push(capability.value.clone());
    }
    let limited =
        nodes.iter().any(|group| group.kind.labels.get(label::MEMLOCK).is_some_and(|value| value == "limited"));
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
            let size = match capped(&size.value, intent) {
                Some((cap, limit)) => {
                    plan.warnings.push(format!("railbind: /dev/shm of {cap}, not {}: its pages count as the container's memory, which is limited to {limit}; {} may need more", size.value, engine.title()));
                    cap
                }
                None => size.value.clone(),
            };
            plan.reasons.push(format!("/dev/shm of {size} for {}", engine.title()));
            plan.shared_memory = Some(size);
        }
        None => plan.reasons.push(format!("/dev/shm left alone: the profile names no size for {}", engine.title())),
    }
}

/// The size that is left of `size` within the memory limits, and the limit, where that is less.
///
/// A page of a memory volume counts as memory of the container that touches it first: a volume as large as the limit lets an engine
/// write itself to death. So it gets half of the limit, and never less than the 64Mi that every container has without us. Of several
/// containers the largest limit counts: the volume is theirs together, and the largest one is the engine.
fn capped(size: &str, intent: &PodIntent) -> Option<(String, String)> {
    let limits: Option<Vec<u64>> = intent.containers.iter().map(|container| container.memory).collect();
    let limit = limits?.into_iter().max()?;
    let whole = (limit / 2).max(SMALLEST) / MEBIBYTE * MEBIBYTE;
    (whole < quantity::floor(size)?).then(|| (quantity::bytes(whole), quantity::bytes(limit)))
}

pub(super) fn resources(
    profile: &TransportProfile,
    nodes: &[Group<'_>],
    container: &ContainerIntent,
    room: &mut Room,
    plan: &mut Plan,
) {
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
        if container.by_claim {
            plan.reasons.push(format!("{}: devices by claim, and no NICs by device plugin", container.name));
            return;
        }
        plan.warnings.push(format!("railbind: no {} resource on the nodes of profile {}: is the device plugin installed? Without it the pod sees no NIC", match need.family { ResourceFamily::Rdma => "RDMA", ResourceFamily::Efa => k8s::EFA_RESOURCE }, profile.metadata.name));
        return;
    };
    let ceiling = nodes.iter().map(|group| group.kind.count(&name)).max().unwrap_or(0);
    let wanted = match need.count {
        ResourceCount::Gpus => container.gpus,
        ResourceCount::NodeRatio => nodes
            .iter()
            .map(|group| group.kind)
            .filter(|node| node.gpus() > 0)
            .map(|node| node.count(&name).saturating_mul(container.gpus) / node.gpus())
            .filter(|count| *count > 0)
            .min()
            .unwrap_or(1),
    };
    let fits = wanted.min(ceiling);
    let (count, bound) = room.take(&name, fits);
    if let Some(bound) = bound {
        let (main, given) = (&container.name, if count == 0 { "none".into() } else { count.to_string() });
        plan.reasons.push(format!("{main}: {name}: {given} of {fits}, all that {bound} leaves room for"));
        plan.warnings.push(format!(
            "railbind: {bound} leaves room for {given} of {fits} {name} in container {main}{}: raise it",
            if count == 0 { ", which sees no NIC without it" } else { "" }
        ));
        if count > 0 {
            plan.resources.insert(container.name.clone(), (name, count));
        }
        return;
    }
    plan.reasons.push(match (need.count, count < wanted) {
        (_, true) => format!("{}: {name}: {count}, all that a node gives, for {} GPUs", container.name, container.gpus),
        (ResourceCount::Gpus | ResourceCount::NodeRatio, false) if container.by_claim => {
            format!("{}: {name}: {count}; GPUs by claim count as one", container.name)
        }
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
fn offered(family: ResourceFamily, nodes: &[Group<'_>]) -> Option<String> {
    let mut offers: BTreeMap<&str, usize> = BTreeMap::new();
    for group in nodes {
        for name in group.kind.allocatable.keys().filter(|name| family.has(name) && group.kind.count(name) > 0) {
            *offers.entry(name).or_default() += group.count();
        }
    }
    let best =
        offers.into_iter().min_by_key(|(name, count)| (std::cmp::Reverse(*count), !name.starts_with("rdma/"), *name));
    best.map(|(name, _)| name.to_owned())
}
