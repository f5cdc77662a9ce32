//! What a node's self-tests say so far: what `NodeFabric` shows of it, which is also all that an agent has to remember.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Integrity, Op};

/// Partners remembered.
pub const PARTNERS_KEPT: usize = 16;

/// How good one transfer was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Grade {
    /// As it should be.
    Passed,
    /// Every byte over the right path, and not as fast as it should be.
    Slow,
    /// Not to be used.
    Failed,
}

impl Grade {
    /// As it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Slow => "slow",
            Self::Failed => "failed",
        }
    }
}

/// What is said of a node: the values of the label `railbind.dev/selftest`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    /// Nothing was moved yet, or not enough to say.
    #[default]
    Untested,
    /// Good.
    Passed,
    /// Works, and is slower than it should be.
    Slow,
    /// Does not work as promised with partners that are good.
    Failed,
}

impl Standing {
    /// The label's value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Untested => "untested",
            Self::Passed => "passed",
            Self::Slow => "slow",
            Self::Failed => "failed",
        }
    }

    /// What a label says; one that is absent, or says anything else, says nothing.
    pub fn of_label(value: Option<&str>) -> Self {
        match value {
            Some("passed") => Self::Passed,
            Some("slow") => Self::Slow,
            Some("failed") => Self::Failed,
            _ => Self::Untested,
        }
    }

    /// Whether a failure with a node of this standing says something about the other one.
    pub const fn is_good(self) -> bool {
        matches!(self, Self::Passed | Self::Slow)
    }
}

/// Whom a result speaks of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Against {
    /// Both, until other partners tell them apart.
    #[default]
    Pair,
    /// This node, whoever the partner is: no UCX here, no such transport here, no memory here.
    Own,
    /// The partner, or nobody: it went away, or is another version. Nothing can be said of this node.
    Nobody,
}

/// The self-test's part of a `NodeFabric`'s status.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct SelftestStatus {
    /// passed, slow, failed or untested.
    pub verdict: Standing,
    /// Stable CamelCase code of why.
    pub code: String,
    /// Since when the verdict is this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub since: Option<Timestamp>,
    /// Why, one sentence each.
    pub reasons: Vec<String>,
    /// What to do next; empty where there is nothing.
    pub remedy: String,
    /// Bandwidth of the last good transfer, for people: 47.1 GB/s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<String>,
    /// The last transfer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last: Option<TransferStatus>,
    /// The fastest of the partners remembered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub best: Option<Extreme>,
    /// The slowest of them, or one that failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worst: Option<Extreme>,
    /// Partners, the latest first; at most 16.
    pub partners: Vec<PartnerStatus>,
    /// Partners that failed with this node only once or alone, while others are good with it.
    pub suspect_pairs: Vec<String>,
    /// Profiles tried.
    pub profiles: Vec<ProfileTried>,
    /// The set whose profile was the fastest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fastest_set: Option<String>,
    /// The run of tests in progress, or the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sweep: Option<Sweep>,
    /// Value of the annotation `railbind.dev/selftest-requested` that was answered last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requested: Option<String>,
    /// Fingerprint of the facts that the results are of: results of another fabric say nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub facts: Option<String>,
}

/// One transfer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TransferStatus {
    /// Node at the other end; this node's own name for a loopback through the NIC.
    pub partner: String,
    /// When it ended.
    #[schemars(with = "String")]
    pub at: Timestamp,
    /// How good it was.
    pub verdict: Grade,
    /// Stable CamelCase code.
    pub code: String,
    /// Profile whose environment it ran under.
    pub profile: String,
    /// What was measured: put, get or tag.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub op: Option<Op>,
    /// Bytes of one operation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// 10⁹ bytes a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gbytes_per_s: Option<f64>,
    /// Latency of 8 bytes in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usec: Option<f64>,
    /// Transport and device that UCX used: `rc_mlx5/mlx5_0:1`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transport: Option<String>,
    /// Memory here: host or cuda:0.
    pub local_memory: String,
    /// Memory there.
    pub remote_memory: String,
    /// Why memory here was the host's, one sentence; absent where it was a GPU's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_memory_reason: Option<String>,
    /// Whether every byte arrived.
    pub integrity: Integrity,
    /// UCX here.
    pub ucx: String,
    /// UCX there.
    pub peer_ucx: String,
    /// What happened, one sentence.
    pub message: String,
}

/// A partner at one end of the scale.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Extreme {
    /// Its name.
    pub partner: String,
    /// How good it was.
    pub verdict: Grade,
    /// 10⁹ bytes a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gbytes_per_s: Option<f64>,
}

/// The last that was seen with one partner.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PartnerStatus {
    /// Its name; this node's own for a loopback.
    pub name: String,
    /// When.
    #[schemars(with = "String")]
    pub at: Timestamp,
    /// How good the last transfer with it was.
    pub verdict: Grade,
    /// How many in a row were as good.
    pub streak: u32,
    /// Stable CamelCase code.
    pub code: String,
    /// Whom it speaks of.
    #[serde(default)]
    pub against: Against,
    /// Port of this node that carried it: `mlx5_0:1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<String>,
    /// 10⁹ bytes a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gbytes_per_s: Option<f64>,
}

/// One profile and how it did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProfileTried {
    /// Its name.
    pub name: String,
    /// Its set.
    pub set: String,
    /// Whether it does what it promises.
    pub qualified: bool,
    /// 10⁹ bytes a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gbytes_per_s: Option<f64>,
    /// Why, one sentence.
    pub why: String,
}

/// A run of tests: it ends when enough is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Sweep {
    /// Since when; only results after it count.
    #[schemars(with = "String")]
    pub since: Timestamp,
    /// Why it was made.
    pub trigger: Trigger,
    /// Transfers that it has had.
    pub tests: u32,
    /// When it was over; absent while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub ended: Option<Timestamp>,
}

/// Why a node is tested.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Trigger {
    /// It was never tested, or its facts are others than they were.
    Facts,
    /// Somebody asked for it.
    Requested,
    /// It is time again.
    Period,
    /// It failed, and may be well again.
    Recovery,
    /// A partner that tested it saw a failure.
    Suspicion,
}
