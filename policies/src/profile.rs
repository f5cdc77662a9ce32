//! Transport profiles: the guide's tables as data. Schema, parsing with line and field, and which profile a node qualifies for.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    intent::Engine,
    kernel::Version,
    names::{DOMAIN, k8s},
    roles::Fabric,
};

mod fact;
mod objects;
mod set;

pub use fact::NodeFact;
pub use objects::Objects;
pub use set::{AUTO, Chosen, NodeClass, Profiles};

/// One `TransportProfile`, as a file or an object of the cluster says it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TransportProfile {
    /// `railbind.dev/v1alpha1`.
    pub api_version: String,
    /// `TransportProfile`.
    pub kind: String,
    /// Its name.
    pub metadata: Metadata,
    /// What it says.
    pub spec: Spec,
}

/// The part of a profile's metadata that we read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Metadata {
    /// Name of the profile; an object in the cluster overrides the embedded one of the same name.
    pub name: String,
}

/// What a profile says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Spec {
    /// Set it belongs to (`guide`, `nixl`, or a cluster's own).
    pub set: String,
    /// Among profiles that match, the highest wins; among nodes, the highest is the better fabric.
    pub priority: i32,
    /// One sentence for people.
    pub description: String,
    /// When it applies.
    pub when: When,
    /// Environment that it gives, in this order.
    pub env: Vec<EnvLine>,
    /// What the pod needs beyond its environment.
    pub needs: Needs,
    /// Settings of a user's that break workers on this class of node.
    #[serde(default)]
    pub fatal: Vec<Fatal>,
    /// What a person has to set, because it is no variable.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub advice: Vec<Advice>,
    /// What it should deliver.
    pub expect: Expect,
}

/// When a profile applies. An absent condition always holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct When {
    /// One of these fabrics: `infiniband`, `roce`, `efa`, `tcp`.
    #[schemars(with = "Vec<String>")]
    pub fabric: Vec<Fabric>,
    /// GPUDirect present (true) or absent (false).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu_direct: Option<bool>,
    /// Kernel range.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<Range>,
    /// One of these drivers carries every compute port.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub drivers: Vec<String>,
    /// Software RDMA is accepted. Tests only: never set it in production.
    #[serde(default)]
    pub soft: bool,
}

/// Versions from `min` (included) to `below` (not included).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Range {
    /// Lowest version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub min: Option<Version>,
    /// First version that is too high.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub below: Option<Version>,
}

impl Range {
    /// Whether `version` is in it.
    pub fn contains(self, version: Version) -> bool {
        self.min.is_none_or(|min| version >= min) && self.below.is_none_or(|below| version < below)
    }
}

/// One environment variable: a constant, or a fact of the node that the pod lands on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EnvLine {
    /// Name.
    pub name: String,
    /// Constant value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// The node's fact whose value it takes when the pod is bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<NodeFact>,
    /// With `from`: the value that is right on any node (UCX's own neutral literal).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<String>,
    /// Only on these of the profile's fabrics.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<String>")]
    pub fabric: Vec<Fabric>,
    /// Only for these engines. Empty: for all, recognised or not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub engine: Vec<Engine>,
    /// Only for a pod whose UCX is *known* to be in this range.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ucx: Option<Range>,
    /// Where the line comes from.
    pub source: String,
}

/// What the pod needs beyond its environment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Needs {
    /// Linux capabilities.
    #[serde(default)]
    pub capabilities: Vec<Sourced>,
    /// Extended resource for the NIC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource: Option<ResourceNeed>,
    /// Size of `/dev/shm` by engine.
    #[serde(default)]
    pub shared_memory: BTreeMap<Engine, Sourced>,
    /// Prefill and decode of one deployment go to different nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub roles_apart: Option<RolesApart>,
}

/// Prefill and decode of one deployment go to different places.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RolesApart {
    /// Label of the nodes whose values must differ.
    pub topology_key: String,
    /// Where it comes from.
    pub source: String,
}

/// A value with its source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Sourced {
    /// The value.
    pub value: String,
    /// Where it comes from.
    pub source: String,
}

/// Which extended resource, and how many.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ResourceNeed {
    /// Which family of names: the name itself is the one that the candidate nodes offer.
    pub family: ResourceFamily,
    /// How many.
    pub count: ResourceCount,
    /// Where it comes from.
    pub source: String,
}

/// Family of extended resources.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ResourceFamily {
    /// `rdma/*`, and the RDMA resources of NVIDIA's operators.
    Rdma,
    /// `vpc.amazonaws.com/efa`.
    Efa,
}

impl ResourceFamily {
    /// Whether `name` belongs to it.
    ///
    /// Names from the device plugins' documentation: k8s-rdma-shared-dev-plugin (`rdma/*`), the network operator's host-device and
    /// SR-IOV examples (`nvidia.com/hostdev`, `nvidia.com/mlnxnics`, `nvidia.com/*rdma*`…), aws-efa-k8s-device-plugin.
    pub fn has(self, name: &str) -> bool {
        match self {
            Self::Efa => name == k8s::EFA_RESOURCE,
            Self::Rdma => {
                name.starts_with("rdma/")
                    || name.split_once('/').is_some_and(|(domain, rest)| {
                        domain == "nvidia.com"
                            && ["rdma", "hostdev", "mlnxnics", "roce", "hca", "ib"]
                                .iter()
                                .any(|part| rest.contains(part))
                            && !rest.starts_with("gpu")
                            && !rest.starts_with("mig-")
                    })
            }
        }
    }
}

/// How many of a resource a container gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ResourceCount {
    /// As many as GPUs (the tensor-parallel size), at most what a node gives.
    Gpus,
    /// By the node's ratio of this resource to GPUs.
    NodeRatio,
}

/// A setting of the user's that is fatal on this class of node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Fatal {
    /// Variable.
    pub name: String,
    /// Values.
    pub values: Vec<String>,
    /// What happens.
    pub why: String,
    /// Where it comes from.
    pub source: String,
}

/// Something that a person has to set, because it is no variable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Advice {
    /// For this engine.
    pub engine: Engine,
    /// Not for a command line that has this word already.
    pub unless: String,
    /// What to set, at most 150 characters.
    pub text: String,
    /// Where it comes from.
    pub source: String,
}

/// What a profile should deliver.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Expect {
    /// UCX transports of which one must carry the data.
    pub transports: Vec<String>,
    /// Floor and usual top of the bandwidth of one port in GB/s, by the kind of port.
    #[serde(default)]
    pub bandwidth: Vec<Bandwidth>,
    /// What KV transfer adds to the time to first token.
    pub ttft_overhead: Sourced,
}

/// Expected bandwidth of one port.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Bandwidth {
    /// Kind of port, in the guide's words.
    pub port: String,
    /// Lower end in GB/s.
    pub min: f64,
    /// Upper end in GB/s.
    pub max: f64,
    /// Where it comes from.
    pub source: String,
}

/// Why a profile was refused.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// Not YAML of this schema. The cause names line, column and field.
    #[error("profile {file}: {cause}")]
    Syntax {
        /// File or object.
        file: String,
        /// Line, column and field.
        cause: String,
    },
    /// The schema holds and the content does not make sense.
    #[error("profile {file}: {field}: {why}")]
    Invalid {
        /// File or object.
        file: String,
        /// Field.
        field: String,
        /// What is wrong and what is right.
        why: String,
    },
}

impl TransportProfile {
    /// Reads one profile.
    ///
    /// # Errors
    /// An unknown field or a wrong type, with its line; or content that makes no sense, with its field.
    pub fn parse(file: &str, yaml: &str) -> Result<Self, ProfileError> {
        let profile: Self = serde_saphyr::from_str(yaml)
            .map_err(|error| ProfileError::Syntax { file: file.into(), cause: error.to_string() })?;
        profile.check(file)?;
        Ok(profile)
    }

    /// Whether its content makes sense.
    ///
    /// # Errors
    /// The first thing that does not, with its field.
    pub fn check(&self, file: &str) -> Result<(), ProfileError> {
        let invalid = |field: &str, why: &str| {
            Err(ProfileError::Invalid { file: file.into(), field: field.into(), why: why.into() })
        };
        if self.api_version != format!("{DOMAIN}/v1alpha1") || self.kind != "TransportProfile" {
            return invalid("apiVersion/kind", "must be railbind.dev/v1alpha1 TransportProfile");
        }
        if crate::verdict::label_value(&self.metadata.name) != self.metadata.name || self.metadata.name.is_empty() {
            return invalid("metadata.name", "must be a label value: at most 63 of [A-Za-z0-9._-]");
        }
        for (index, line) in self.spec.env.iter().enumerate() {
            let field = format!("spec.env[{index}]");
            if !is_env_name(&line.name) {
                return invalid(&field, "name must be [A-Z_][A-Z0-9_]*");
            }
            match (&line.value, line.from, &line.default) {
                (Some(_), None, None) | (None, Some(_), Some(_)) => {}
                _ => {
                    return invalid(&field, "give either `value`, or `from` together with `default`");
                }
            }
        }
        for (index, advice) in self.spec.advice.iter().enumerate() {
            if advice.text.chars().count() > 150 {
                return invalid(&format!("spec.advice[{index}].text"), "must be shorter: a warning has 200 characters");
            }
        }
        if self.spec.set == AUTO || self.spec.set.is_empty() {
            return invalid("spec.set", "must be a name, and `auto` is none");
        }
        if self.spec.when.fabric.is_empty() {
            return invalid("spec.when.fabric", "name at least one fabric");
        }
        Ok(())
    }

    fn matches(&self, class: &NodeClass) -> Result<(), String> {
        let when = &self.spec.when;
        if !when.fabric.contains(&class.fabric) {
            return Err(format!("fabric is {}", class.fabric.as_str()));
        }
        if class.soft && !when.soft {
            return Err("only software RDMA, which it does not allow".into());
        }
        match (when.gpu_direct, class.gpu_direct) {
            (Some(true), false) => return Err("no GPUDirect".into()),
            (Some(false), true) => return Err("GPUDirect is there".into()),
            _ => {}
        }
        match (when.kernel, class.kernel) {
            (Some(_), None) => return Err("kernel unknown".into()),
            (Some(range), Some(kernel)) if !range.contains(kernel) => {
                return Err(format!("kernel is {kernel}"));
            }
            _ => {}
        }
        if !when.drivers.is_empty() && !class.drivers.iter().all(|driver| when.drivers.contains(driver)) {
            return Err(format!("drivers are {}", class.drivers.join(" ")));
        }
        Ok(())
    }
}

/// `[A-Z_][A-Z0-9_]*`: what UCX, NCCL and libfabric variables look like.
pub fn is_env_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 63
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
}
