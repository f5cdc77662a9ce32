//! One transfer between two processes: the order for it, what both sides say while it runs, and the report.
//!
//! A transfer is made by one child process on each side. A child is told its [`Order`] and what the other child says, and says
//! what the other must hear; whoever started it (a session between agents, `railbind-agent bench`) only carries that across.

use std::{collections::BTreeMap, fmt, str::FromStr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where a side's buffer lies: `host`, or `cuda:0` for the memory of a GPU by CUDA's ordinal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Memory {
    /// Page-aligned memory of the process.
    Host,
    /// Memory of this GPU.
    Cuda(u32),
}

/// Not a kind of memory.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no memory: give `host`, or `cuda:` and the number of a GPU")]
pub struct ParseMemoryError(pub String);

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => f.write_str("host"),
            Self::Cuda(gpu) => write!(f, "cuda:{gpu}"),
        }
    }
}

impl FromStr for Memory {
    type Err = ParseMemoryError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match (text, text.strip_prefix("cuda:").and_then(|gpu| gpu.parse().ok())) {
            ("host", _) => Ok(Self::Host),
            ("cuda", _) => Ok(Self::Cuda(0)),
            (_, Some(gpu)) => Ok(Self::Cuda(gpu)),
            _ => Err(ParseMemoryError(text.into())),
        }
    }
}

impl Serialize for Memory {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Memory {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Op {
    /// RMA write: what NIXL's WRITE is.
    Put,
    /// RMA read: what NIXL's READ is, and KV transfer by default.
    Get,
    /// Tagged messages, one way: what `ucx_perftest -t tag_bw` measures, and what `UCX_RNDV_*` steers.
    Tag,
    /// Tagged messages there and back; half of the round trip is the latency.
    Latency,
}

/// Which end of a transfer a child is. The initiator posts the operations and measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Posts and measures.
    Initiator,
    /// Lends its memory, and answers.
    Target,
}

/// Bounds of one transfer.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Limits {
    /// Seconds for everything; the child is killed after them.
    pub deadline_seconds: f64,
    /// Seconds of traffic for each size of each operation.
    pub seconds_each: f64,
    /// Seconds without a completion after which the transfer counts as stalled.
    pub stall_seconds: f64,
    /// Bytes of buffers on each side, at most.
    pub buffer_bytes: u64,
    /// Share of the time in which the link may be busy, 0–1: between two batches the child rests.
    pub share: f64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { deadline_seconds: 60.0, seconds_each: 1.0, stall_seconds: 10.0, buffer_bytes: 256 << 20, share: 1.0 }
    }
}

/// What a child is to do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Order {
    /// Which end it is.
    pub role: Role,
    /// 32 hexadecimal digits, the same on both ends and never used twice: it seeds the pattern and is part of every tag.
    pub secret: String,
    /// Where this side's buffer lies.
    pub memory: Memory,
    /// What to measure, in this order.
    pub ops: Vec<Op>,
    /// Sizes in bytes, for every operation but [`Op::Latency`], which takes 8.
    pub sizes: Vec<u64>,
    /// Environment that UCX runs under: exactly what a pod would get. Variables of UCX that are not in it are unset.
    pub env: BTreeMap<String, String>,
    /// Bounds.
    pub limits: Limits,
}

/// What a child is told, a JSON object a line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Told {
    /// First: what to do.
    Order(Box<Order>),
    /// What the other child said, as it said it.
    FromPeer(String),
}

/// What a child says, a JSON object a line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Said {
    /// For the other child; opaque to whoever carries it, at most 64 KiB.
    ToPeer(String),
    /// What it does now, for people: step, of how many, and its name.
    Progress {
        /// From 1.
        step: u32,
        /// How many there are.
        of: u32,
        /// `put 1 MiB`.
        doing: String,
    },
    /// Last: how it went. Both ends make one; the initiator's has the figures.
    Report(Box<Report>),
}

/// Whether every byte arrived as it was sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Integrity {
    /// It did, for every operation and size.
    Ok,
    /// It did not.
    Corrupt,
    /// The transfer ended before that was known.
    #[default]
    Unchecked,
}

/// Memory of both sides, seen from the one that reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryPair {
    /// This side's.
    pub local: Memory,
    /// The other's.
    pub remote: Memory,
}

/// One figure.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Measurement {
    /// Bytes of one operation.
    pub bytes: u64,
    /// Operation.
    pub op: Op,
    /// 10⁹ bytes a second; 0 for latency.
    pub gbytes_per_s: f64,
    /// Microseconds of one operation: the median for latency, the mean over the window for bandwidth.
    pub usec: f64,
    /// The mean of latency in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usec_mean: Option<f64>,
    /// The 99th percentile of latency in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usec_p99: Option<f64>,
    /// Operations measured.
    pub iterations: u64,
    /// Transport and device that UCX says it used for this one: `rc_mlx5/mlx5_0:1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transport: Option<String>,
    /// UCX's own words for the protocol: `zero-copy read from remote`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
}

/// What a port's counter moved by while the transfer ran.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Counter {
    /// `mlx5_0:1`, or an interface.
    pub port: String,
    /// Name of the kernel's counter.
    pub name: String,
    /// Difference; bytes for `*_data` (already times 4) and `*_bytes`.
    pub delta: u64,
}

/// The UCX that did it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct UcxUsed {
    /// Its version.
    pub version: String,
    /// File of libucp.
    pub library: String,
    /// The other side's version.
    pub peer_version: String,
    /// `UCX_*` that were in force and differ from the defaults.
    pub config: BTreeMap<String, String>,
}

/// How a transfer went.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Transport and device that carried the bulk of the data; `None` where nothing says so.
    pub transport: Option<String>,
    /// All lanes of the endpoint.
    pub lanes: Vec<String>,
    /// What says which transport it was, a sentence each: UCX's endpoint, its request, the counters.
    pub evidence: Vec<String>,
    /// Memory on both sides.
    pub memory: MemoryPair,
    /// Whether every byte arrived.
    pub integrity: Integrity,
    /// The figures.
    pub sizes: Vec<Measurement>,
    /// Counters of ports that moved.
    pub counters: Vec<Counter>,
    /// UCX.
    pub ucx: UcxUsed,
    /// Seconds it took, start of the child included.
    pub seconds: f64,
    /// Why it did not do all that it was ordered to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
}

/// Why a transfer failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    /// For programs.
    pub kind: FailureKind,
    /// What happened, in one sentence, with UCX's own words.
    pub message: String,
    /// What to do next.
    pub remedy: String,
}

/// Kinds of failure. Which side is to blame is not among them: that takes two partners.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum FailureKind {
    /// No UCX here, or one that cannot be used.
    NoUcx,
    /// The transports of the environment are not there.
    NoTransport,
    /// The other side cannot be reached over them.
    Unreachable,
    /// The connection broke.
    Broken,
    /// Nothing moved for the stall time.
    Stalled,
    /// The deadline was over.
    Deadline,
    /// Bytes differ.
    Corrupt,
    /// Memory could not be had, locked or registered.
    Memory,
    /// The other side went away, or says that it failed.
    Peer,
    /// The child died of a signal.
    Crashed,
    /// The two sides do not understand each other.
    Protocol,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_as_it_is_written() {
        for memory in [Memory::Host, Memory::Cuda(0), Memory::Cuda(7)] {
            assert_eq!(memory.to_string().parse(), Ok(memory));
        }
        assert_eq!("cuda".parse(), Ok(Memory::Cuda(0)));
        assert_eq!("cuda:x".parse::<Memory>(), Err(ParseMemoryError("cuda:x".into())));
    }
}
