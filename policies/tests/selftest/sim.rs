//! A simulated cluster around the real decisions: agents, a control channel, an API server that lags, and a network with faults.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, BinaryHeap},
    sync::Arc,
};

use jiff::Timestamp;
use policies::{
    names::selftest as code,
    selftest::{
        Against, Gates, Grade, Integrity, Next, Op, Pace, SelftestStatus, Settings, Standing, TransferStatus, View,
        blame, plan, publish,
    },
};

/// What is wrong in a cluster.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Faults {
    /// Nodes that fail with everybody.
    pub(crate) bad_nodes: usize,
    /// Pairs that fail only with each other: as many tries of a meeting as this are bad by the pair's own fault.
    pub(crate) bad_pairs_percent: f64,
    /// Transfers that fail for nothing, in percent.
    pub(crate) random_percent: f64,
    /// Agents whose list of members lacks some, in percent.
    pub(crate) stale_percent: f64,
    /// Agents that do not answer, in percent.
    pub(crate) dead_percent: f64,
}

/// What came of a run.
#[derive(Debug, Clone, Default)]
pub(crate) struct Outcome {
    /// Seconds until the last node's verdict was settled and its label written; `None`: not within the limit.
    pub(crate) judged_seconds: Option<f64>,
    /// Seconds until 99 % were.
    pub(crate) most_seconds: f64,
    /// Transfers.
    pub(crate) transfers: u64,
    /// Calls that found the other one busy.
    pub(crate) busy: u64,
    /// Writes to the API server of all nodes.
    pub(crate) writes: u64,
    /// Of the node with the most.
    pub(crate) writes_max: u32,
    /// Bad nodes that are labelled `failed`.
    pub(crate) found: usize,
    /// Good nodes that were labelled `failed` at any time.
    pub(crate) false_alarms: usize,
    /// The most pairs at once.
    pub(crate) pairs_at_once: usize,
}

#[allow(clippy::struct_excessive_bools, reason = "what an agent is and does")]
struct Agent {
    status: SelftestStatus,
    published: SelftestStatus,
    labelled: Option<Standing>,
    pace: Pace,
    members: usize,
    session: bool,
    dead: bool,
    bad: bool,
    writes: u32,
    alarmed: bool,
    settled_at: Option<f64>,
    wakes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Wake { who: usize, ticket: u64 },
    Arrives { from: usize, to: usize },
    NoAnswer { from: usize, to: usize },
    Ends { from: usize, to: usize },
    Visible { who: usize, standing: Standing },
}

/// SplitMix64: the same run for the same seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((x ^ (x >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.roll()
    }

    fn percent(&mut self, percent: f64) -> bool {
        self.roll() * 100.0 < percent
    }
}

struct Cluster {
    settings: Settings,
    names: Vec<String>,
    lists: Vec<Arc<Vec<String>>>,
    agents: Vec<Agent>,
    visible: Vec<Standing>,
    queue: BinaryHeap<Reverse<(u64, u64, Event)>>,
    sequence: u64,
    start: f64,
    now: f64,
    dice: Dice,
    faults: Faults,
    seed: u64,
    pairs: usize,
    settled: usize,
    alive: usize,
    outcome: Outcome,
}

/// Simulates `nodes` agents that start within 20 seconds, until every one is judged or 15 minutes are over.
pub(crate) fn run(nodes: usize, faults: Faults, settings: Settings, seed: u64) -> Outcome {
    let mut dice = Dice(seed);
    let names: Vec<String> = (0..nodes).map(|index| format!("node-{index:05}")).collect();
    let mut lists = vec![Arc::new(names.clone())];
    for _ in 0..8 {
        let missing: BTreeSet<usize> = (0..=nodes / 100).map(|_| dice.between(0.0, nodes as f64) as usize).collect();
        let list = names.iter().enumerate().filter(|(index, _)| !missing.contains(index)).map(|(_, name)| name.clone());
        lists.push(Arc::new(list.collect()));
    }
    let agents: Vec<Agent> = (0..nodes)
        .map(|index| Agent {
            status: SelftestStatus::default(),
            published: SelftestStatus::default(),
            // Written with the node's other labels.
            labelled: Some(Standing::Untested),
            pace: Pace::default(),
            members: if dice.percent(faults.stale_percent) { 1 + dice.between(0.0, 8.0) as usize } else { 0 },
            session: false,
            // Bad nodes are spread over the list, and no dead ones: what is not tested is not found.
            bad: faults.bad_nodes > 0
                && index % (nodes / faults.bad_nodes) == 0
                && index / (nodes / faults.bad_nodes) < faults.bad_nodes,
            dead: false,
            writes: 0,
            alarmed: false,
            settled_at: None,
            wakes: 0,
        })
        .collect();
    // Some time after 1970, not at the edge of a slot.
    let start = 1_800_000_000.0 + dice.between(0.0, 3600.0);
    let mut cluster = Cluster {
        settings,
        visible: vec![Standing::Untested; nodes],
        names,
        lists,
        agents,
        queue: BinaryHeap::new(),
        sequence: 0,
        start,
        now: start,
        dice,
        faults,
        seed,
        pairs: 0,
        settled: 0,
        alive: 0,
        outcome: Outcome::default(),
    };
    for who in 0..nodes {
        let dead = !cluster.agents[who].bad && cluster.dice.percent(faults.dead_percent);
        cluster.agents[who].dead = dead;
        // An agent knows of itself, however old its list is.
        if cluster.lists[cluster.agents[who].members].binary_search(&cluster.names[who]).is_err() {
            cluster.agents[who].members = 0;
        }
        if !dead {
            cluster.alive += 1;
            let jitter = cluster.dice.between(0.0, 20.0);
            cluster.wake(who, start + jitter);
        }
    }
    cluster.go();
    let mut ends: Vec<f64> = cluster.agents.iter().filter_map(|agent| agent.settled_at).collect();
    ends.sort_by(f64::total_cmp);
    let mut outcome = cluster.outcome;
    outcome.most_seconds = ends.get(ends.len() * 99 / 100).copied().unwrap_or(f64::NAN);
    outcome.judged_seconds = (ends.len() == cluster.alive).then(|| ends.last().copied().unwrap_or(0.0));
    outcome.writes = cluster.agents.iter().map(|agent| u64::from(agent.writes)).sum();
    outcome.writes_max = cluster.agents.iter().map(|agent| agent.writes).max().unwrap_or(0);
    outcome.found = cluster.agents.iter().filter(|agent| agent.bad && agent.labelled == Some(Standing::Failed)).count();
    outcome.false_alarms = cluster.agents.iter().filter(|agent| agent.alarmed).count();
    outcome
}

impl Cluster {
    fn at(&mut self, when: f64, event: Event) {
        self.sequence += 1;
        self.queue.push(Reverse(((when * 1000.0).ceil() as u64, self.sequence, event)));
    }

    /// The agent is asked then; an earlier appointment is void.
    fn wake(&mut self, who: usize, when: f64) {
        self.agents[who].wakes += 1;
        let ticket = self.agents[who].wakes;
        self.at(when, Event::Wake { who, ticket });
    }

    fn go(&mut self) {
        while let Some(Reverse((millis, _, event))) = self.queue.pop() {
            self.now = millis as f64 / 1000.0;
            if self.now - self.start > 900.0 || self.settled == self.alive {
                return;
            }
            match event {
                Event::Wake { who, ticket } if self.agents[who].wakes == ticket => self.ask(who),
                Event::Wake { .. } => {}
                Event::Visible { who, standing } => self.visible[who] = standing,
                Event::Arrives { from, to } => self.arrives(from, to),
                Event::NoAnswer { from, to } => {
                    let (now, name) = (self.now, self.names[to].clone());
                    let agent = &mut self.agents[from];
                    agent.pace.unanswered(&self.settings, &name, now);
                    agent.session = false;
                    self.ask(from);
                }
                Event::Ends { from, to } => self.ends(from, to),
            }
        }
    }

    fn with<R>(&mut self, who: usize, act: impl FnOnce(&mut Agent, &Settings, &View<'_>, f64) -> R) -> R {
        let list = Arc::clone(&self.lists[self.agents[who].members]);
        let visible = &self.visible;
        let standing = |name: &str| {
            name["node-".len()..]
                .parse::<usize>()
                .ok()
                .and_then(|index| visible.get(index).copied())
                .unwrap_or_default()
        };
        let view = View { me: &self.names[who], domain: "ib-fe80000000000000", members: &list, standing: &standing };
        act(&mut self.agents[who], &self.settings, &view, self.now)
    }

    /// One turn of an agent: what is due, what is to be written, and what to do.
    fn ask(&mut self, who: usize) {
        let next = self.with(who, |agent, settings, view, now| {
            let gates = Gates { in_session: agent.session, facts: "f".into(), ..Gates::default() };
            blame::begin(&mut agent.status, settings, view.me, &gates, time(now));
            blame::settle(&mut agent.status, settings, view, time(now));
            plan::next(settings, view, &agent.status, &agent.pace, &gates, now)
        });
        self.publish(who);
        match next {
            Next::Wait { until, .. } => self.wake(who, until + 0.002),
            Next::Loopback { .. } => unreachable!("a cluster of many nodes"),
            Next::Call { partner, slot, .. } => {
                self.agents[who].pace.called(slot);
                self.agents[who].session = true;
                let to: usize = partner["node-".len()..].parse().expect("a node's number");
                let (delay, event) = if self.agents[to].dead {
                    (3.0, Event::NoAnswer { from: who, to })
                } else {
                    (self.dice.between(0.005, 0.1), Event::Arrives { from: who, to })
                };
                self.at(self.now + delay, event);
            }
        }
    }

    fn arrives(&mut self, from: usize, to: usize) {
        let caller = self.names[from].clone();
        let admitted = self.with(to, |agent, settings, view, _| {
            let gates = Gates { in_session: agent.session, facts: "f".into(), ..Gates::default() };
            plan::admit(settings, view, &gates, &caller, false)
        });
        if admitted.is_err() {
            self.outcome.busy += 1;
            let (now, name) = (self.now, self.names[from].clone());
            let agent = &mut self.agents[from];
            agent.session = false;
            agent.pace.refused(&self.settings, &name, now);
            self.ask(from);
            return;
        }
        self.agents[to].session = true;
        self.pairs += 1;
        self.outcome.pairs_at_once = self.outcome.pairs_at_once.max(self.pairs);
        let seconds = self.dice.between(2.5, 3.5);
        self.at(self.now + seconds, Event::Ends { from, to });
    }

    fn ends(&mut self, from: usize, to: usize) {
        self.pairs -= 1;
        self.outcome.transfers += 1;
        let key = (from.min(to) * 1_000_003 + from.max(to)) as u64;
        let pair_bad = Dice(self.seed ^ key.wrapping_mul(0x9e37_79b9_7f4a_7c15)).percent(self.faults.bad_pairs_percent);
        let random = self.dice.percent(self.faults.random_percent);
        let failed = self.agents[from].bad || self.agents[to].bad || pair_bad || random;
        for (me, partner) in [(from, to), (to, from)] {
            let name = self.names[partner].clone();
            self.with(me, |agent, settings, view, now| {
                agent.session = false;
                agent.pace.met();
                blame::record(&mut agent.status, settings, view, transfer(name, failed, now), Against::Pair, None);
            });
            self.ask(me);
        }
    }

    fn publish(&mut self, who: usize) {
        let now = self.now;
        let agent = &mut self.agents[who];
        let publication = publish::due(agent.labelled, &agent.published, &agent.status, time(now));
        if publication.label {
            agent.writes += 1;
            agent.labelled = Some(agent.status.verdict);
            agent.alarmed |= agent.status.verdict == Standing::Failed && !agent.bad;
        }
        if publication.status {
            // The NodeFabric, the Node's condition, and the Event where there is one.
            agent.writes += 2 + u32::from(publication.event.is_some());
            agent.published = agent.status.clone();
        }
        if agent.settled_at.is_none() && agent.status.sweep.as_ref().is_some_and(|sweep| sweep.ended.is_some()) {
            agent.settled_at = Some(now - self.start);
            self.settled += 1;
        }
        if publication.label {
            let event = Event::Visible { who, standing: agent.status.verdict };
            let delay = self.dice.between(0.1, 2.0);
            self.at(now + delay, event);
        }
    }
}

fn time(seconds: f64) -> Timestamp {
    Timestamp::from_millisecond((seconds * 1000.0).round() as i64).expect("a time of this century")
}

fn transfer(partner: String, failed: bool, now: f64) -> TransferStatus {
    TransferStatus {
        partner,
        at: time(now),
        verdict: if failed { Grade::Failed } else { Grade::Passed },
        code: if failed { code::TRANSFER_FAILED } else { code::AS_EXPECTED }.into(),
        profile: "infiniband-gpudirect".into(),
        op: Some(Op::Get),
        bytes: Some(128 << 20),
        gbytes_per_s: (!failed).then_some(47.1),
        usec: Some(1.4),
        transport: Some("rc_mlx5/mlx5_0:1".into()),
        local_memory: "host".into(),
        remote_memory: "host".into(),
        host_memory_reason: None,
        integrity: Integrity::Ok,
        ucx: "1.22.0".into(),
        peer_ucx: "1.22.0".into(),
        message: String::new(),
    }
}
