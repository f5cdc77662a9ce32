//! Who is to blame: from a node's transfers with its partners to the verdict on the node.
//!
//! A transfer that fails speaks against two nodes and the path between them. It counts against a node only where the partner is good
//! with others; it takes two such partners and four failures more than successes (at 2 % of false failures that is less than one
//! node in a million a run). A node that is labelled `failed` speaks against nobody.

use jiff::Timestamp;

use super::{
    Against, Extreme, Gates, Grade, PARTNERS_KEPT, PartnerStatus, SelftestStatus, Settings, Standing, Sweep,
    TransferStatus, Trigger, View, plan,
};
use crate::names::selftest as code;

/// Failures more than successes that it takes.
const MARGIN: u32 = 4;
/// Failures in a row with the only partner there is, before the loopback is asked.
const ONLY: u32 = 3;
/// Partners that fail, none of them known to be good, after which it is this node: they cannot all be bad.
const STRANGERS: u32 = 4;

/// What the results say of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assessment {
    /// What it is.
    pub standing: Standing,
    /// Stable CamelCase code.
    pub code: String,
    /// Why.
    pub reasons: Vec<String>,
    /// Whether this run knows enough.
    pub settled: bool,
    /// Failed with this node, which is good with others.
    pub suspect_pairs: Vec<String>,
    /// There is no further partner: a loopback through the NIC has to tell.
    pub wants_loopback: bool,
}

/// Unix seconds.
#[allow(clippy::cast_precision_loss, reason = "milliseconds since 1970, far below 2^52")]
pub(super) fn seconds(at: Timestamp) -> f64 {
    at.as_millisecond() as f64 / 1000.0
}

/// Opens a run of tests, where one is due. To be asked before [`plan::next`] and before [`record`].
pub fn begin(status: &mut SelftestStatus, settings: &Settings, me: &str, gates: &Gates, now: Timestamp) {
    let Ok(trigger) = plan::due(settings, me, status, gates, seconds(now)) else { return };
    let running = status.sweep.as_ref().is_some_and(|sweep| sweep.ended.is_none());
    let same = status.facts.as_ref() == Some(&gates.facts);
    let asked = gates.requested.is_some() && gates.requested != status.requested;
    if running && same && !asked {
        return;
    }
    if !same {
        // Results of another fabric say nothing of this one.
        status.partners.clear();
        status.profiles.clear();
        status.fastest_set = None;
    }
    status.requested.clone_from(&gates.requested);
    status.facts = Some(gates.facts.clone());
    status.sweep = Some(Sweep { since: now, trigger, tests: 0, ended: None });
}

/// Takes in a transfer: of either end, asked for or not.
pub fn record(
    status: &mut SelftestStatus,
    settings: &Settings,
    view: &View<'_>,
    result: TransferStatus,
    against: Against,
    port: Option<String>,
) {
    let at = result.at;
    if against != Against::Nobody {
        let known = status.partners.iter().position(|partner| partner.name == result.partner);
        let before = known.map(|place| status.partners.remove(place));
        let since = status.sweep.as_ref().map(|sweep| sweep.since);
        let same =
            before.filter(|before| before.verdict == result.verdict && since.is_none_or(|since| before.at >= since));
        let partner = PartnerStatus {
            name: result.partner.clone(),
            at,
            verdict: result.verdict,
            streak: same.map_or(1, |before| before.streak.saturating_add(1)),
            code: result.code.clone(),
            against,
            port,
            gbytes_per_s: result.gbytes_per_s,
        };
        status.partners.insert(0, partner);
        status.partners.truncate(PARTNERS_KEPT);
        match &mut status.sweep {
            Some(sweep) if sweep.ended.is_none() => sweep.tests = sweep.tests.saturating_add(1),
            // Bad news opens a run of its own, and good news does of a node that is thought bad.
            Some(sweep) if (result.verdict == Grade::Passed) != (status.verdict == Standing::Passed) => {
                *sweep = Sweep { since: at, trigger: Trigger::Suspicion, tests: 1, ended: None };
            }
            _ => {}
        }
    }
    if result.verdict != Grade::Failed {
        status.bandwidth = result.gbytes_per_s.map(|rate| format!("{rate:.1} GB/s"));
    }
    status.last = Some(result);
    settle(status, settings, view, at);
}

/// Draws the verdict anew: after a result, and when the labels of partners changed.
pub fn settle(status: &mut SelftestStatus, settings: &Settings, view: &View<'_>, now: Timestamp) {
    let found = assess(settings, view, status);
    if found.standing != status.verdict || status.since.is_none() {
        status.verdict = found.standing;
        status.since = Some(now);
    }
    status.code = found.code;
    status.reasons = found.reasons;
    status.suspect_pairs = found.suspect_pairs;
    status.remedy = match status.verdict {
        Standing::Failed | Standing::Slow => format!(
            "run `railbind-agent survey` and `railbind-agent bench` on {}, compare with a node that passes, and look at ports, cables and \
             UCX's settings; it is tested again by itself",
            view.me
        ),
        Standing::Passed | Standing::Untested => String::new(),
    };
    let extreme = |partner: &PartnerStatus| Extreme {
        partner: partner.name.clone(),
        verdict: partner.verdict,
        gbytes_per_s: partner.gbytes_per_s,
    };
    let speed = |partner: &PartnerStatus| partner.gbytes_per_s.unwrap_or(0.0);
    let order = |one: &&PartnerStatus, other: &&PartnerStatus| {
        other.verdict.cmp(&one.verdict).then(speed(one).total_cmp(&speed(other)))
    };
    status.best = status.partners.iter().filter(|partner| partner.verdict != Grade::Failed).max_by(order).map(extreme);
    status.worst = status.partners.iter().min_by(order).map(extreme);
    if let Some(sweep) = status.sweep.as_mut().filter(|sweep| found.settled && sweep.ended.is_none()) {
        sweep.ended = Some(now);
    }
}

/// What counts of a node's results, a transfer a vote.
#[derive(Default)]
struct Votes<'a> {
    good: u32,
    bad: u32,
    strangers: u32,
    accusers: Vec<&'a PartnerStatus>,
    excused: u32,
    grades: Vec<Grade>,
    own: u32,
    own_code: &'a str,
    looped: Option<(Grade, u32)>,
}

fn count<'a>(view: &View<'_>, status: &'a SelftestStatus) -> Votes<'a> {
    let mut votes = Votes::default();
    let Some(sweep) = &status.sweep else { return votes };
    // Where there are few partners, each may speak as often as it takes.
    let each = if view.others() < 3 { MARGIN + 1 } else { 1 };
    for partner in status.partners.iter().filter(|partner| partner.at >= sweep.since) {
        let weight = partner.streak.min(each);
        let standing = (view.standing)(&partner.name);
        if partner.against == Against::Own && partner.verdict == Grade::Failed {
            votes.own += partner.streak;
            votes.own_code = &partner.code;
        } else if partner.name == view.me {
            votes.looped = Some((partner.verdict, partner.streak));
        } else if partner.verdict != Grade::Failed {
            votes.good += weight;
            // With a slow partner it is no wonder.
            let grade = if standing > Standing::Passed { Grade::Passed } else { partner.verdict };
            votes.grades.extend((0..weight).map(|_| grade));
        } else if standing == Standing::Failed {
            votes.excused += 1;
        } else {
            if standing.is_good() {
                votes.bad += weight;
            } else {
                votes.strangers += weight;
            }
            votes.accusers.push(partner);
        }
    }
    votes.grades.truncate(3);
    votes
}

/// What the results so far say.
pub fn assess(settings: &Settings, view: &View<'_>, status: &SelftestStatus) -> Assessment {
    let votes = count(view, status);
    let tests = status.sweep.as_ref().map_or(0, |sweep| sweep.tests);
    let spent = tests >= settings.most;
    let before = status.verdict;
    let said = |standing: Standing, code: &str, settled: bool, reason: String| Assessment {
        standing,
        code: code.into(),
        reasons: vec![reason],
        settled,
        suspect_pairs: Vec::new(),
        wants_loopback: false,
    };
    let others = u32::try_from(view.others()).unwrap_or(u32::MAX);
    if votes.own >= 2 {
        return said(Standing::Failed, votes.own_code, true, "it fails on this node, whoever the partner is".into());
    }
    if others == 0 {
        return alone(&votes, before, spent);
    }
    let names =
        |partners: &[&PartnerStatus]| partners.iter().map(|found| found.name.as_str()).collect::<Vec<_>>().join(", ");
    let against = votes.bad + votes.strangers;
    let accusers = u32::try_from(votes.accusers.len()).unwrap_or(u32::MAX);
    let good_accusers = votes.accusers.iter().filter(|found| (view.standing)(&found.name).is_good()).count();
    let first = votes.accusers.first().map_or(code::UNDECIDED, |found| found.code.as_str());
    let blamed = good_accusers >= 2 && (votes.bad >= votes.good + MARGIN || (spent && votes.bad > votes.good));
    let alone_against_all = votes.good == 0 && accusers >= STRANGERS;
    // Two partners are all there are, and neither works.
    let both = others == 2 && votes.good == 0 && accusers == 2 && against >= MARGIN;
    if blamed || alone_against_all || both {
        let mut found = said(
            Standing::Failed,
            first,
            true,
            format!("failed with {}, and good with {} partners", names(&votes.accusers), votes.good),
        );
        if let Some(port) = one_rail(status) {
            found.code = code::ONE_RAIL.into();
            found.reasons.push(format!("only over {port}: other ports of this node are good"));
        }
        return found;
    }
    if others == 1 && votes.good == 0 && against >= ONLY {
        return only_partner(&votes, before, spent, &said);
    }
    let wanted = match status.sweep.as_ref().map(|sweep| sweep.trigger) {
        Some(Trigger::Facts | Trigger::Requested) => settings.sample,
        Some(Trigger::Recovery) => 2,
        _ if before == Standing::Failed => 2,
        _ => 1,
    }
    .min(others);
    let enough = if against == 0 { votes.good >= wanted.max(1) } else { votes.good >= against + 2 };
    let ahead = votes.good > against;
    let slow = votes.grades.iter().filter(|grade| **grade == Grade::Slow).count();
    let works = match (slow, votes.grades.len()) {
        (2.., _) => Some(Standing::Slow),
        (0, 1) if before == Standing::Untested => Some(Standing::Passed),
        (0, 1) if before == Standing::Passed && wanted == 1 => Some(Standing::Passed),
        // With one partner in the domain and one result asked for there may be no second opinion; there is a second time.
        (0 | 1, 2..) if votes.grades.len() - slow >= 2 => Some(Standing::Passed),
        _ => None,
    };
    let recovers = before != Standing::Failed || votes.good >= against + 2;
    if let (true, true, Some(standing)) = (ahead, recovers, works) {
        let pairs: Vec<String> = votes.accusers.iter().map(|found| found.name.clone()).collect();
        let (code, reason) = match (standing, pairs.is_empty()) {
            (Standing::Slow, _) => {
                (code::LOW_BANDWIDTH, format!("slower than it should be in {slow} of {} transfers", votes.grades.len()))
            }
            (_, true) => (code::AS_EXPECTED, format!("good in {} transfers", votes.good)),
            (_, false) => (
                code::SUSPECT_PAIR,
                format!(
                    "good in {} transfers; failed with {}: the pair, or the path between them",
                    votes.good,
                    pairs.join(", ")
                ),
            ),
        };
        let disagree = spent && good_accusers >= 2 && against * 3 >= against + votes.good;
        if disagree {
            let reason = format!("good in {} transfers, failed with {}", votes.good, pairs.join(", "));
            return said(Standing::Slow, code::PARTNERS_DISAGREE, true, reason);
        }
        let mut found = said(standing, code, enough || spent, reason);
        found.suspect_pairs = pairs;
        return found;
    }
    if votes.good + against == 0 && votes.excused > 0 {
        return only_failed_partners(&votes, view, status, before, spent, &said);
    }
    let (code, reason) = match (votes.good + against, against) {
        (0, _) if votes.own == 0 => (code::UNTESTED, "no transfer was made".to_owned()),
        (_, 0) => (code::UNDECIDED, "one result that is unlike the last ones; it is tried again".into()),
        _ => (
            code::UNDECIDED,
            format!(
                "failed with {}, good in {} transfers: too few to say whose fault it is",
                names(&votes.accusers),
                votes.good
            ),
        ),
    };
    let mut found = said(before, code, spent, reason);
    found.suspect_pairs = votes.accusers.iter().map(|found| found.name.clone()).collect();
    found
}

/// No other node in the domain: a loopback through the NIC is all there is.
fn alone(votes: &Votes<'_>, before: Standing, spent: bool) -> Assessment {
    let said = |standing, code: &str, settled, reason: &str| Assessment {
        standing,
        code: code.into(),
        reasons: vec![reason.into()],
        settled,
        suspect_pairs: Vec::new(),
        wants_loopback: false,
    };
    let pair = "a loopback through the NIC, the only node of its fabric domain: no cable and no switch was tested";
    match votes.looped {
        None => said(before, code::UNTESTED, spent, "no transfer was made"),
        Some((Grade::Passed, streak)) if before == Standing::Untested || before == Standing::Passed || streak >= 2 => {
            said(Standing::Passed, code::AS_EXPECTED, true, pair)
        }
        Some((Grade::Slow, 2..)) => said(Standing::Slow, code::LOW_BANDWIDTH, true, pair),
        Some((Grade::Failed, 2..)) => said(Standing::Failed, code::TRANSFER_FAILED, true, pair),
        Some(_) => said(before, code::UNDECIDED, spent, "one result that is unlike the last ones; it is tried again"),
    }
}

/// Only one partner, and it fails with it: the loopback is the second witness.
fn only_partner(
    votes: &Votes<'_>,
    before: Standing,
    spent: bool,
    said: &dyn Fn(Standing, &str, bool, String) -> Assessment,
) -> Assessment {
    let Some(partner) = votes.accusers.first() else { return said(before, code::UNDECIDED, spent, String::new()) };
    match votes.looped {
        Some((Grade::Failed, _)) => said(
            Standing::Failed,
            &partner.code,
            true,
            format!("failed with {}, and in a loopback through its own NIC", partner.name),
        ),
        // One more time: a partner that fails by itself says so by then.
        Some(_) if partner.streak > ONLY => said(
            Standing::Failed,
            code::SUSPECT_PAIR,
            true,
            format!(
                "failed with {}, the only other node of its fabric domain; each is good by itself, so it is the path between them",
                partner.name
            ),
        ),
        looped => Assessment {
            wants_loopback: looped.is_none(),
            suspect_pairs: vec![partner.name.clone()],
            ..said(before, code::UNDECIDED, spent, format!("failed with {}; it is tried once more", partner.name))
        },
    }
}

/// Whoever it failed with fails with others too, and so says nothing. Where there is nobody else, a loopback through the NIC can say that
/// this node is bad as well, not that it is good.
fn only_failed_partners(
    votes: &Votes<'_>,
    view: &View<'_>,
    status: &SelftestStatus,
    before: Standing,
    spent: bool,
    said: &dyn Fn(Standing, &str, bool, String) -> Assessment,
) -> Assessment {
    let excused = votes.excused;
    let undecided =
        || said(before, code::UNDECIDED, spent, format!("failed only with {excused} nodes that fail with others too"));
    if view.members.iter().any(|name| name != view.me && (view.standing)(name) != Standing::Failed) {
        return undecided();
    }
    let looped = status.partners.iter().find(|partner| partner.name == view.me);
    match (votes.looped, looped) {
        (Some((Grade::Failed, 2..)), Some(looped)) => said(
            Standing::Failed,
            &looped.code,
            true,
            format!("failed with {excused} nodes that fail with others too, and in loopbacks through its own NIC"),
        ),
        (found, _) => {
            let wants_loopback = found.is_none_or(|(grade, _)| grade == Grade::Failed);
            Assessment { wants_loopback, ..undecided() }
        }
    }
}

/// The port that all failures of this run went over, while others were good.
fn one_rail(status: &SelftestStatus) -> Option<&str> {
    let since = status.sweep.as_ref()?.since;
    let fresh =
        || status.partners.iter().filter(move |partner| partner.at >= since && partner.against == Against::Pair);
    let mut bad = fresh().filter(|partner| partner.verdict == Grade::Failed).map(|partner| partner.port.as_deref());
    let port = bad.next()??;
    let only = bad.all(|other| other == Some(port));
    let others_good =
        fresh().any(|found| found.verdict != Grade::Failed && found.port.as_deref().is_some_and(|p| p != port));
    (only && others_good).then_some(port)
}

#[cfg(test)]
mod tests;
