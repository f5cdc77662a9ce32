//! The verdict on a node: from its facts to the labels it gets, with the reasons.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{
    domain::domain,
    fabric::{Fact, Facts, GpuVendor, Memlock, Problem},
    findings::findings,
    gid::GidKind,
    kernel::Version,
    names::{label, problem},
    profile::{NodeClass, Profiles},
    roles::{self, Fabric, PortRole, Role},
};

/// How a GPU's bytes reach the NIC without the host's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GpuDirectPath {
    /// DMA-BUF: kernel 5.12 or later, and a GPU driver that exports.
    DmaBuf,
    /// A peermem module.
    Peermem,
    /// Neither.
    None,
}

impl GpuDirectPath {
    /// The label value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::DmaBuf => "dmabuf",
            Self::Peermem => "peermem",
            Self::None => "none",
        }
    }
}

/// What one label shall be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Label {
    /// This value.
    Set(String),
    /// Whatever it is now, because the fact behind it could not be read in full; where it is nothing yet, the fallback.
    Keep {
        /// What could not be read.
        why: String,
        /// What is known for sure.
        fallback: Option<String>,
    },
}

impl Label {
    /// Its value, where the node has `current` now.
    pub fn value<'a>(&'a self, current: Option<&'a String>) -> Option<&'a String> {
        match self {
            Self::Set(value) => Some(value),
            Self::Keep { fallback, .. } => current.or(fallback.as_ref()),
        }
    }
}

/// What a node is, decided from its facts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Verdict {
    /// Best compute fabric with an ACTIVE port.
    pub fabric: Fact<Fabric>,
    /// GPUDirect path; known-`None` in the inner option: no GPU.
    pub gpu_direct: Fact<Option<GpuDirectPath>>,
    /// Every port and what it is for.
    pub ports: Vec<PortRole>,
    /// Only software RDMA devices.
    pub soft: bool,
    /// The profile the node qualifies for.
    pub profile: Option<String>,
    /// Our labels: absent from the map means absent from the node.
    pub labels: BTreeMap<String, Label>,
    /// Why, in sentences for people.
    pub reasons: Vec<String>,
    /// What is wrong, beyond what the readers found.
    pub problems: Vec<Problem>,
}

impl Verdict {
    /// Our labels as they are written on a node that has `current` now.
    pub fn labels_on(&self, current: &BTreeMap<String, String>) -> BTreeMap<String, String> {
        let values = self.labels.iter().filter_map(|(key, label)| Some((key, label.value(current.get(key))?)));
        values.map(|(key, value)| (key.clone(), value.clone())).collect()
    }

    /// Ports that carry the node's fabric.
    pub fn compute_ports(&self) -> impl Iterator<Item = &PortRole> {
        self.ports.iter().filter(|port| port.role == Role::Compute)
    }
}

/// The verdict on `facts` under `profiles`. `zone` is the node's `topology.kubernetes.io/zone`, which the machine itself cannot tell.
pub fn decide(facts: &Facts, profiles: &Profiles, zone: Option<&str>) -> Verdict {
    let ports = roles::assign(facts);
    let mut labels = Labels::default();
    let mut reasons = Vec::new();
    let mut problems = Vec::new();

    let unreadable: Vec<&PortRole> = ports.iter().filter(|port| port.role == Role::Unreadable).collect();
    let (fabric, soft) = match &facts.devices {
        Fact::Known(devices) => {
            let best = ports.iter().filter(|port| port.role == Role::Compute).filter_map(|port| port.fabric).min();
            let soft = !devices.is_empty() && devices.iter().all(|device| device.software);
            // No port that works and one that could not be read: that is not "no fabric".
            let fabric = match (best, unreadable.first()) {
                (None, Some(port)) => Fact::Unknown(format!("{} port {}: {}", port.device, port.port, port.reason)),
                _ => Fact::Known(best.unwrap_or(Fabric::Tcp)),
            };
            (fabric, soft)
        }
        Fact::Unknown(why) => (Fact::Unknown(why.clone()), false),
    };
    let compute: Vec<&PortRole> = ports.iter().filter(|port| port.role == Role::Compute).collect();
    let gpu_direct = gpu_direct(facts, &fabric);
    let kernel = match &facts.kernel {
        Fact::Known(release) => {
            release.parse::<Version>().map_or_else(|error| Fact::Unknown(error.to_string()), Fact::Known)
        }
        Fact::Unknown(why) => Fact::Unknown(why.clone()),
    };

    labels.fact(label::FABRIC, &fabric, |fabric| Some(fabric.as_str().into()));
    labels.fact(label::GPUDIRECT, &gpu_direct, |path| path.map(|path| path.as_str().into()));
    labels.fact(label::MEMLOCK, &facts.memlock, |memlock| {
        Some(match memlock {
            Memlock::Unlimited => "unlimited".into(),
            Memlock::Limited(_) => "limited".into(),
        })
    });
    match fabric.known() {
        None => labels.keep_all(
            &[
                label::SOFT,
                label::RDMA_PORTS,
                label::RATE_GBPS,
                label::GID_INDEX,
                label::GID_KIND,
                label::FABRIC_DOMAIN,
                label::KERNEL,
                label::PROFILE,
            ],
            "the RDMA devices could not be read",
        ),
        Some(fabric) => {
            if soft {
                labels.set(label::SOFT, "true");
            }
            if *fabric != Fabric::Tcp {
                labels.set(label::RDMA_PORTS, &compute.len().to_string());
                let slowest = compute.iter().filter_map(|port| port.rate_gbps).reduce(f64::min);
                if let Some(rate) = slowest {
                    labels.set(label::RATE_GBPS, &rate.to_string());
                }
            }
            gid_labels(&ports, &compute, &mut labels, &mut reasons, &mut problems);
            if let Some(domain) = domain(facts, *fabric, &compute, zone) {
                labels.set(label::FABRIC_DOMAIN, &domain);
            }
            if let Some(port) = unreadable.first() {
                let why = format!("{} port {}: {}", port.device, port.port, port.reason);
                let counted =
                    [label::RDMA_PORTS, label::RATE_GBPS, label::GID_INDEX, label::GID_KIND, label::FABRIC_DOMAIN];
                labels.keep_all(&counted, &why);
            }
            if *fabric == Fabric::Efa {
                labels.fact(label::KERNEL, &kernel, |kernel| Some(kernel.to_string()));
            }
        }
    }

    let class = node_class(facts, &fabric, &gpu_direct, &kernel, &compute, soft);
    let profile = class.as_ref().map(|class| profiles.for_node(profiles.default_set(), class));
    match &profile {
        None => labels.keep_all(&[label::PROFILE], "a fact that the profile depends on could not be read"),
        Some(chosen) => {
            reasons.extend(chosen.reasons.iter().cloned());
            match &chosen.profile {
                Some(name) => labels.set(label::PROFILE, name),
                None => problems.push(Problem::new(
                    problem::NO_PROFILE,
                    "node",
                    "no transport profile matches this node",
                    "add a TransportProfile for this fabric, or report the fabric to the project",
                )),
            }
        }
    }
    problems.extend(findings(facts, &ports, &gpu_direct, soft));
    Verdict {
        fabric,
        gpu_direct,
        ports,
        soft,
        profile: profile.and_then(|chosen| chosen.profile),
        labels: labels.0,
        reasons,
        problems,
    }
}

/// What profiles are chosen by; `None` where a fact they need is unknown.
fn node_class(
    facts: &Facts,
    fabric: &Fact<Fabric>,
    gpu_direct: &Fact<Option<GpuDirectPath>>,
    kernel: &Fact<Version>,
    compute: &[&PortRole],
    soft: bool,
) -> Option<NodeClass> {
    let drivers = facts
        .devices
        .known()?
        .iter()
        .filter(|device| compute.iter().any(|port| port.device == device.name))
        .filter_map(|device| device.driver.clone());
    Some(NodeClass {
        fabric: *fabric.known()?,
        gpu_direct: matches!(gpu_direct.known()?, Some(GpuDirectPath::DmaBuf | GpuDirectPath::Peermem)),
        kernel: kernel.known().copied(),
        drivers: drivers.collect(),
        soft,
    })
}

/// By which path GPU memory can be registered, as far as the kernel alone can tell. A real registration settles it later.
fn gpu_direct(facts: &Facts, fabric: &Fact<Fabric>) -> Fact<Option<GpuDirectPath>> {
    let gpus = match &facts.gpus {
        Fact::Known(gpus) if gpus.is_empty() => return Fact::Known(None),
        Fact::Known(gpus) => gpus,
        Fact::Unknown(why) => return Fact::Unknown(why.clone()),
    };
    let signals = &facts.gpu_direct;
    let dma_buf_kernel = facts
        .kernel
        .known()
        .and_then(|release| release.parse::<Version>().ok())
        .map(|kernel| kernel >= Version::new(5, 12));
    let exports = match gpus[0].vendor {
        // CUDA exports DMA-BUF only over the open kernel modules (NVIDIA driver README, "Open Linux Kernel Modules").
        GpuVendor::Nvidia => match (&signals.exported, &signals.nvidia_driver) {
            (Fact::Known(exported), _) => Some(*exported),
            (_, Fact::Known(driver)) => Some(driver.as_ref().is_some_and(|driver| driver.open)),
            (_, Fact::Unknown(_)) => None,
        },
        GpuVendor::Amd => Some(gpus.iter().all(|gpu| gpu.driver.as_deref() == Some("amdgpu"))),
        GpuVendor::Intel | GpuVendor::Habana => Some(gpus.iter().all(|gpu| gpu.driver.is_some())),
    };
    if dma_buf_kernel == Some(true) && exports == Some(true) {
        return Fact::Known(Some(GpuDirectPath::DmaBuf));
    }
    let mut peermem = vec![&signals.nvidia_peermem, &signals.nv_peer_mem, &signals.memory_peers];
    if fabric.known() == Some(&Fabric::Efa) {
        peermem.push(&signals.efa_nv_peermem);
    }
    if peermem.iter().any(|signal| signal.is_yes()) {
        return Fact::Known(Some(GpuDirectPath::Peermem));
    }
    let unknown = peermem.iter().find_map(|signal| match signal {
        Fact::Unknown(why) => Some(why.clone()),
        Fact::Known(_) => None,
    });
    match (dma_buf_kernel, exports, unknown) {
        (_, _, Some(why)) => Fact::Unknown(why),
        (None, Some(true) | None, _) => Fact::Unknown("the kernel version could not be read".into()),
        (Some(true), None, _) => Fact::Unknown("the GPU driver's version could not be read".into()),
        _ => Fact::Known(Some(GpuDirectPath::None)),
    }
}

fn gid_labels(
    ports: &[PortRole],
    compute: &[&PortRole],
    labels: &mut Labels,
    reasons: &mut Vec<String>,
    problems: &mut Vec<Problem>,
) {
    let with_role = |role: Role| ports.iter().filter(move |port| port.role == role).filter_map(|port| port.gid);
    let kinds: BTreeSet<GidKind> =
        with_role(Role::Compute).chain(with_role(Role::NoRoutableGid)).map(|gid| gid.kind).collect();
    // The best kind is what the node can do; ports that fall short of it have a problem of their own.
    if let Some(kind) = kinds.first() {
        labels.set(label::GID_KIND, kind.as_str());
    }
    let indexes: BTreeMap<u32, Vec<&str>> = compute.iter().fold(BTreeMap::new(), |mut map, port| {
        if let Some(index) = port.gid.and_then(|gid| gid.index) {
            map.entry(index).or_insert_with(Vec::new).push(port.device.as_str());
        }
        map
    });
    let mut found = indexes.iter();
    match (found.next(), found.next()) {
        (None, _) => {}
        (Some((index, devices)), None) => {
            labels.set(label::GID_INDEX, &index.to_string());
            reasons.push(format!("GID index {index} on all {} RoCE compute ports", devices.len()));
        }
        (Some(_), Some(_)) => {
            let each: Vec<String> =
                indexes.iter().map(|(index, devices)| format!("{index} on {}", devices.join(" "))).collect();
            let message = format!("GID index differs between compute ports: {}", each.join(", "));
            reasons.push(format!("{message}; left to UCX's `auto`"));
            problems.push(Problem::new(
                problem::GID_INDEX_DIFFERS,
                "node",
                message,
                "nothing to do for UCX, which picks per port; pin a fabric by UCX_IB_ROCE_SUBNETS, never by one index",
            ));
        }
    }
}

/// Any text as a label value: at most 63 of `[A-Za-z0-9._-]`, alphanumeric at both ends.
pub fn label_value(text: &str) -> String {
    let clean: String =
        text.chars().map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' }).take(63).collect();
    clean.trim_matches(|c: char| !c.is_ascii_alphanumeric()).to_owned()
}

#[derive(Default)]
struct Labels(BTreeMap<String, Label>);

impl Labels {
    fn set(&mut self, key: &str, value: &str) {
        self.0.insert(key.into(), Label::Set(label_value(value)));
    }

    fn keep_all(&mut self, keys: &[&str], why: &str) {
        for key in keys {
            let fallback = match self.0.remove(*key) {
                Some(Label::Set(value)) => Some(value),
                Some(Label::Keep { fallback, .. }) => fallback,
                None => None,
            };
            self.0.insert((*key).into(), Label::Keep { why: why.into(), fallback });
        }
    }

    fn fact<T>(&mut self, key: &str, fact: &Fact<T>, value: impl FnOnce(&T) -> Option<String>) {
        match fact {
            Fact::Known(known) => {
                if let Some(value) = value(known) {
                    self.set(key, &value);
                }
            }
            Fact::Unknown(why) => self.keep_all(&[key], why),
        }
    }
}
