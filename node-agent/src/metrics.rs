//! What Prometheus reads from an agent.

use std::time::Duration;

use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};

use crate::survey::Survey;

type Labels<const N: usize> = [(&'static str, String); N];

/// The agent's metrics; names begin with `railbind_agent_`. Clones count together.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    writes: Family<[(&'static str, &'static str); 2], Counter>,
    surveys: Counter,
    seconds: Gauge<f64, std::sync::atomic::AtomicU64>,
    problems: Family<Labels<1>, Gauge>,
    ports: Family<Labels<2>, Gauge>,
    rate: Family<Labels<2>, Gauge<f64, std::sync::atomic::AtomicU64>>,
    profiles: Family<[(&'static str, &'static str); 1], Gauge>,
    profile_lists: Family<[(&'static str, &'static str); 1], Counter>,
}

impl Metrics {
    /// Adds them to a registry.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("railbind_agent");
        registry.register(
            "writes",
            "Answers to \"does the object say it already?\", by object and result",
            self.writes.clone(),
        );
        registry.register("surveys", "Surveys of this node", self.surveys.clone());
        registry.register_with_unit("survey", "How long the last survey took", Unit::Seconds, self.seconds.clone());
        registry.register("problems", "Problems that the last survey found, by code", self.problems.clone());
        registry.register("ports", "RDMA ports, by fabric and role", self.ports.clone());
        registry.register("port_rate_gbps", "Rate of a compute port in Gb/s", self.rate.clone());
        registry.register(
            "transport_profiles",
            "Transport profiles of the cluster's own, by state",
            self.profiles.clone(),
        );
        registry.register(
            "profile_lists",
            "Requests for the cluster's transport profiles, by result",
            self.profile_lists.clone(),
        );
    }

    /// Counts a write: `object` is `node` or `nodefabric`; `result` is `written`, `unchanged`, `failed` or `no-kind`.
    pub fn wrote(&self, object: &'static str, result: &'static str) {
        self.writes.get_or_create(&[("object", object), ("result", result)]).inc();
    }

    /// The cluster has this many profiles of its own that make sense, and this many that do not.
    pub fn profiles(&self, good: usize, wrong: usize) {
        for (state, count) in [("good", good), ("wrong", wrong)] {
            self.profiles.get_or_create(&[("state", state)]).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    /// Counts a request for them: `listed`, `no-kind`, `forbidden` or `failed`.
    pub fn listed_profiles(&self, result: &'static str) {
        self.profile_lists.get_or_create(&[("result", result)]).inc();
    }

    /// Takes over what a survey found.
    pub fn surveyed(&self, survey: &Survey, took: Duration) {
        self.surveys.inc();
        self.seconds.set(took.as_secs_f64());
        // What is gone must not stay at its last value.
        self.problems.clear();
        for problem in &survey.problems {
            self.problems.get_or_create(&[("code", problem.code.clone())]).inc();
        }
        self.ports.clear();
        self.rate.clear();
        for port in &survey.verdict.ports {
            let fabric = port.fabric.map_or("unknown", policies::roles::Fabric::as_str).to_owned();
            self.ports.get_or_create(&[("fabric", fabric), ("role", port.role.word().to_owned())]).inc();
        }
        for port in survey.verdict.compute_ports() {
            let labels = [("device", port.device.clone()), ("port", port.port.to_string())];
            self.rate.get_or_create(&labels).set(port.rate_gbps.unwrap_or_default());
        }
    }
}
