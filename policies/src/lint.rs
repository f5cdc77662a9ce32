//! The linter: settings of a user's that break a worker on the chosen fabric, that do nothing, or that nobody knows.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::{
    intent::{ContainerIntent, PodIntent},
    profile::TransportProfile,
    roles::Fabric,
};

pub mod known;

/// Unknown names looked up for one pod: each costs tens of microseconds, and a pod can have a hundred thousand.
const MAX_LOOKUPS: usize = 64;

/// What to do about a user's setting that is fatal. `railbind.dev/conflicts` on the pod, else on its namespace.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Conflicts {
    /// It stays, and the warning says what will happen.
    #[default]
    Warn,
    /// It is replaced.
    Override,
    /// The pod is refused.
    Deny,
}

/// Something that the linter found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// Container.
    pub container: String,
    /// Variable.
    pub variable: String,
    /// The value that works, for what breaks the worker as it is; `None`: it only does nothing.
    pub remedy: Option<String>,
    /// One sentence: what it says and what comes of it.
    pub text: String,
}

impl Finding {
    /// Whether the worker breaks.
    pub fn is_fatal(&self) -> bool {
        self.remedy.is_some()
    }
}

/// Looks at the settings of all containers that take part. What breaks a worker comes first.
pub fn lint(profile: &TransportProfile, fabric: Fabric, intent: &PodIntent) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut lookups = MAX_LOOKUPS;
    for container in &intent.containers {
        let settings = Settings { container, profile };
        settings.of_the_profile(&mut found);
        settings.gpu_memory(&mut found);
        settings.gid_index(fabric, &mut found);
        settings.names(intent, &mut lookups, &mut found);
    }
    // One variable can break two rules; one replacement mends both.
    let mut seen = BTreeSet::new();
    found.retain(|finding: &Finding| {
        let key = (finding.container.clone(), finding.variable.clone(), finding.is_fatal());
        seen.insert(key)
    });
    found.sort_by_key(|finding| !finding.is_fatal());
    found
}

struct Settings<'a> {
    container: &'a ContainerIntent,
    profile: &'a TransportProfile,
}

impl Settings<'_> {
    /// A literal value; one that comes from elsewhere cannot be judged.
    fn value(&self, name: &str) -> Option<&str> {
        self.container.env.get(name)?.as_deref()
    }

    /// What to put in a variable's place: the profile's own value, or the literal that leaves it to UCX.
    fn remedy(&self, name: &str, neutral: &str) -> String {
        let line = self.profile.spec.env.iter().find(|line| line.name == name);
        line.and_then(|line| line.value.clone()).unwrap_or_else(|| neutral.into())
    }

    fn fatal(&self, variable: &str, neutral: &str, why: &str) -> Finding {
        let value = self.value(variable).unwrap_or_default();
        Finding {
            container: self.container.name.clone(),
            variable: variable.into(),
            remedy: Some(self.remedy(variable, neutral)),
            text: format!("{variable}={} in container {}: {why}", short(value), self.container.name),
        }
    }

    /// The pairs that the profile's own data calls fatal.
    fn of_the_profile(&self, found: &mut Vec<Finding>) {
        for fatal in &self.profile.spec.fatal {
            if self.value(&fatal.name).is_some_and(|value| fatal.values.iter().any(|fatal| fatal == value)) {
                found.push(self.fatal(&fatal.name, "auto", &fatal.why));
            }
        }
    }

    /// UCX takes only the transports that a list names: without one for CUDA, GPU memory is taken for host memory
    /// (NIXL: "VRAM memory is detected as host by UCX").
    fn gpu_memory(&self, found: &mut Vec<Finding>) {
        let nvidia = self
            .container
            .resources
            .keys()
            .any(|name| name.starts_with("nvidia.com/gpu") || name.starts_with("nvidia.com/mig-"));
        let Some(list) = self.value("UCX_TLS").filter(|_| nvidia) else { return };
        let words: Vec<&str> = list.split(',').map(str::trim).collect();
        let allows = !list.starts_with('^') && !words.contains(&"all");
        let cuda = words
            .iter()
            .any(|word| matches!(word.trim_start_matches('\\'), "cuda" | "cuda_copy" | "cuda_ipc" | "gdr_copy"));
        if allows && !cuda {
            let why = "neither cuda_copy nor cuda_ipc in the list, so UCX takes GPU memory for host memory";
            found.push(self.fatal("UCX_TLS", "all", why));
        }
    }

    /// An index into the RoCE GID table: on InfiniBand the port check asks for the same entry and drops the port; and it
    /// excludes a choice by subnet ("both GID_INDEX and ROCE_SUBNET_LIST are specified").
    fn gid_index(&self, fabric: Fabric, found: &mut Vec<Finding>) {
        let name = "UCX_IB_GID_INDEX";
        if self.value(name).is_none_or(|value| value == "auto") {
            return;
        }
        if fabric == Fabric::InfiniBand {
            found.push(self.fatal(name, "auto", "a GID index drops InfiniBand ports whose table has no such entry"));
        } else if self.value("UCX_IB_ROCE_SUBNETS").is_some_and(|subnets| subnets != "all") {
            found.push(self.fatal(name, "auto", "UCX refuses it together with UCX_IB_ROCE_SUBNETS"));
        }
    }

    /// Names that do nothing, or that nobody knows.
    fn names(&self, intent: &PodIntent, lookups: &mut usize, found: &mut Vec<Finding>) {
        for name in self.container.env.keys() {
            let dead = known::dead(name);
            if dead.is_none() && known::is_unknown(name) {
                let Some(left) = lookups.checked_sub(1) else { continue };
                *lookups = left;
            }
            let text = match (dead, known::suggestion(name)) {
                (Some(dead), _) => {
                    // Where the image's UCX is not known, it is a current one: nobody ships the old ones with NIXL.
                    if let (Some(range), Some(ucx)) = (dead.ucx, intent.ucx)
                        && !range.contains(ucx)
                    {
                        continue;
                    }
                    let instead = dead.instead.as_ref().map(|name| format!("; set {name}")).unwrap_or_default();
                    format!("{name} in container {} does nothing: {}{instead}", self.container.name, dead.why)
                }
                (None, Some(meant)) => {
                    format!("{name} in container {} is not known; did you mean {meant}?", self.container.name)
                }
                (None, None) => continue,
            };
            let container = self.container.name.clone();
            found.push(Finding { container, variable: name.clone(), remedy: None, text });
        }
    }
}

/// A value in a sentence.
fn short(value: &str) -> String {
    if value.chars().count() <= 40 { value.into() } else { value.chars().take(39).chain(['…']).collect() }
}
