//! What the webhook counts. Names as Prometheus shows them; the encoder itself appends `_total` to counters.

use std::time::{Duration, SystemTime};

use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

/// Names.
pub mod metric {
    /// Reviews, by hook and outcome.
    pub const REQUESTS: &str = "railbind_webhook_requests_total";
    /// Time from the head of a request to its answer, by hook.
    pub const REQUEST_DURATION: &str = "railbind_webhook_request_duration_seconds";
    /// Patches that we would not have sent: the API server would have refused the pod, or they reach too far.
    pub const SELFCHECK_FAILED: &str = "railbind_webhook_patch_selfcheck_failed_total";
    /// Panics while deciding.
    pub const PANICS: &str = "railbind_webhook_panics_total";
    /// Nodes known.
    pub const NODE_MAP_NODES: &str = "railbind_webhook_node_map_nodes";
    /// Workers known.
    pub const WORKERS: &str = "railbind_webhook_workers";
    /// Objects with the values of nodes, for the binding policy; on the leader.
    pub const BINDING_SHARDS: &str = "railbind_webhook_binding_shards";
    /// Living workers, by what is wrong with them: `unpatched` or `without_node_values`; on the leader.
    pub const AUDIT: &str = "railbind_webhook_audit_workers";
    /// Transport profiles of the cluster's own, by state: `good` ones are in force, `wrong` ones are not.
    pub const PROFILES: &str = "railbind_webhook_transport_profiles";
    /// When something was last heard of any node, as Unix time.
    pub const NODE_MAP_TIMESTAMP: &str = "railbind_webhook_node_map_timestamp_seconds";
    /// When the serving certificate ends, as Unix time.
    pub const CERT_EXPIRY: &str = "railbind_webhook_cert_expiry_seconds";
    /// When the CA that signs it ends, as Unix time; it is replaced when a third of its life is left.
    pub const CA_EXPIRY: &str = "railbind_webhook_ca_expiry_seconds";
    /// 1 while files are not what is in use, because they are no good, by which: `serving` (`--tls-cert-dir`) or `clients`
    /// (`--client-ca`).
    pub const FILES_BAD: &str = "railbind_webhook_certificate_files_bad";
    /// Connections that ended before a review could be sent: no certificate that `--client-ca` vouches for, or no TLS.
    pub const HANDSHAKES_FAILED: &str = "railbind_webhook_handshakes_failed_total";
    /// 1 while the MutatingWebhookConfiguration is as we want it.
    pub const REGISTERED: &str = "railbind_webhook_registered";
}

/// Buckets of durations: a decision takes tens of microseconds, the API server waits for seconds.
const BUCKETS: [f64; 15] =
    [0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 3.0];

/// Which hook was called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// A pod is created.
    Pods,
    /// A pod is bound.
    Bindings,
}

impl Hook {
    /// The label value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pods => "pods",
            Self::Bindings => "bindings",
        }
    }
}

/// Which files somebody else makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Files {
    /// The certificate that is served with.
    Serving,
    /// The CA of those who may call.
    Clients,
}

impl Files {
    /// The label value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Serving => "serving",
            Self::Clients => "clients",
        }
    }
}

/// How a review ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Admitted with a patch.
    Patched,
    /// Admitted; ours, and nothing had to change.
    Unchanged,
    /// Admitted; none of our business.
    Skipped,
    /// Refused, because its owner or its namespace asked for it.
    Denied,
    /// Admitted as it is: the cluster's nodes or this namespace are not known yet.
    NotReady,
    /// Admitted as it is: a part of it is not what the API would accept.
    Odd,
    /// Admitted as it is: our own check refused our patch.
    SelfCheckFailed,
    /// Admitted as it is: deciding panicked.
    Panicked,
    /// 400: not a review.
    Malformed,
    /// 413: the body is too large.
    TooLarge,
    /// 408: the body did not come within the API server's time-out.
    TimedOut,
}

impl Outcome {
    const ALL: [Self; 11] = [
        Self::Patched,
        Self::Unchanged,
        Self::Skipped,
        Self::Denied,
        Self::NotReady,
        Self::Odd,
        Self::SelfCheckFailed,
        Self::Panicked,
        Self::Malformed,
        Self::TooLarge,
        Self::TimedOut,
    ];

    /// The label value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Patched => "patched",
            Self::Unchanged => "unchanged",
            Self::Skipped => "skipped",
            Self::Denied => "denied",
            Self::NotReady => "not_ready",
            Self::Odd => "odd",
            Self::SelfCheckFailed => "selfcheck_failed",
            Self::Panicked => "panicked",
            Self::Malformed => "malformed",
            Self::TooLarge => "too_large",
            Self::TimedOut => "timed_out",
        }
    }
}

type Labels<const N: usize> = [(&'static str, &'static str); N];

/// The webhook's metrics. Clones count together.
#[derive(Debug, Clone)]
pub struct Metrics {
    requests: Family<Labels<2>, Counter>,
    durations: Family<Labels<1>, Histogram, fn() -> Histogram>,
    selfcheck_failed: Family<Labels<1>, Counter>,
    panics: Family<Labels<1>, Counter>,
    nodes: Gauge,
    nodes_heard: Gauge,
    workers: Gauge,
    profiles: Family<Labels<1>, Gauge>,
    binding_shards: Gauge,
    audit: Family<Labels<1>, Gauge>,
    cert_expiry: Gauge,
    ca_expiry: Gauge,
    files_bad: Family<Labels<1>, Gauge>,
    handshakes_failed: Counter,
    registered: Gauge,
}

impl Metrics {
    /// Registers them; every series of the hooks is there from the start, at zero.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            requests: Family::default(),
            durations: Family::new_with_constructor(|| Histogram::new(BUCKETS)),
            selfcheck_failed: Family::default(),
            panics: Family::default(),
            nodes: Gauge::default(),
            nodes_heard: Gauge::default(),
            workers: Gauge::default(),
            profiles: Family::default(),
            binding_shards: Gauge::default(),
            audit: Family::default(),
            cert_expiry: Gauge::default(),
            ca_expiry: Gauge::default(),
            files_bad: Family::default(),
            handshakes_failed: Counter::default(),
            registered: Gauge::default(),
        };
        for hook in [Hook::Pods, Hook::Bindings] {
            for outcome in Outcome::ALL {
                metrics.requests(hook, outcome);
            }
            drop(metrics.durations.get_or_create(&[("hook", hook.as_str())]));
            drop(metrics.selfcheck_failed.get_or_create(&[("hook", hook.as_str())]));
            drop(metrics.panics.get_or_create(&[("hook", hook.as_str())]));
        }
        for files in [Files::Serving, Files::Clients] {
            metrics.files_bad(files, false);
        }
        let total = |name: &'static str| name.trim_end_matches("_total");
        registry.register(total(metric::REQUESTS), "Reviews by hook and outcome", metrics.requests.clone());
        registry.register(metric::REQUEST_DURATION, "Time from request to answer", metrics.durations.clone());
        registry.register(
            total(metric::SELFCHECK_FAILED),
            "Patches that our own check refused",
            metrics.selfcheck_failed.clone(),
        );
        registry.register(total(metric::PANICS), "Panics while deciding", metrics.panics.clone());
        registry.register(metric::NODE_MAP_NODES, "Nodes known", metrics.nodes.clone());
        registry.register(
            metric::PROFILES,
            "Transport profiles of the cluster's own, by state",
            metrics.profiles.clone(),
        );
        registry.register(metric::BINDING_SHARDS, "Parameters of the binding policy", metrics.binding_shards.clone());
        registry.register(metric::AUDIT, "Living workers by what is wrong with them", metrics.audit.clone());
        registry.register(metric::WORKERS, "Living workers known", metrics.workers.clone());
        registry.register(
            metric::NODE_MAP_TIMESTAMP,
            "Unix time of the last news of a node",
            metrics.nodes_heard.clone(),
        );
        registry.register(
            metric::CERT_EXPIRY,
            "Unix time at which the serving certificate ends",
            metrics.cert_expiry.clone(),
        );
        registry.register(metric::CA_EXPIRY, "Unix time at which the CA ends", metrics.ca_expiry.clone());
        registry.register(
            metric::FILES_BAD,
            "Whether the files of a certificate are no good, and the last good ones are in use",
            metrics.files_bad.clone(),
        );
        registry.register(
            total(metric::HANDSHAKES_FAILED),
            "Connections that ended in the TLS handshake",
            metrics.handshakes_failed.clone(),
        );
        registry.register(
            metric::REGISTERED,
            "Whether the webhook configuration is as wanted",
            metrics.registered.clone(),
        );
        metrics
    }

    /// The counter of reviews that ended so.
    pub fn requests(&self, hook: Hook, outcome: Outcome) -> Counter {
        self.requests.get_or_create(&[("hook", hook.as_str()), ("outcome", outcome.as_str())]).clone()
    }

    /// Counts a review.
    pub fn answered(&self, hook: Hook, outcome: Outcome, took: Duration) {
        self.requests(hook, outcome).inc();
        self.durations.get_or_create(&[("hook", hook.as_str())]).observe(took.as_secs_f64());
        match outcome {
            Outcome::SelfCheckFailed => {
                self.selfcheck_failed.get_or_create(&[("hook", hook.as_str())]).inc();
            }
            Outcome::Panicked => {
                self.panics.get_or_create(&[("hook", hook.as_str())]).inc();
            }
            Outcome::Patched
            | Outcome::Unchanged
            | Outcome::Skipped
            | Outcome::Denied
            | Outcome::NotReady
            | Outcome::Odd
            | Outcome::Malformed
            | Outcome::TooLarge
            | Outcome::TimedOut => {}
        }
    }

    /// News of the nodes: there are this many.
    pub fn nodes(&self, count: usize, now: SystemTime) {
        self.nodes.set(i64::try_from(count).unwrap_or(i64::MAX));
        self.nodes_heard.set(unix(now));
    }

    /// The cluster has this many profiles of its own that make sense, and this many that do not.
    pub fn profiles(&self, good: usize, wrong: usize) {
        for (state, count) in [("good", good), ("wrong", wrong)] {
            self.profiles.get_or_create(&[("state", state)]).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    /// The binding policy has this many parameters.
    pub fn binding_shards(&self, count: usize) {
        self.binding_shards.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// So many living workers were admitted unpatched, and so many run without their node's values.
    pub fn audit(&self, unpatched: usize, without_values: usize) {
        for (problem, count) in [("unpatched", unpatched), ("without_node_values", without_values)] {
            self.audit.get_or_create(&[("problem", problem)]).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    /// There are this many workers.
    pub fn workers(&self, count: usize) {
        self.workers.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// The serving certificate ends then.
    pub fn certificate(&self, not_after: SystemTime) {
        self.cert_expiry.set(unix(not_after));
    }

    /// The CA that signs it ends then.
    pub fn authority(&self, not_after: SystemTime) {
        self.ca_expiry.set(unix(not_after));
    }

    /// Whether these files are no good.
    pub fn files_bad(&self, files: Files, yes: bool) {
        self.files_bad.get_or_create(&[("files", files.as_str())]).set(i64::from(yes));
    }

    /// A connection ended in the handshake.
    pub fn handshake_failed(&self) {
        self.handshakes_failed.inc();
    }

    /// Whether the webhook configuration is as wanted.
    pub fn registered(&self, yes: bool) {
        self.registered.set(i64::from(yes));
    }
}

fn unix(time: SystemTime) -> i64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;

    use super::{Duration, Hook, Metrics, Outcome, Registry, SystemTime};

    #[test]
    fn names_and_values() {
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        metrics.answered(Hook::Pods, Outcome::SelfCheckFailed, Duration::from_micros(70));
        metrics.nodes(3, SystemTime::UNIX_EPOCH + Duration::from_secs(7));
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        for line in [
            r#"railbind_webhook_requests_total{hook="pods",outcome="selfcheck_failed"} 1"#,
            r#"railbind_webhook_requests_total{hook="bindings",outcome="patched"} 0"#,
            r#"railbind_webhook_request_duration_seconds_bucket{le="0.00005",hook="pods"} 0"#,
            r#"railbind_webhook_request_duration_seconds_bucket{le="0.0001",hook="pods"} 1"#,
            r#"railbind_webhook_patch_selfcheck_failed_total{hook="pods"} 1"#,
            r#"railbind_webhook_panics_total{hook="bindings"} 0"#,
            "railbind_webhook_node_map_nodes 3",
            "railbind_webhook_node_map_timestamp_seconds 7",
            "railbind_webhook_cert_expiry_seconds 0",
            "railbind_webhook_ca_expiry_seconds 0",
            r#"railbind_webhook_certificate_files_bad{files="serving"} 0"#,
            r#"railbind_webhook_certificate_files_bad{files="clients"} 0"#,
            "railbind_webhook_handshakes_failed_total 0",
            "railbind_webhook_registered 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in:\n{text}");
        }
    }
}
