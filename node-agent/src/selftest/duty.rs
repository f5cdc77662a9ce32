//! The loop that tests: asks what is due, calls, transfers, judges; and what it answers when it is called.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use policies::selftest::{
    FailureKind, Gates, GpuUse, Limits, Memory, Next, Refusal, Report, Role, Said, Skip, Terms, Trigger, plan,
};
use tokio::time::{sleep, sleep_until};

use super::{
    child::Transfer,
    own::Own,
    session::{Answer, CallError, Child, Dial, Fingerprint, Host, Reason, Served, call},
    tester::{Done, Seen, Tester},
};

/// Longest time between two looks at what is due: a change wakes the loop.
const LONGEST: Duration = Duration::from_mins(1);
/// And the shortest.
const SHORTEST: Duration = Duration::from_millis(50);

impl Child for Transfer {
    async fn say(&mut self, from_peer: String) {
        Self::say(self, from_peer).await;
    }

    async fn next(&mut self) -> Said {
        Self::next(self).await
    }

    async fn fail(self, kind: FailureKind, message: String) -> Report {
        Self::fail(self, kind, message).await
    }
}

impl Tester {
    /// Tests whenever it is time. Never returns.
    pub async fn keep(&self) {
        loop {
            let wait = self.step().await.clamp(SHORTEST, LONGEST);
            tokio::select! {
                () = sleep(wait) => {}
                () = self.wake.notified() => {}
            }
        }
    }

    /// One look; says when the next is to be taken.
    pub(super) async fn step(&self) -> Duration {
        let Some(own) = self.own() else { return LONGEST };
        let settings = &self.config.settings;
        // The members are not asked for while nothing is due.
        let gates = self.gates(&own);
        if let Err(at) = plan::due(settings, &self.config.node, &self.status(), &gates, now()) {
            return Duration::try_from_secs_f64(at - now()).unwrap_or_default();
        }
        if !settings.enabled || gates.closed() || gates.unsettled {
            return Duration::from_secs_f64(settings.slot_seconds.max(1.0));
        }
        let seen = Seen(self.members.of(&own.domain).await);
        self.metrics.members(seen.0.len());
        self.begin(&own, &seen);
        let (status, pace, mut gates) = (self.status(), self.pace(), self.gates(&own));
        let mut gpu_use = GpuUse::NoGpu;
        let mut next = seen.with(self, &own, |view| plan::next(settings, view, &status, &pace, &gates, now()));
        if matches!(next, Next::Call { .. } | Next::Loopback { .. }) {
            gpu_use = self.gpu_use(&own).await;
            gates.gpus_busy = gpu_use.busy().map(str::to_owned);
            next = seen.with(self, &own, |view| plan::next(settings, view, &status, &pace, &gates, now()));
        }
        // The cluster's profiles as they are now. Where others came into force, a survey goes by them first, and wakes this loop.
        if matches!(next, Next::Call { .. } | Next::Loopback { .. }) && self.profiles.look().await {
            return Duration::from_secs_f64(settings.slot_seconds.max(1.0));
        }
        match next {
            Next::Wait { until, why } => {
                match &why {
                    Skip::NotDue => {}
                    // Once in a minute at the most: NVML is asked no more often.
                    Skip::GpusBusy(who) => tracing::info!(who, "no self-test while the GPUs compute"),
                    _ => tracing::debug!(?why, "no self-test now"),
                }
                Duration::try_from_secs_f64(until - now()).unwrap_or_default()
            }
            Next::Loopback { trigger } => {
                self.loopback(&own, &seen, trigger, &gpu_use).await;
                Duration::from_secs_f64(settings.slot_seconds / 2.0)
            }
            Next::Call { partner, trigger, slot } => {
                self.paced(|pace| pace.called(slot));
                self.call(&own, &seen, (&partner, trigger), &gpu_use).await;
                SHORTEST
            }
        }
    }

    async fn call(&self, own: &Own, seen: &Seen, whom: (&str, Trigger), gpu_use: &GpuUse) {
        let Ok(_session) = self.gate.enter() else { return };
        for profile in self.to_try(own) {
            if !self.call_under(own, seen, whom, &profile, gpu_use).await {
                return;
            }
        }
    }

    /// One session; says whether it took place.
    pub(super) async fn call_under(
        &self,
        own: &Own,
        seen: &Seen,
        (partner, trigger): (&str, Trigger),
        profile: &str,
        gpu_use: &GpuUse,
    ) -> bool {
        let Some((address, certificate)) = seen.0.get(partner).and_then(|member| member.endpoint) else {
            return false;
        };
        let dial = Dial { me: self.config.node.clone(), to: partner.into(), address, certificate };
        let gpu = self.gpu(own, profile, gpu_use);
        let terms = self.terms(profile, gpu.as_ref().map_or(Memory::Host, |gpu| Memory::Cuda(*gpu)));
        self.gate.until(Duration::from_secs_f64(terms.limits.deadline_seconds));
        let watched = AtomicBool::new(false);
        let start = |terms: &Terms, secret: &str| {
            let (memory, _) = terms.own_memory(&gpu);
            // Who was asked to test does not mind.
            watched.store(memory != Memory::Host && trigger != Trigger::Requested, Ordering::Relaxed);
            let order = self.order(own, terms, Role::Initiator, secret, memory);
            order
                .map(|order| self.start(order))
                .ok_or_else(|| format!("this node does not qualify for {profile} any more"))
        };
        tracing::debug!(partner, profile, ?trigger, "self-test call");
        match call(&self.identity, &dial, &terms, start, self.until_busy(&watched)).await {
            Ok(called) => {
                self.metrics.called("met");
                self.paced(plan::Pace::met);
                let report = &called.reports.own;
                let (_, why_host) = called.terms.own_memory(&gpu);
                let done = Done { partner, role: "initiator", terms: &called.terms, report, why_host, theirs: false };
                self.judge(own, seen, &done);
                true
            }
            Err(error) => {
                let outcome = match &error {
                    CallError::Busy { .. } => "busy",
                    CallError::Refused { .. } => "refused",
                    CallError::Unreachable { .. } => "unreachable",
                    CallError::Stranger { .. } => "stranger",
                    CallError::Version { .. } => "version",
                    CallError::Protocol { .. } => "protocol",
                    CallError::Own(_) => "own",
                };
                self.metrics.called(outcome);
                let quiet = matches!(error, CallError::Busy { .. } | CallError::Refused { reason: Reason::NotNow, .. });
                if quiet {
                    tracing::debug!(%error, "self-test call");
                } else {
                    tracing::warn!(%error, "self-test call");
                }
                let settings = &self.config.settings;
                self.paced(|pace| match error {
                    CallError::Busy { .. } | CallError::Refused { .. } | CallError::Own(_) => {
                        pace.refused(settings, &self.config.node, now());
                    }
                    CallError::Unreachable { .. }
                    | CallError::Stranger { .. }
                    | CallError::Version { .. }
                    | CallError::Protocol { .. } => pace.unanswered(settings, partner, now()),
                });
                false
            }
        }
    }

    /// Returns when somebody computes on the GPUs while the session's child has memory of one.
    async fn until_busy(&self, watched: &AtomicBool) -> String {
        // First asked when the session is under way.
        if !watched.load(Ordering::Relaxed) {
            return std::future::pending().await;
        }
        format!("GPUs compute here: {}", self.gpus.until_busy(1).await)
    }

    /// Both ends here: through the NIC and back.
    async fn loopback(&self, own: &Own, seen: &Seen, trigger: Trigger, gpu_use: &GpuUse) {
        let Ok(_session) = self.gate.enter() else { return };
        for profile in self.to_try(own) {
            // Where there is a GPU whose memory could be moved, it would go from one process to the other inside it, by cuda_ipc.
            let inside = "a loopback of GPU memory would not leave the GPU";
            let why_host = Some(self.gpu(own, &profile, gpu_use).err().unwrap_or_else(|| inside.into()));
            let terms = self.terms(&profile, Memory::Host);
            self.gate.until(Duration::from_secs_f64(terms.limits.deadline_seconds));
            let Ok(secret) = super::session::random_hex() else { return };
            let orders =
                [Role::Initiator, Role::Target].map(|role| self.order(own, &terms, role, &secret, Memory::Host));
            let [Some(one), Some(other)] = orders else { return };
            tracing::debug!(profile, ?trigger, "self-test loopback");
            let report = both(self.start(one), self.start(other), &terms.limits).await;
            let partner = self.config.node.as_str();
            let done = Done { partner, role: "loopback", terms: &terms, report: &report, why_host, theirs: false };
            self.judge(own, seen, &done);
        }
    }
}

/// Two children that are told what the other says; the first one's report.
async fn both(mut one: Transfer, mut other: Transfer, limits: &Limits) -> Report {
    let until = Instant::now() + Duration::from_secs_f64(limits.deadline_seconds) + Duration::from_secs(2);
    let mut other_ended = false;
    loop {
        tokio::select! {
            said = one.next() => match said {
                Said::ToPeer(text) => other.say(text).await,
                Said::Progress { .. } => {}
                Said::Report(report) => return *report,
            },
            said = other.next(), if !other_ended => match said {
                Said::ToPeer(text) => one.say(text).await,
                Said::Progress { .. } => {}
                Said::Report(_) => other_ended = true,
            },
            () = sleep_until(until.into()) => {
                return one.fail(FailureKind::Deadline, "the loopback did not end by its deadline".into()).await;
            }
        }
    }
}

/// This node as those see it who call.
#[derive(Debug)]
pub struct Callee(pub Arc<Tester>);

impl Host for Callee {
    type Child = Transfer;

    fn name(&self) -> &str {
        &self.0.config.node
    }

    async fn certificate(&self, node: &str, fresh: bool) -> Option<Fingerprint> {
        let member = if fresh { self.0.members.ask(node).await } else { self.0.members.known(node) };
        member?.endpoint.map(|(_, certificate)| certificate)
    }

    async fn answer(&self, caller: &str, terms: &Terms, secret: &str) -> Result<Answer<Transfer>, (Reason, String)> {
        let tester = &self.0;
        let own = tester.own().ok_or((Reason::NotNow, "nothing is known of this node's fabric yet".to_owned()))?;
        let mut gates = tester.gates(&own);
        // This very session.
        gates.in_session = false;
        let (settings, seen) = (&tester.config.settings, tester.seen());
        // What somebody asked of the caller's node is no word on this node's GPUs; what was asked of this one is.
        let requested = tester.is_requested(&gates);
        let admit =
            |gates: &Gates| seen.with(tester, &own, |view| plan::admit(settings, view, gates, caller, requested));
        let mut admitted = admit(&gates);
        let mut gpu_use = GpuUse::NoGpu;
        if admitted.is_ok() {
            // Nobody else has NVML asked.
            gpu_use = tester.gpu_use(&own).await;
            gates.gpus_busy = gpu_use.busy().map(str::to_owned);
            admitted = admit(&gates);
        }
        admitted.map_err(|refusal| match refusal {
            Refusal::Stranger => (Reason::UnknownNode, format!("{caller} is not of the fabric domain {}", own.domain)),
            Refusal::Off => (Reason::NotNow, "the self-test is off here".into()),
            Refusal::Unsettled => (Reason::NotNow, "this node's facts have changed and must settle".into()),
            Refusal::Busy { .. } => (Reason::Busy, "a session is going on".into()),
            Refusal::GpusBusy(who) => (Reason::NotNow, format!("GPUs compute here: {who}")),
        })?;
        if tester.profiles.look().await {
            return Err((Reason::NotNow, "other transport profiles are in force and must settle".into()));
        }
        let terms = terms.within(&tester.config.limits).map_err(|error| (Reason::Terms, error.to_string()))?;
        let (memory, why_host) = terms.own_memory(&tester.gpu(&own, &terms.profile, &gpu_use));
        let terms = Terms { memory, ..terms };
        tester.lends(why_host);
        let order = tester.order(&own, &terms, Role::Target, secret, memory).ok_or_else(|| {
            (Reason::Terms, format!("this node does not qualify for the profile {:?}", terms.profile))
        })?;
        Ok(Answer { child: tester.start(order), terms })
    }

    async fn stop(&self, terms: &Terms) -> String {
        let tester = &self.0;
        let requested = tester.own().is_some_and(|own| tester.is_requested(&tester.gates(&own)));
        tester.until_busy(&AtomicBool::new(terms.memory != Memory::Host && !requested)).await
    }

    async fn served(&self, session: Served) {
        let tester = &self.0;
        let Some(own) = tester.own() else { return };
        let seen = tester.seen();
        let Served { from, terms, reports } = session;
        // The caller measured; what this side could not do by itself only this side knows.
        let mine = reports.own.failure.as_ref().is_some_and(|failure| {
            matches!(
                failure.kind,
                FailureKind::NoUcx | FailureKind::NoTransport | FailureKind::Memory | FailureKind::Crashed
            )
        });
        let (report, theirs) = match &reports.peers {
            Some(peers) if !mine => (peers, true),
            _ => (&reports.own, false),
        };
        tester.judge(
            &own,
            &seen,
            &Done { partner: &from, role: "target", terms: &terms, report, why_host: tester.lent(), theirs },
        );
        tester.wake.notify_one();
    }
}

impl Tester {
    /// Whether somebody asked for the run that is due on this node.
    fn is_requested(&self, gates: &Gates) -> bool {
        plan::due(&self.config.settings, &self.config.node, &self.status(), gates, now()) == Ok(Trigger::Requested)
    }

    /// The members as they were last seen, without a request.
    fn seen(&self) -> Seen {
        Seen(self.members.last())
    }
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}
