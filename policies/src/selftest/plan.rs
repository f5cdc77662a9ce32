//! Whom a node calls, and when. No leader: each agent computes it from what it sees, and agents that see different things only find
//! a partner busy.

use super::{
    SelftestStatus, Standing, Trigger,
    blame::{self, seconds},
    shuffle::{fraction, hash, pair},
};

/// How many members at most are tested all at once, whatever [`Settings::in_flight`] says.
const FEW: usize = 16;
/// Rounds after which a run counts as late.
const LATE_SLOTS: f64 = 6.0;
/// Rounds of one shuffle of the members: an hour of them.
const EPOCH_SLOTS: u64 = 600;

/// How often and how much.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    /// Whether there is a self-test at all.
    pub enabled: bool,
    /// Seconds from one round to the next: a session and its start fit in it.
    pub slot_seconds: f64,
    /// Partners of a full run.
    pub sample: u32,
    /// Transfers of a run at most, however unclear they leave it.
    pub most: u32,
    /// Share of the pairs of a domain that a round lets go, 0–1.
    pub in_flight: f64,
    /// Seconds after which a node is tested again.
    pub period_seconds: f64,
    /// Seconds after which a node that did not pass is tested again.
    pub recovery_seconds: f64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            enabled: true,
            slot_seconds: 6.0,
            sample: 3,
            most: 12,
            in_flight: 0.5,
            period_seconds: 3600.0,
            recovery_seconds: 300.0,
        }
    }
}

/// What an agent sees of its domain.
#[derive(Clone, Copy)]
pub struct View<'a> {
    /// Own name.
    pub me: &'a str,
    /// Value of `railbind.dev/fabric-domain`.
    pub domain: &'a str,
    /// Names of its nodes, this one included; sorted, each once.
    pub members: &'a [String],
    /// What the label of a node says.
    pub standing: &'a dyn Fn(&str) -> Standing,
}

impl View<'_> {
    /// How many others there are.
    pub fn others(&self) -> usize {
        self.members.len() - usize::from(self.members.binary_search_by(|name| name.as_str().cmp(self.me)).is_ok())
    }
}

/// What keeps a node from a test, and what asks for one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Gates {
    /// The facts still change: nothing is tested before they settle.
    pub unsettled: bool,
    /// The only RDMA is in software, and no profile in force allows it: there is nothing to prove.
    pub soft_refused: bool,
    /// Why the agent's own container cannot open or lock what a test needs: a result would say nothing of the node.
    pub shut_out: Option<String>,
    /// Who computes on GPUs here, as NVML says: "GPU 0: 2 compute processes, 87 %". `None`: nobody, or it is not known.
    pub gpus_busy: Option<String>,
    /// A session is in progress, as either end.
    pub in_session: bool,
    /// Value of the annotation `railbind.dev/selftest-requested`.
    pub requested: Option<String>,
    /// Fingerprint of the facts that a result depends on: ports, rates, GIDs, GPUDirect, profile.
    pub facts: String,
}

impl Gates {
    /// Whether nothing can be proven here, whatever is asked and whoever calls.
    pub fn closed(&self) -> bool {
        self.soft_refused || self.shut_out.is_some()
    }
}

/// What an agent remembers between two questions, and need not keep over a restart.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Pace {
    /// Nothing before this, in Unix seconds.
    pub not_before: f64,
    /// Calls in a row that were refused or went unanswered.
    pub refusals: u32,
    /// Slot of the last call.
    pub slot: Option<u64>,
    /// The last who did not answer, and until when not to call it.
    pub absent: Vec<(String, f64)>,
}

/// Why nothing is done now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Skip {
    /// The self-test is switched off.
    Off,
    /// The facts have not settled.
    Unsettled,
    /// Only software RDMA, which no profile allows.
    SoftRdma,
    /// The agent's container cannot open what a test opens; with why.
    ShutOut(String),
    /// Nothing to find out yet.
    NotDue,
    /// GPUs compute; with who says so.
    GpusBusy(String),
    /// A session is in progress.
    InSession,
    /// This node is not among the members of its domain yet.
    NotMember,
    /// Others refused; later, with other partners.
    BackingOff,
    /// An odd number of nodes: nobody in this round.
    Bye,
    /// Not this pair in this round, so that few pairs of the domain are busy at once.
    NotThisRound,
    /// This round had its call, or is too far on.
    RoundOver,
    /// The partner of this round, who fails with everybody or does not answer.
    NoPartner(String),
    /// The partner of this round has the first word.
    Listening(String),
}

/// What an agent does next.
#[derive(Debug, Clone, PartialEq)]
pub enum Next {
    /// Call this node, as the initiator.
    Call {
        /// Its name.
        partner: String,
        /// Why.
        trigger: Trigger,
        /// The round, for [`Pace::called`].
        slot: u64,
    },
    /// Send to itself through the NIC: there is no partner, or none that could tell whose fault it is.
    Loopback {
        /// Why.
        trigger: Trigger,
    },
    /// Ask again then, in Unix seconds; earlier if something changes.
    Wait {
        /// When.
        until: f64,
        /// Why.
        why: Skip,
    },
}

/// Why a node that is called does not take part.
#[derive(Debug, Clone, PartialEq)]
pub enum Refusal {
    /// Switched off.
    Off,
    /// It has a session.
    Busy {
        /// Come back after these seconds.
        retry_seconds: f64,
    },
    /// Its facts still change.
    Unsettled,
    /// GPUs compute; with who says so.
    GpusBusy(String),
    /// The caller is of another domain, or unknown.
    Stranger,
}

/// Whether a node that `caller` calls takes part. `requested`: the caller was asked for it by a person.
///
/// # Errors
/// Why it does not.
pub fn admit(
    settings: &Settings,
    view: &View<'_>,
    gates: &Gates,
    caller: &str,
    requested: bool,
) -> Result<(), Refusal> {
    if !settings.enabled || gates.closed() {
        return Err(Refusal::Off);
    }
    if view.members.binary_search_by(|name| name.as_str().cmp(caller)).is_err() {
        return Err(Refusal::Stranger);
    }
    if gates.in_session {
        return Err(Refusal::Busy { retry_seconds: settings.slot_seconds });
    }
    if gates.unsettled {
        return Err(Refusal::Unsettled);
    }
    match &gates.gpus_busy {
        Some(who) if !requested => Err(Refusal::GpusBusy(who.clone())),
        _ => Ok(()),
    }
}

impl Pace {
    /// A call goes out.
    pub fn called(&mut self, slot: u64) {
        self.slot = Some(slot);
    }

    /// A session took place, whatever came of it.
    pub fn met(&mut self) {
        self.refusals = 0;
        self.not_before = 0.0;
    }

    /// The partner was busy, or did not want: with every refusal after the second twice as long, up to 16 rounds, and never as
    /// long as anybody else.
    pub fn refused(&mut self, settings: &Settings, me: &str, now: f64) {
        self.refusals = self.refusals.saturating_add(1);
        let rounds = match self.refusals {
            0..=2 => return,
            more => f64::from(1_u32 << (more - 2).min(4)),
        };
        let share = 0.5 + fraction(hash(u64::from(self.refusals), &[me.as_bytes(), &now.to_bits().to_le_bytes()]));
        self.not_before = now + rounds * settings.slot_seconds * share;
    }

    /// The partner did not answer at all: not that one for a while, and others soon.
    pub fn unanswered(&mut self, settings: &Settings, partner: &str, now: f64) {
        self.absent.retain(|(name, until)| *until > now && name != partner);
        if self.absent.len() >= 16 {
            self.absent.remove(0);
        }
        self.absent.push((partner.to_owned(), now + settings.recovery_seconds));
    }
}

/// Why a node is to be tested now; otherwise when it will be, in Unix seconds.
///
/// # Errors
/// The time at which the next test is due.
pub fn due(settings: &Settings, me: &str, status: &SelftestStatus, gates: &Gates, now: f64) -> Result<Trigger, f64> {
    let sweep = match &status.sweep {
        Some(sweep) if status.facts.as_ref() == Some(&gates.facts) => sweep,
        _ => return Ok(Trigger::Facts),
    };
    if gates.requested.is_some() && gates.requested != status.requested {
        return Ok(Trigger::Requested);
    }
    let Some(ended) = sweep.ended.map(seconds) else { return Ok(sweep.trigger) };
    let good = status.verdict == Standing::Passed;
    let (period, trigger) =
        if good { (settings.period_seconds, Trigger::Period) } else { (settings.recovery_seconds, Trigger::Recovery) };
    // A partner's test is as good as one's own.
    let last = status.last.as_ref().filter(|_| good).map_or(ended, |last| seconds(last.at).max(ended));
    // Never all at once: each by its own tenth earlier or later.
    let at = last + period * (0.9 + 0.2 * fraction(hash(last.to_bits(), &[me.as_bytes()])));
    if now >= at { Ok(trigger) } else { Err(at) }
}

/// What to do now. `status` is as [`blame::settle`] left it.
pub fn next(
    settings: &Settings,
    view: &View<'_>,
    status: &SelftestStatus,
    pace: &Pace,
    gates: &Gates,
    now: f64,
) -> Next {
    let slot = slot(settings, now);
    let start = slot_start(settings, slot);
    let wait = |seconds: f64, why: Skip| Next::Wait { until: now + seconds, why };
    let next_round = |why: Skip| Next::Wait { until: start + settings.slot_seconds, why };
    if !settings.enabled {
        return wait(settings.period_seconds, Skip::Off);
    }
    if gates.soft_refused {
        return wait(settings.period_seconds, Skip::SoftRdma);
    }
    if let Some(why) = &gates.shut_out {
        return wait(settings.period_seconds, Skip::ShutOut(why.clone()));
    }
    if gates.unsettled {
        return next_round(Skip::Unsettled);
    }
    let trigger = match due(settings, view.me, status, gates, now) {
        Ok(trigger) => trigger,
        Err(until) => return Next::Wait { until, why: Skip::NotDue },
    };
    if gates.in_session {
        return next_round(Skip::InSession);
    }
    if let Some(who) = gates.gpus_busy.as_ref().filter(|_| trigger != Trigger::Requested) {
        return wait(settings.recovery_seconds / 5.0, Skip::GpusBusy(who.clone()));
    }
    if now < pace.not_before {
        return Next::Wait { until: pace.not_before, why: Skip::BackingOff };
    }
    if pace.slot == Some(slot) {
        return next_round(Skip::RoundOver);
    }
    let Ok(index) = view.members.binary_search_by(|name| name.as_str().cmp(view.me)) else {
        return wait(settings.slot_seconds, Skip::NotMember);
    };
    if view.members.len() == 1 || blame::assess(settings, view, status).wants_loopback {
        return Next::Loopback { trigger };
    }
    let seed = hash(slot / EPOCH_SLOTS, &[view.domain.as_bytes()]);
    let found = pair(seed, view.members.len(), slot % EPOCH_SLOTS, index);
    let Some(pair) = found else { return next_round(Skip::Bye) };
    let partner = &view.members[pair.partner];
    let key = hash(slot, &[view.me.min(partner).as_bytes(), view.me.max(partner).as_bytes()]);
    // Who has seen a failure, or had bad luck for some rounds, goes on: its partner of a round that is not let go is idle.
    let since = status.sweep.as_ref().map_or(now, |sweep| seconds(sweep.since));
    let urgent = trigger == Trigger::Requested
        || !status.suspect_pairs.is_empty()
        || now - since > LATE_SLOTS * settings.slot_seconds;
    if view.members.len() > FEW && !urgent && fraction(key) >= settings.in_flight {
        return next_round(Skip::NotThisRound);
    }
    let absent = pace.absent.iter().any(|(name, until)| name == partner && *until > now);
    // Who fails with everybody proves nothing; where there is hardly anybody else, it still may be well again.
    let known_bad =
        view.others() > 2 && status.verdict != Standing::Failed && (view.standing)(partner) == Standing::Failed;
    if absent || known_bad {
        return next_round(Skip::NoPartner(partner.clone()));
    }
    // Whose turn it is calls within the first twelfth of the slot. The other waits a quarter: the partner may not want a test.
    let share = fraction(hash(slot, &[view.me.as_bytes()])) / 12.0 + if pair.calls { 0.0 } else { 0.25 };
    let call_at = start + share * settings.slot_seconds;
    if now < call_at {
        return Next::Wait { until: call_at, why: Skip::Listening(partner.clone()) };
    }
    // So late a session would reach into the next round.
    if now > start + settings.slot_seconds / 2.0 {
        return next_round(Skip::RoundOver);
    }
    Next::Call { partner: partner.clone(), trigger, slot }
}

/// Number of the slot at `now`.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a time after 1970 over some seconds")]
fn slot(settings: &Settings, now: f64) -> u64 {
    (now / settings.slot_seconds.max(0.1)).max(0.0) as u64
}

#[allow(clippy::cast_precision_loss, reason = "a count of seconds, far below 2^52")]
fn slot_start(settings: &Settings, slot: u64) -> f64 {
    slot as f64 * settings.slot_seconds.max(0.1)
}
