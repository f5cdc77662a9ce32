//! The profiles in force, by set; and which of a set a node qualifies for.

use std::collections::BTreeMap;

use super::{ProfileError, TransportProfile};
use crate::{kernel::Version, roles::Fabric};

/// Name that stands for the best set there is a measurement for.
pub const AUTO: &str = "auto";

/// The embedded set `guide`.
const GUIDE: &[(&str, &str)] = &[
    ("infiniband-gpudirect.yaml", include_str!("../../profiles/guide/infiniband-gpudirect.yaml")),
    ("roce-gpudirect.yaml", include_str!("../../profiles/guide/roce-gpudirect.yaml")),
    ("rdma-host-staged.yaml", include_str!("../../profiles/guide/rdma-host-staged.yaml")),
    ("efa-gpudirect.yaml", include_str!("../../profiles/guide/efa-gpudirect.yaml")),
    ("efa-host-staged.yaml", include_str!("../../profiles/guide/efa-host-staged.yaml")),
    ("tcp.yaml", include_str!("../../profiles/guide/tcp.yaml")),
];

/// The embedded set `nixl`.
const NIXL: &[(&str, &str)] = &[
    ("nixl-infiniband.yaml", include_str!("../../profiles/nixl/nixl-infiniband.yaml")),
    ("nixl-roce.yaml", include_str!("../../profiles/nixl/nixl-roce.yaml")),
    ("nixl-rdma-host-staged.yaml", include_str!("../../profiles/nixl/nixl-rdma-host-staged.yaml")),
    ("nixl-efa-libfabric.yaml", include_str!("../../profiles/nixl/nixl-efa-libfabric.yaml")),
    ("nixl-tcp.yaml", include_str!("../../profiles/nixl/nixl-tcp.yaml")),
];

/// What a profile is chosen by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeClass {
    /// Fabric.
    pub fabric: Fabric,
    /// GPUDirect by DMA-BUF or peermem.
    pub gpu_direct: bool,
    /// Kernel.
    pub kernel: Option<Version>,
    /// Drivers of the compute ports.
    pub drivers: Vec<String>,
    /// Only software RDMA.
    pub soft: bool,
}

/// A choice of profile with its reasons.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    /// Name of the profile.
    pub profile: Option<String>,
    /// One sentence for the chosen profile and one for each that was not.
    pub reasons: Vec<String>,
}

/// All profiles that are in force.
#[derive(Debug, Clone, PartialEq)]
pub struct Profiles {
    by_name: BTreeMap<String, TransportProfile>,
}

impl Profiles {
    /// The profiles that ship inside the binaries.
    ///
    /// # Errors
    /// Only if the shipped YAML is wrong, which a test excludes.
    pub fn embedded() -> Result<Self, ProfileError> {
        let files = GUIDE.iter().chain(NIXL);
        Self::new(files.map(|(file, yaml)| TransportProfile::parse(file, yaml)).collect::<Result<Vec<_>, _>>()?)
    }

    /// These profiles; of two with one name the later wins.
    ///
    /// # Errors
    /// None today; a set that contradicts itself would be refused here.
    pub fn new(profiles: Vec<TransportProfile>) -> Result<Self, ProfileError> {
        Ok(Self { by_name: profiles.into_iter().map(|profile| (profile.metadata.name.clone(), profile)).collect() })
    }

    /// The set that a cluster uses where nobody names another.
    pub fn default_set(&self) -> &'static str {
        "guide"
    }

    /// Whether there is a set of this name.
    pub fn has_set(&self, set: &str) -> bool {
        self.by_name.values().any(|profile| profile.spec.set == set)
    }

    /// With these in the place of those that have their names.
    #[must_use]
    pub fn overridden_by(&self, objects: impl IntoIterator<Item = TransportProfile>) -> Self {
        let mut by_name = self.by_name.clone();
        by_name.extend(objects.into_iter().map(|profile| (profile.metadata.name.clone(), profile)));
        Self { by_name }
    }

    /// A profile by name.
    pub fn get(&self, name: &str) -> Option<&TransportProfile> {
        self.by_name.get(name)
    }

    /// All, by name.
    pub fn iter(&self) -> impl Iterator<Item = &TransportProfile> {
        self.by_name.values()
    }

    /// The best profile of `set` for a node of this class. A node with only software RDMA falls back to TCP.
    pub fn for_node(&self, set: &str, class: &NodeClass) -> Chosen {
        let mut reasons = Vec::new();
        let mut best: Option<&TransportProfile> = None;
        let tcp = NodeClass { fabric: Fabric::Tcp, ..class.clone() };
        for profile in self.by_name.values().filter(|profile| profile.spec.set == set) {
            let verdict = profile.matches(class).or_else(|why| {
                let last_resort = class.soft && profile.spec.when.fabric.contains(&Fabric::Tcp);
                if last_resort && profile.matches(&NodeClass { soft: false, ..tcp.clone() }).is_ok() {
                    Ok(())
                } else {
                    Err(why)
                }
            });
            match verdict {
                Ok(()) if best.is_none_or(|best| profile.spec.priority > best.spec.priority) => {
                    best = Some(profile);
                }
                Ok(()) => {}
                Err(why) => reasons.push(format!("not {}: {why}", profile.metadata.name)),
            }
        }
        if let Some(best) = best {
            reasons.insert(0, format!("profile {}: {}", best.metadata.name, best.spec.description));
        }
        Chosen { profile: best.map(|best| best.metadata.name.clone()), reasons }
    }
}
