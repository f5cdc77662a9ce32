//! What Prometheus reads of the self-test.

use std::sync::atomic::AtomicU64;

use policies::selftest::{Grade, SelftestStatus, Standing, TransferStatus};
use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use super::session::Refusals;

type Words<const N: usize> = [(&'static str, &'static str); N];
type Texts<const N: usize> = [(&'static str, String); N];
type Figure = Gauge<f64, AtomicU64>;

/// The self-test's metrics; names begin with `railbind_selftest_`.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    /// Calls of others that were refused.
    pub refusals: Refusals,
    verdict: Family<Words<1>, Gauge>,
    transfers: Family<Words<2>, Counter>,
    calls: Family<Words<1>, Counter>,
    bandwidth: Family<Texts<4>, Figure>,
    latency: Family<Texts<4>, Figure>,
    members: Gauge,
    gpus_busy: Gauge,
    shut_out: Gauge,
    profiles: Family<Texts<2>, Gauge>,
}

impl Metrics {
    /// Adds them to a registry.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("railbind_selftest");
        registry.register(
            "refused",
            "Calls of other agents, or of strangers, that were refused, by reason",
            self.refusals.metric(),
        );
        registry.register("verdict", "1 for the verdict in force, 0 for the others", self.verdict.clone());
        registry.register(
            "transfers",
            "Transfers that took place, by this node's role and how good they were",
            self.transfers.clone(),
        );
        registry.register("calls", "Calls of this node by what came of them", self.calls.clone());
        registry.register(
            "bandwidth_gbytes_per_second",
            "Bandwidth of the last transfer in 10^9 bytes a second, by partner, profile, transport and verdict",
            self.bandwidth.clone(),
        );
        registry.register(
            "latency_microseconds",
            "Latency of 8 bytes in the last transfer, by the same",
            self.latency.clone(),
        );
        registry.register(
            "members",
            "Nodes of the fabric domain when it was last looked at, this one included",
            self.members.clone(),
        );
        registry.register(
            "gpus_busy",
            "1 where somebody computed on the node's GPUs when a session would have begun: it is put off",
            self.gpus_busy.clone(),
        );
        registry.register(
            "shut_out",
            "1 where the agent's container cannot open the devices, or lock the memory, that a test needs: nothing is tested",
            self.shut_out.clone(),
        );
        registry.register(
            "profile_qualified",
            "Whether a profile did what it promises, by profile and set",
            self.profiles.clone(),
        );
    }

    /// A transfer took place.
    pub fn transferred(&self, role: &'static str, result: &TransferStatus) {
        self.transfers.get_or_create(&[("role", role), ("verdict", result.verdict.as_str())]).inc();
    }

    /// This node called.
    pub fn called(&self, outcome: &'static str) {
        self.calls.get_or_create(&[("outcome", outcome)]).inc();
    }

    /// How many nodes the domain has.
    pub fn members(&self, count: usize) {
        self.members.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Whether somebody computed when it was asked last.
    pub fn gpus(&self, busy: bool) {
        self.gpus_busy.set(i64::from(busy));
    }

    /// Whether the container cannot open or lock what a test needs.
    pub fn shut_out(&self, is: bool) {
        self.shut_out.set(i64::from(is));
    }

    /// Takes over the state.
    pub fn state(&self, status: &SelftestStatus) {
        for standing in [Standing::Untested, Standing::Passed, Standing::Slow, Standing::Failed] {
            let gauge = self.verdict.get_or_create(&[("verdict", standing.as_str())]);
            gauge.set(i64::from(standing == status.verdict));
        }
        // The last partner's series alone: a cluster of thousands would leave thousands behind.
        self.bandwidth.clear();
        self.latency.clear();
        if let Some(last) = &status.last {
            let transport = last.transport.clone().unwrap_or_else(|| "unknown".into());
            let labels = [
                ("partner", last.partner.clone()),
                ("profile", last.profile.clone()),
                ("transport", transport),
                ("verdict", last.verdict.as_str().to_owned()),
            ];
            let figure =
                if last.verdict == Grade::Failed { last.gbytes_per_s.or(Some(0.0)) } else { last.gbytes_per_s };
            if let Some(figure) = figure {
                self.bandwidth.get_or_create(&labels).set(figure);
            }
            if let Some(usec) = last.usec {
                self.latency.get_or_create(&labels).set(usec);
            }
        }
        self.profiles.clear();
        for tried in &status.profiles {
            let labels = [("profile", tried.name.clone()), ("set", tried.set.clone())];
            self.profiles.get_or_create(&labels).set(i64::from(tried.qualified));
        }
    }
}
