//! What is wrong with a worker: where it is, what it may, what its environment says.

use super::{
    Cause, Diagnosis, Severity,
    scene::{ContainerScene, EnvScene, NodeScene, PodScene, Scene},
};
use crate::{
    fabric::Fact,
    intent::{ContainerIntent, PodIntent},
    lint,
    names::{annotation, k8s, label},
    profile::{Profiles, ResourceFamily, TransportProfile},
    roles::Fabric,
    workers,
};

pub(super) fn look(scene: &Scene, pod: &PodScene, profiles: &Profiles, found: &mut Vec<Diagnosis>) {
    if pod.worker.is_none() {
        return;
    }
    let title = pod.title();
    if let Some(why) = &pod.unscheduled {
        let cause = "no node takes the pod";
        found.push(
            Diagnosis::new(Cause::Unschedulable, Severity::Fault, &title, cause)
                .seen(format!("{title}: {}", why.chars().take(400).collect::<String>()))
                .remedy("give it a node with the resources and labels it asks for; `kubectl railbind explain pod` says what Railbind asked for, and railbind.dev/placement: preferred asks for less"),
        );
    }
    injected(scene, pod, &title, found);
    let node = scene.node_of(pod);
    let profile = node.and_then(|node| profiles.get(node.label(label::PROFILE)?));
    if let Some(node) = node {
        stale(pod, node, &title, found);
    }
    for container in &pod.containers {
        let look = Look { pod, container, node, title: format!("{title} container {}", container.name) };
        look.settings(profile, found);
        look.late(found);
        look.up(found);
        if let Some(node) = node {
            look.gid_index(node, found);
            look.transports(node, found);
            look.devices(node, found);
            look.resource(node, found);
            look.memory(node, found);
            look.gpu_direct(node, found);
        }
        look.shared_memory(profile, found);
    }
}

/// A worker that Railbind never saw.
fn injected(scene: &Scene, pod: &PodScene, title: &str, found: &mut Vec<Diagnosis>) {
    if pod.annotations.contains_key(annotation::DECISION) {
        return;
    }
    let disabled = |labels: &std::collections::BTreeMap<String, String>| {
        labels.get(label::INJECT).is_some_and(|value| value == "disabled")
    };
    if disabled(&pod.labels) {
        return;
    }
    let (evidence, remedy) = match &pod.namespace_labels {
        _ if scene.webhook == Fact::Known(false) => (
            "the API server is not told to call railbind-webhook: there is no MutatingWebhookConfiguration of it".into(),
            "see that railbind-webhook runs (it registers itself): kubectl get pods -n railbind-system".into(),
        ),
        Fact::Known(labels) if labels.get(label::INJECT).is_none_or(|value| value != "enabled") => (
            format!("namespace {} does not carry {}=enabled", pod.namespace, label::INJECT),
            format!("kubectl label namespace {} {}=enabled, then make the pods again", pod.namespace, label::INJECT),
        ),
        Fact::Known(_) => (
            format!("namespace {} is in scope, and {title} has no annotation {}", pod.namespace, annotation::DECISION),
            "make the pod again; see that railbind-webhook runs (the pod may be older than it, or have been admitted while it was away)".into(),
        ),
        Fact::Unknown(why) => (
            format!("{title} has no annotation {}; namespace not read: {why}", annotation::DECISION),
            "make the pod again in a namespace that Railbind serves".into(),
        ),
    };
    let cause = "Railbind gave this worker nothing: all of its settings are by hand, or missing";
    found.push(Diagnosis::new(Cause::NotInjected, Severity::Warning, title, cause).seen(evidence).remedy(remedy));
}

/// The node's profile is another now.
fn stale(pod: &PodScene, node: &NodeScene, title: &str, found: &mut Vec<Diagnosis>) {
    let (Some(decided), Some(now)) = (pod.decided(), node.label(label::PROFILE)) else { return };
    // Sets have names of their own for the same node: only the default set's can be compared.
    if decided.is_empty() || decided == now || decided.starts_with("nixl-") {
        return;
    }
    let cause = "the pod was made for another kind of node than its node is now";
    found.push(
        Diagnosis::new(Cause::ProfileStale, Severity::Warning, title, cause)
            .seen(format!("{title} has profile {decided}, node {} qualifies for {now}", node.view.name))
            .remedy("find out what changed (kubectl describe node), then make the pod again"),
    );
}

struct Look<'a> {
    pod: &'a PodScene,
    container: &'a ContainerScene,
    node: Option<&'a NodeScene>,
    title: String,
}

impl Look<'_> {
    fn of(&self, code: Cause, severity: Severity, cause: impl Into<String>) -> Diagnosis {
        Diagnosis::new(code, severity, &self.title, cause)
    }

    fn node_name(&self) -> &str {
        self.node.map_or("?", |node| node.view.name.as_str())
    }

    /// The linter's findings, on values as the container has them.
    fn settings(&self, profile: Option<&TransportProfile>, found: &mut Vec<Diagnosis>) {
        let Some(profile) = profile else { return };
        let fabric = self.node.and_then(|node| node.view.fabric()).unwrap_or(Fabric::Tcp);
        let env = self.container.env.keys().map(|name| (name.clone(), self.container.value(name).map(str::to_owned)));
        let container = ContainerIntent {
            name: self.container.name.clone(),
            gpus: self.container.gpus,
            env: env.collect(),
            resources: self.container.resources.clone(),
            ..ContainerIntent::default()
        };
        let intent = PodIntent {
            containers: vec![container],
            ucx: self.pod.annotations.get(annotation::UCX_VERSION).and_then(|version| version.parse().ok()),
            ..PodIntent::default()
        };
        for finding in lint::lint(profile, fabric, &intent) {
            let evidence = format!("{}: {}", self.title, finding.text);
            found.push(match (&finding.remedy, finding.variable.as_str()) {
                (Some(value), "UCX_TLS") => self
                    .of(Cause::TlsExcludesGpu, Severity::Fault, "UCX_TLS leaves no transport for GPU memory")
                    .seen(evidence)
                    .remedy(format!("set UCX_TLS={value}, or leave it out")),
                (Some(value), "UCX_IB_GID_INDEX") => self
                    .of(Cause::GidIndexWrong, Severity::Fault, "UCX_IB_GID_INDEX does not fit this fabric")
                    .seen(evidence)
                    .remedy(format!("leave it out, or set {value}")),
                (Some(value), name) => {
                    let why = profile.spec.fatal.iter().find(|fatal| fatal.name == name).map(|fatal| fatal.why.as_str());
                    let fabric = fabric.title();
                    self.of(Cause::FatalSetting, Severity::Fault, format!("{name} breaks workers on this node ({fabric}): {}", why.unwrap_or("see the evidence")))
                        .seen(evidence)
                        .remedy(format!("set {name}={value}, or leave it out and let Railbind set it (railbind.dev/conflicts: override replaces it)"))
                }
                (None, name) => self
                    .of(Cause::UnknownVariable, Severity::Warning, format!("{name} does nothing"))
                    .seen(evidence)
                    .remedy(match lint::known::suggestion(name) {
                        Some(meant) => format!("write {meant}"),
                        None => format!("leave {name} out"),
                    }),
            });
        }
    }

    /// Values that were to come from the node.
    fn late(&self, found: &mut Vec<Diagnosis>) {
        for (name, value) in &self.container.env {
            let EnvScene::Late { annotation: key, value } = value else { continue };
            if key.starts_with(annotation::ENV_PREFIX) && value.is_none() {
                let cause = format!("{name} is empty in the container: the annotation it refers to is not there");
                found.push(
                    self.of(Cause::LateValueMissing, Severity::Fault, cause)
                        .seen(format!("{}: {name} from annotation {key}, which the pod has not", self.title))
                        .remedy("make the pod again; somebody took the annotation away"),
                );
            }
        }
    }

    fn up(&self, found: &mut Vec<Diagnosis>) {
        let Some(trouble) = &self.container.trouble else { return };
        let cause = "the container does not stay up";
        found.push(
            self.of(Cause::Restarts, Severity::Warning, cause)
                .seen(format!("{}: {trouble}; started again {} times", self.title, self.container.restarts))
                .remedy("kubectl logs --previous shows why; the findings above may be the reason"),
        );
    }

    /// An index that the node's tables do not bear out.
    fn gid_index(&self, node: &NodeScene, found: &mut Vec<Diagnosis>) {
        let name = "UCX_IB_GID_INDEX";
        if node.view.fabric() != Some(Fabric::Roce) {
            return;
        }
        let Some(value) = self.container.value(name).filter(|value| *value != "auto") else { return };
        let own = node.label(label::GID_INDEX);
        if own == Some(value) {
            return;
        }
        let says = own.map_or_else(
            || "its ports do not share one index".to_owned(),
            |own| format!("its RoCE v2 GID is at index {own} on every compute port"),
        );
        let late = matches!(self.container.env.get(name), Some(EnvScene::Late { .. }));
        let (cause, remedy) = if late {
            ("the node's GID index moved after the pod was bound", "make the pod again: it then gets the index of now")
        } else {
            (
                "UCX_IB_GID_INDEX is not this node's: UCX takes another GID, or none, and RDMA fails or falls back",
                "leave UCX_IB_GID_INDEX out: Railbind gives each pod its own node's index, and `auto` is right everywhere",
            )
        };
        found.push(
            self.of(Cause::GidIndexWrong, Severity::Fault, cause)
                .seen(format!("{}: {name}={value}; node {}: {says}", self.title, node.view.name))
                .remedy(remedy),
        );
    }

    /// A list without RDMA on a node with it.
    fn transports(&self, node: &NodeScene, found: &mut Vec<Diagnosis>) {
        let Some(list) = self.container.value("UCX_TLS") else { return };
        let Some(fabric) = node.view.fabric().filter(|_| node.has_rdma()) else { return };
        if allows(list, fabric) {
            return;
        }
        let cause =
            format!("UCX_TLS leaves no RDMA transport on a node with {}: KV cache goes over TCP", fabric.title());
        found.push(
            self.of(Cause::TlsExcludesRdma, Severity::Fault, cause)
                .seen(format!("{}: UCX_TLS={list}; node {}: fabric {}", self.title, node.view.name, fabric.as_str()))
                .remedy("leave UCX_TLS out, or take the profile's list"),
        );
    }

    fn devices(&self, node: &NodeScene, found: &mut Vec<Diagnosis>) {
        let (Some(list), Some(story)) = (self.container.value("UCX_NET_DEVICES"), node.story()) else { return };
        let compute: Vec<String> = story
            .ports
            .iter()
            .filter(|port| port.role == "compute")
            .map(|port| format!("{}:{}", port.device, port.port))
            .collect();
        if compute.is_empty() || list == "all" || list.starts_with('^') || list.contains('[') || !node.has_rdma() {
            return;
        }
        let has = |word: &str| compute.iter().any(|port| port == word || port.split(':').next() == Some(word));
        if list.split(',').map(str::trim).any(has) {
            return;
        }
        found.push(
            self.of(
                Cause::NetDevicesWrong,
                Severity::Fault,
                "UCX_NET_DEVICES names no compute port of this node: RDMA is not used",
            )
            .seen(format!("{}: UCX_NET_DEVICES={list}; node {} has {}", self.title, node.view.name, compute.join(",")))
            .remedy("leave UCX_NET_DEVICES out: the names differ from node to node"),
        );
    }

    fn resource(&self, node: &NodeScene, found: &mut Vec<Diagnosis>) {
        let pod = self.pod;
        if !node.has_rdma() || self.container.gpus == 0 || self.container.privileged || pod.claims || pod.host_devices {
            return;
        }
        let rdma = |name: &str| ResourceFamily::Rdma.has(name) || ResourceFamily::Efa.has(name);
        if self.container.resources.keys().any(|name| rdma(name)) {
            return;
        }
        // Where the node offers none, that is the finding.
        let offered = node.view.allocatable.keys().find(|name| rdma(name) && node.view.count(name) > 0);
        let Some(offered) = offered else { return };
        let cause = "the container asks for no RDMA resource: it sees no /dev/infiniband, and UCX takes TCP";
        found.push(
            self.of(Cause::ResourceNotRequested, Severity::Fault, cause)
                .seen(format!(
                    "{}: {} GPUs and no RDMA resource; node {} offers {offered}: {}",
                    self.title,
                    self.container.gpus,
                    node.view.name,
                    node.view.count(offered)
                ))
                .remedy(format!(
                    "add {offered} to the container's limits and requests, as many as GPUs where the node has them"
                )),
        );
    }

    /// Guide: IPC_LOCK bypasses RLIMIT_MEMLOCK; for root only.
    fn memory(&self, node: &NodeScene, found: &mut Vec<Diagnosis>) {
        let container = self.container;
        if !node.has_rdma() || container.privileged {
            return;
        }
        let has = ["IPC_LOCK", "ALL"].iter().any(|name| container.capabilities.contains(*name));
        let limited = node.memlock_limited();
        let limit = match limited {
            Some(true) => format!("node {} limits locked memory", self.node_name()),
            Some(false) => format!("node {} gives containers unlimited locked memory", self.node_name()),
            None => format!("node {}: limit of locked memory unknown", self.node_name()),
        };
        if !has {
            let security =
                self.pod.namespace_labels.known().and_then(|labels| labels.get("pod-security.kubernetes.io/enforce"));
            let refused = security.is_some_and(|level| level != "privileged");
            let severity = match limited {
                Some(true) => Severity::Fault,
                // Nobody can add it there, and nothing needs it here.
                Some(false) if refused => return,
                // It works here; the guide asks for it all the same.
                Some(false) | None => Severity::Warning,
            };
            let cause = if limited == Some(false) {
                "the container lacks IPC_LOCK, which RDMA needs on every node that limits locked memory (this one does not)"
            } else {
                "the container lacks IPC_LOCK: memory cannot be registered for RDMA"
            };
            let remedy = match security.filter(|level| *level != "privileged") {
                Some(level) => format!(
                    "Pod Security level `{level}` of namespace {} refuses IPC_LOCK: use another level there, or set LimitMEMLOCK=infinity for the container runtime",
                    self.pod.namespace
                ),
                None => format!("add {} to securityContext.capabilities.add", k8s::IPC_LOCK),
            };
            found.push(
                self.of(Cause::IpcLockMissing, severity, cause)
                    .seen(format!("{}: capabilities added: [{}]; {limit}", self.title, joined(&container.capabilities)))
                    .remedy(remedy),
            );
        } else if limited == Some(true) && container.non_root {
            let cause =
                "locked memory is limited, and IPC_LOCK has no effect because the container does not run as root";
            found.push(
                self.of(Cause::MemlockLimited, Severity::Fault, cause)
                    .seen(format!("{}: runs as another user than root; {limit}", self.title))
                    .remedy("set LimitMEMLOCK=infinity for the container runtime's service on the node, or run the worker as root with IPC_LOCK"),
            );
        }
    }

    fn gpu_direct(&self, node: &NodeScene, found: &mut Vec<Diagnosis>) {
        let off = self.container.value("UCX_IB_GPU_DIRECT_RDMA").is_some_and(|value| matches!(value, "n" | "no" | "0"));
        let there = node.label(label::GPUDIRECT).is_some_and(|value| value != "none");
        if off && there {
            found.push(
                self.of(
                    Cause::GpuDirectSwitchedOff,
                    Severity::Fault,
                    "UCX_IB_GPU_DIRECT_RDMA switches GPUDirect off on a node that has it",
                )
                .seen(format!(
                    "{}: UCX_IB_GPU_DIRECT_RDMA=n; node {}: gpudirect {}",
                    self.title,
                    node.view.name,
                    node.label(label::GPUDIRECT).unwrap_or("?")
                ))
                .remedy("leave UCX_IB_GPU_DIRECT_RDMA out"),
            );
        }
    }

    /// Guide: 16Gi for vLLM, 80Gi for TensorRT-LLM.
    fn shared_memory(&self, profile: Option<&TransportProfile>, found: &mut Vec<Diagnosis>) {
        let words: Vec<&str> = self.container.words.iter().map(String::as_str).collect();
        let engine = workers::engine(&self.pod.labels, &self.container.image, &words);
        let need = engine.zip(profile).and_then(|(engine, profile)| profile.spec.needs.shared_memory.get(&engine));
        let (Some(need), false) = (need, self.container.has_shm) else { return };
        let engine = engine.map_or("the engine", crate::intent::Engine::title);
        found.push(
            self.of(
                Cause::SharedMemoryMissing,
                Severity::Warning,
                format!("/dev/shm is the container runtime's 64 MiB; {engine} needs {}", need.value),
            )
            .seen(format!("{}: nothing is mounted at /dev/shm", self.title))
            .remedy(format!("mount a memory emptyDir with sizeLimit {} at /dev/shm", need.value)),
        );
    }
}

fn joined(names: &std::collections::BTreeSet<String>) -> String {
    names.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}

/// Whether a `UCX_TLS` list leaves an RDMA transport of this fabric (UCX's aliases: src/ucp/core/ucp_context.c).
pub(super) fn allows(list: &str, fabric: Fabric) -> bool {
    let deny = list.starts_with('^');
    let words: Vec<&str> =
        list.trim_start_matches('^').split(',').map(|word| word.trim().trim_start_matches('\\')).collect();
    let any = |names: &[&str]| words.iter().any(|word| names.contains(word));
    match (fabric, deny) {
        (Fabric::Tcp, _) => true,
        (Fabric::Efa, true) => !any(&["srd", "ib"]),
        (Fabric::Efa, false) => any(&["srd", "ib", "all"]),
        (_, true) => {
            let kinds: [&[&str]; 3] = [&["rc", "rc_x", "rc_mlx5"], &["dc", "dc_x", "dc_mlx5"], &["ud"]];
            !any(&["ib"]) && kinds.iter().any(|names| !any(names))
        }
        (_, false) => any(&[
            "all", "ib", "rc", "rc_x", "rc_v", "rc_mlx5", "rc_verbs", "dc", "dc_x", "dc_mlx5", "ud", "ud_x", "ud_v",
            "ud_mlx5", "ud_verbs", "gga_mlx5", "rc_gda",
        ]),
    }
}
