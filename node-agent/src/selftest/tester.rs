//! A node's part in self-tests: what it is, what it knows of its transfers so far, and what of that is to be published.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use k8s_openapi::{api::core::v1::Node, jiff::Timestamp};
use policies::{
    names::label,
    node_fabric::EndpointStatus,
    profile::TransportProfile,
    report::Announcement,
    selftest::{
        Against, Gates, GpuUse, Limits, Memory, Op, Order, Pace, Report, Role, SelftestStatus, Settings, Standing,
        Terms, TransferStatus, View, blame, gpus, own, publish,
        verdict::{self, Expected, Judgement, Trial},
    },
};
use tokio::sync::Notify;

use super::{
    child::Transfer,
    devices::Devices,
    gate::Gate,
    gpus::Gpus,
    members::{Member, Members},
    metrics::Metrics,
    own::Own,
    session::{Identity, PROTOCOL},
};
use crate::{probe::PROGRAM, profiles::InForce, survey::Survey};

/// What is measured: NIXL's two ways to move a cache, the guide's, and the latency.
const OPS: [Op; 4] = [Op::Put, Op::Get, Op::Tag, Op::Latency];

/// What the command line says of it.
#[derive(Debug, Clone)]
pub struct Config {
    /// Own name.
    pub node: String,
    /// How often and how much.
    pub settings: Settings,
    /// Bounds of one transfer.
    pub limits: Limits,
    /// Sizes in bytes.
    pub sizes: Vec<u64>,
    /// What transfers open.
    pub devices: Devices,
    /// Where UCX is taken from.
    pub ucx_folders: Vec<PathBuf>,
}

/// Shared by the loop that surveys, the one that tests, and those who call.
#[derive(Debug)]
pub struct Tester {
    pub(super) config: Config,
    pub(super) profiles: InForce,
    pub(super) identity: Identity,
    pub(super) members: Members,
    pub(super) gate: Gate,
    pub(super) gpus: Gpus,
    /// What transfers run in: this program, but in tests, which are another.
    program: PathBuf,
    pub(super) metrics: Metrics,
    /// Something is to be published.
    pub(crate) news: Notify,
    /// Something else is to be tested.
    pub(super) wake: Notify,
    listening: SocketAddr,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    own: Option<Arc<Own>>,
    endpoint: Option<SocketAddr>,
    remembered: bool,
    status: SelftestStatus,
    /// As it was published last.
    shown: SelftestStatus,
    labelled: Option<Standing>,
    pace: Pace,
    trials: Vec<Trial>,
    /// Why the buffer that was lent last is the host's.
    lent_host: Option<String>,
}

/// What the Node and its NodeFabric show.
#[derive(Debug, Clone, PartialEq)]
pub struct Shown {
    /// The status of the NodeFabric; its verdict is the label.
    pub status: SelftestStatus,
    /// Where this node is called.
    pub endpoint: Option<EndpointStatus>,
}

impl Tester {
    /// One that has seen nothing yet. `listening`: where its listener is bound.
    pub fn new(
        config: Config,
        profiles: InForce,
        identity: Identity,
        members: Members,
        listening: SocketAddr,
        gate: Gate,
        metrics: Metrics,
    ) -> Self {
        Self {
            config,
            profiles,
            identity,
            members,
            gate,
            gpus: Gpus::nvml(),
            program: PROGRAM.into(),
            metrics,
            news: Notify::new(),
            wake: Notify::new(),
            listening,
            state: Mutex::default(),
        }
    }

    /// Whether [`Self::remember`] is still to be called.
    pub fn is_new(&self) -> bool {
        !self.state().remembered
    }

    /// Takes over what an earlier process left in the NodeFabric.
    pub fn remember(&self, left: Option<SelftestStatus>) {
        let mut state = self.state();
        let left = left.unwrap_or_default();
        self.metrics.state(&left);
        (state.status, state.shown, state.remembered) = (left.clone(), left, true);
    }

    /// Takes over a survey, and what the Node says beside it.
    pub fn surveyed(&self, survey: &Survey, node: &Node) {
        let mut own = Own::read(&self.config.node, survey, node, &self.profiles.current());
        if let Some(own) = &mut own {
            // A GPU's memory is not locked.
            let locks = if own.gpu.is_ok() { 0 } else { self.config.sizes.iter().copied().max().unwrap_or_default() };
            own.shut_out = self.config.devices.shut_out(survey, locks);
            self.metrics.shut_out(own.shut_out.is_some());
            // An agent that has just started may be called before it has anything to test itself.
            self.members.belong_to(&own.domain);
        }
        let mut state = self.state();
        if let (Some(own), Some(before)) = (&mut own, &state.own)
            && own.facts == before.facts
        {
            own.since = before.since;
        }
        let changed = state.own.as_deref() != own.as_ref();
        let shut_out = |own: Option<&Own>| own.and_then(|own| own.shut_out.clone());
        if let Some(why) = shut_out(own.as_ref()).filter(|_| shut_out(state.own.as_deref()).is_none()) {
            tracing::warn!(why, "no self-test: it would be about this container, and not about the node");
        }
        state.own = own.map(Arc::new);
        state.endpoint = advertised(self.listening, node);
        let labels = node.metadata.labels.as_ref().and_then(|labels| labels.get(label::SELFTEST));
        state.labelled = labels.map(|value| Standing::of_label(Some(value)));
        drop(state);
        if changed {
            self.wake.notify_one();
        }
    }

    /// What was published last.
    pub fn shown(&self) -> Shown {
        let state = self.state();
        self.show(&state)
    }

    /// What is to be published now, and the Event that goes with it.
    pub fn publication(&self) -> (Shown, Option<Announcement>) {
        let mut state = self.state();
        let due = publish::due(state.labelled, &state.shown, &state.status, Timestamp::now());
        if due.label || due.status {
            state.shown = state.status.clone();
        }
        (self.show(&state), due.event)
    }

    fn show(&self, state: &State) -> Shown {
        let endpoint = state.endpoint.map(|address| EndpointStatus {
            address: address.to_string(),
            certificate: self.identity.fingerprint().to_string(),
            protocol: PROTOCOL,
        });
        Shown { status: state.shown.clone(), endpoint }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What this node is; `None` before the first survey, and where its fabric is not known.
    pub(super) fn own(&self) -> Option<Arc<Own>> {
        let state = self.state();
        state.own.clone().filter(|_| state.remembered)
    }

    pub(super) fn status(&self) -> SelftestStatus {
        self.state().status.clone()
    }

    pub(super) fn pace(&self) -> Pace {
        self.state().pace.clone()
    }

    pub(super) fn paced(&self, change: impl FnOnce(&mut Pace)) {
        change(&mut self.state().pace);
    }

    pub(super) fn gates(&self, own: &Own) -> Gates {
        let settle = Duration::from_secs_f64(self.config.settings.slot_seconds.max(0.0));
        let profiles = self.profiles.current();
        let candidates = own::candidates(&profiles, &own.view);
        Gates {
            unsettled: own.since.elapsed() < settle || candidates.is_empty(),
            soft_refused: candidates.first().is_some_and(|first| own.soft && !first.profile.spec.when.soft),
            shut_out: own.shut_out.clone(),
            // Asked of NVML only when a session would begin: a process each time.
            gpus_busy: None,
            in_session: self.gate.is_busy(),
            requested: own.requested.clone(),
            facts: own.facts.clone(),
        }
    }

    /// Whether anybody computes on this node's GPUs.
    pub(super) async fn gpu_use(&self, own: &Own) -> GpuUse {
        let found = if own.gpus { self.gpus.now().await } else { GpuUse::NoGpu };
        self.metrics.gpus(found.busy().is_some());
        found
    }

    /// Begins a run where one is due, and draws the verdict anew.
    pub(super) fn begin(&self, own: &Own, members: &Seen) {
        let gates = self.gates(own);
        let now = Timestamp::now();
        let mut state = self.state();
        let before = state.status.sweep.as_ref().map(|sweep| sweep.since);
        blame::begin(&mut state.status, &self.config.settings, &self.config.node, &gates, now);
        members.with(self, own, |view| blame::settle(&mut state.status, &self.config.settings, view, now));
        if state.status.sweep.as_ref().map(|sweep| sweep.since) != before {
            state.trials.clear();
        }
        self.publish_if_due(&state);
    }

    /// Judges a transfer under a profile and takes it over.
    pub(super) fn judge(&self, own: &Own, seen: &Seen, done: &Done<'_>) {
        let profiles = self.profiles.current();
        let candidates = own::candidates(&profiles, &own.view);
        let Some(place) = candidates.iter().position(|found| found.profile.metadata.name == done.terms.profile) else {
            return;
        };
        let candidate = candidates[place];
        let expected = Expected {
            profile: candidate.profile,
            fabric: candidate.fabric,
            soft: own.soft,
            gpu_direct: own.gpu_direct,
            kernel: own.kernel,
            rates: &own.rates,
            share: done.terms.limits.share,
            loopback: done.partner == self.config.node,
        };
        let mut judgement = verdict::judge(done.report, &expected);
        if done.theirs && judgement.against == Against::Own {
            // What the partner cannot do by itself says nothing of this node.
            judgement.against = Against::Nobody;
        }
        let result = result(&judgement, done);
        self.metrics.transferred(done.role, &result);
        tracing::info!(
            partner = result.partner,
            profile = result.profile,
            verdict = result.verdict.as_str(),
            code = result.code,
            gbytes_per_s = result.gbytes_per_s,
            usec = result.usec,
            transport = result.transport,
            against = ?judgement.against,
            message = result.message,
            "self-test"
        );
        let mut state = self.state();
        // The verdict is about what pods get where nobody asks for another set; the others are compared with it.
        if place == 0 {
            let port =
                result.transport.as_deref().and_then(|path| path.split_once('/')).map(|(_, port)| port.to_owned());
            let against = judgement.against;
            seen.with(self, own, |view| {
                blame::record(&mut state.status, &self.config.settings, view, result, against, port);
            });
        }
        // A loopback says nothing of a profile where there are partners.
        if done.partner != self.config.node || seen.0.len() <= 1 {
            let (name, set) = (candidate.profile.metadata.name.clone(), candidate.profile.spec.set.clone());
            state.trials.retain(|trial| trial.profile != name);
            state.trials.push(Trial { profile: name, set, judgement });
            let (tried, fastest) = verdict::qualify(&state.trials, profiles.default_set());
            state.status.profiles = tried;
            state.status.fastest_set = fastest;
        }
        self.metrics.state(&state.status);
        self.publish_if_due(&state);
    }

    fn publish_if_due(&self, state: &State) {
        let due = publish::due(state.labelled, &state.shown, &state.status, Timestamp::now());
        if due.label || due.status {
            self.news.notify_one();
        }
    }

    /// The profile of this name, if this node is to prove it, and the environment under it.
    fn candidate(&self, own: &Own, profile: &str) -> Option<(TransportProfile, BTreeMap<String, String>)> {
        let profiles = self.profiles.current();
        let candidates = own::candidates(&profiles, &own.view);
        let found = candidates.into_iter().find(|found| found.profile.metadata.name == profile)?;
        Some((found.profile.clone(), own::environment(found, &own.view, own.ucx)))
    }

    /// The profile that the verdict is about, and after it those of other sets that this run has not tried yet.
    pub(super) fn to_try(&self, own: &Own) -> Vec<String> {
        let state = self.state();
        let tried = |name: &str| state.trials.iter().any(|trial| trial.profile == name);
        let profiles = self.profiles.current();
        let candidates = own::candidates(&profiles, &own.view);
        let names = candidates.into_iter().map(|found| found.profile.metadata.name.clone()).enumerate();
        names.filter(|(place, name)| *place == 0 || !tried(name)).map(|(_, name)| name).collect()
    }

    /// The GPU whose memory this node moves under a profile, or why it is host memory.
    pub(super) fn gpu(&self, own: &Own, profile: &str, gpu_use: &GpuUse) -> Result<u32, String> {
        let found = self.candidate(own, profile);
        let (found, env) = found.ok_or_else(|| format!("this node does not qualify for {profile}"))?;
        gpus::buffer(gpu_use, &own.gpu, own.gpu_direct, &found, &env)
    }

    /// Remembers why the buffer of the session that begins is the host's, until [`Self::lent`] asks.
    pub(super) fn lends(&self, host: Option<String>) {
        self.state().lent_host = host;
    }

    pub(super) fn lent(&self) -> Option<String> {
        self.state().lent_host.take()
    }

    /// What this node proposes.
    pub(super) fn terms(&self, profile: &str, memory: Memory) -> Terms {
        Terms {
            profile: profile.into(),
            memory,
            ops: OPS.to_vec(),
            sizes: self.config.sizes.clone(),
            limits: self.config.limits,
        }
    }

    /// The order for one side here; `None` where this node does not qualify for the profile.
    pub(super) fn order(&self, own: &Own, terms: &Terms, role: Role, secret: &str, memory: Memory) -> Option<Order> {
        let (_, env) = self.candidate(own, &terms.profile)?;
        Some(terms.order(role, secret, memory, env))
    }

    pub(super) fn start(&self, order: Order) -> Transfer {
        Transfer::start_with(&self.program, order, &self.config.ucx_folders)
    }
}

/// The members of the domain as one decision sees them.
#[derive(Debug, Default)]
pub(super) struct Seen(pub(super) BTreeMap<String, Member>);

impl Seen {
    pub(super) fn with<T>(&self, tester: &Tester, own: &Own, decide: impl FnOnce(&View<'_>) -> T) -> T {
        let me = tester.config.node.as_str();
        // Who does not take part is nobody's partner.
        let takes_part = |(name, member): &(&String, &Member)| member.endpoint.is_some() || *name == me;
        let names: Vec<String> = self.0.iter().filter(takes_part).map(|(name, _)| name.clone()).collect();
        let standing = |name: &str| self.0.get(name).map_or(Standing::Untested, |member| member.standing);
        decide(&View { me, domain: &own.domain, members: &names, standing: &standing })
    }
}

/// A transfer that took place.
pub(super) struct Done<'a> {
    pub(super) partner: &'a str,
    pub(super) role: &'static str,
    pub(super) terms: &'a Terms,
    pub(super) report: &'a Report,
    /// Why this node's buffer was the host's.
    pub(super) why_host: Option<String>,
    /// The report is the partner's.
    pub(super) theirs: bool,
}

fn result(judgement: &Judgement, done: &Done<'_>) -> TransferStatus {
    let Report { memory, integrity, ucx, transport, .. } = done.report;
    let (here, there) = (ucx.version.clone(), ucx.peer_version.clone());
    let (local, remote) = (memory.local.to_string(), memory.remote.to_string());
    let (ucx, peer_ucx, local_memory, remote_memory) =
        if done.theirs { (there, here, remote, local) } else { (here, there, local, remote) };
    let judged = judgement.judged.as_ref();
    let message = judgement.reasons.first().cloned().unwrap_or_default();
    TransferStatus {
        partner: done.partner.into(),
        at: Timestamp::now(),
        verdict: judgement.verdict,
        code: judgement.code.clone(),
        profile: done.terms.profile.clone(),
        op: judged.map(|figure| figure.op),
        bytes: judged.map(|figure| figure.bytes),
        gbytes_per_s: judged.map(|figure| figure.gbytes_per_s).filter(|rate| rate.is_finite()),
        usec: judgement.usec.filter(|usec| usec.is_finite()),
        transport: transport.as_deref().map(plain),
        local_memory,
        remote_memory,
        host_memory_reason: done.why_host.as_deref().map(plain),
        integrity: *integrity,
        ucx: plain(&ucx),
        peer_ucx: plain(&peer_ucx),
        message: plain(&message),
    }
}

/// What another machine said, as an object and a log may carry it.
fn plain(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(400).collect()
}

/// The address that others call: the listener's, or where it listens on all of them, the Node's.
fn advertised(listening: SocketAddr, node: &Node) -> Option<SocketAddr> {
    if !listening.ip().is_unspecified() {
        return Some(listening);
    }
    let addresses = node.status.as_ref()?.addresses.as_ref()?;
    let internal = addresses.iter().find(|address| address.type_ == "InternalIP")?;
    Some(SocketAddr::new(internal.address.parse().ok()?, listening.port()))
}

#[cfg(test)]
mod tests;
