//! What of a self-test is written where, and when: an API server must not hear of every transfer.

use jiff::Timestamp;

use super::{Grade, SelftestStatus, Standing, TransferStatus, Trigger, blame::seconds};
use crate::{names::event, report::Announcement};

/// Seconds between two writes that say nothing but newer figures.
const FIGURES_SECONDS: f64 = 600.0;

/// What is to be written now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Publication {
    /// The label `railbind.dev/selftest`, which other agents and the webhook go by.
    pub label: bool,
    /// The status of the NodeFabric, and with it the Node's condition.
    pub status: bool,
    /// An Event on the Node.
    pub event: Option<Announcement>,
}

/// What is to be written where the label says `labelled`, and the NodeFabric says `published`.
///
/// The label goes at once. The rest waits for the end of the run, and figures alone for ten minutes, unless a person asked.
pub fn due(
    labelled: Option<Standing>,
    published: &SelftestStatus,
    current: &SelftestStatus,
    now: Timestamp,
) -> Publication {
    let label = labelled != Some(current.verdict);
    let Some(sweep) = current.sweep.as_ref().filter(|sweep| sweep.ended.is_some()) else {
        return Publication { label, ..Publication::default() };
    };
    let before = published.sweep.as_ref().and_then(|sweep| sweep.ended);
    let verdict = published.verdict != current.verdict;
    let old = before.is_none_or(|before| seconds(now) - seconds(before) >= FIGURES_SECONDS);
    let changed = verdict
        || published.requested != current.requested
        || published.fastest_set != current.fastest_set
        || published.suspect_pairs != current.suspect_pairs
        || (published.facts != current.facts);
    let status = before != sweep.ended && (changed || old || sweep.trigger == Trigger::Requested);
    // Whoever asked hears the answer, also where it is the same.
    let event = (status && (verdict || sweep.trigger == Trigger::Requested)).then(|| announcement(current)).flatten();
    Publication { label, status, event }
}

/// The Event that tells a verdict.
fn announcement(status: &SelftestStatus) -> Option<Announcement> {
    let (warning, reason) = match status.verdict {
        Standing::Untested => return None,
        Standing::Passed => (false, event::SELFTEST_PASSED),
        Standing::Slow | Standing::Failed => (true, event::SELFTEST_FAILED),
    };
    let words = sentence(status).unwrap_or_default();
    let note = format!("{words} ({}); {}", status.code, status.reasons.join("; "));
    Some(Announcement { warning, reason, note: note.chars().filter(|c| !c.is_control()).take(500).collect() })
}

/// The self-test in some words: `self-test 47.1 GB/s to node-b over rc_mlx5`.
pub fn sentence(status: &SelftestStatus) -> Option<String> {
    let last = status.last.as_ref();
    match status.verdict {
        Standing::Untested => None,
        Standing::Failed => Some(match last.filter(|last| last.verdict == Grade::Failed) {
            Some(last) => format!("self-test failed to {}: {}", last.partner, last.message),
            None => format!("self-test failed: {}", status.code),
        }),
        Standing::Slow => Some(format!("self-test slow{}", figures(last))),
        Standing::Passed => Some(format!("self-test{}", figures(last))),
    }
}

fn figures(last: Option<&TransferStatus>) -> String {
    let Some(last) = last.filter(|last| last.verdict != Grade::Failed) else { return " passed".into() };
    let rate = last.gbytes_per_s.map_or_else(|| " passed".into(), |rate| format!(" {rate:.1} GB/s"));
    let transport = last.transport.as_deref().map(|transport| transport.split('/').next().unwrap_or(transport));
    let over = transport.map(|transport| format!(" over {transport}")).unwrap_or_default();
    format!("{rate} to {}{over}", last.partner)
}
