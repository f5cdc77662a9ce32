//! Refusals: each is counted by its reason, and logged at most once a minute for each.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use prometheus_client::metrics::{counter::Counter, family::Family};
use serde::{Deserialize, Serialize};

/// How often a reason is logged: whoever can connect could fill the disk otherwise.
const LOGGED: Duration = Duration::from_mins(1);

/// Why a caller is not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// More callers than are listened to at once had not said who they are.
    Crowded,
    /// No TLS, another version of it, or no certificate.
    Handshake,
    /// Nothing came in time.
    Silent,
    /// What came is not a message, or not this one now.
    Garbled,
    /// Another version of the protocol.
    Version,
    /// It wants another node.
    NotMe,
    /// No `NodeFabric` says a certificate for the node that it claims to be.
    UnknownNode,
    /// Its certificate is not that node's.
    Certificate,
    /// The nonce is not this connection's: a recorded message.
    Nonce,
    /// The secret is none, or was used before.
    Secret,
    /// A session is going on.
    Busy,
    /// The terms make no sense here.
    Terms,
    /// This node does not test now: its GPUs compute, or its self-test is off.
    NotNow,
}

impl Reason {
    /// As it is written in metrics and messages.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Crowded => "crowded",
            Self::Handshake => "handshake",
            Self::Silent => "silent",
            Self::Garbled => "garbled",
            Self::Version => "version",
            Self::NotMe => "not-me",
            Self::UnknownNode => "unknown-node",
            Self::Certificate => "certificate",
            Self::Nonce => "nonce",
            Self::Secret => "secret",
            Self::Busy => "busy",
            Self::Terms => "terms",
            Self::NotNow => "not-now",
        }
    }
}

/// Counts them. Clones share the count.
#[derive(Debug, Clone, Default)]
pub struct Refusals {
    counted: Family<[(&'static str, &'static str); 1], Counter>,
    logged: Arc<Mutex<BTreeMap<Reason, (Instant, u64)>>>,
}

impl Refusals {
    /// The metric.
    pub fn metric(&self) -> Family<[(&'static str, &'static str); 1], Counter> {
        self.counted.clone()
    }

    /// How many there were for this reason.
    pub fn count(&self, reason: Reason) -> u64 {
        self.counted.get_or_create(&[("reason", reason.as_str())]).get()
    }

    /// Counts one, and logs it if the last of its kind is long enough ago.
    pub(super) fn add(&self, reason: Reason, from: &str, why: &str) {
        self.counted.get_or_create(&[("reason", reason.as_str())]).inc();
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = logged.entry(reason);
        let (last, quiet) = match &entry {
            std::collections::btree_map::Entry::Vacant(_) => (None, 0),
            std::collections::btree_map::Entry::Occupied(found) => (Some(found.get().0), found.get().1),
        };
        if last.is_some_and(|last| last.elapsed() < LOGGED) {
            entry.and_modify(|(_, quiet)| *quiet += 1);
            return;
        }
        entry.insert_entry((Instant::now(), 0));
        // Who connects chooses what it says: no control characters and no end of it in a log.
        let why: String = why.chars().filter(|c| !c.is_control()).take(300).collect();
        tracing::warn!(reason = reason.as_str(), from, why, not_logged = quiet, "self-test call refused");
    }
}
