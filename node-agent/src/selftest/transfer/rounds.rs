//! How many operations make a measurement: a warm-up that tells how fast it goes, then rounds until the time is over.

use std::time::Duration;

use policies::selftest::Limits;

/// Fewest operations that are measured.
const FEWEST: u64 = 5;
/// Most operations of one round.
const MOST: u64 = 4 << 20;
/// Most operations that are under way: what ucx_perftest has.
const WINDOW: u64 = 32;
/// Seconds of traffic that may be under way. A slow link with a full window would look stalled.
const UNDER_WAY: f64 = 1.0;
/// Seconds of one round where the link is shared.
const BATCH: f64 = 0.05;
/// Longest warm-up, as a part of the time for the measurement, and the shortest in seconds that tells a speed.
const WARM: (f64, f64) = (0.25, 0.01);

/// What was measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Measured {
    /// Operations.
    pub operations: u64,
    /// Seconds in which they were under way.
    pub seconds: f64,
}

/// One round to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Round {
    /// Operations.
    pub count: u64,
    /// Most of them under way at once.
    pub window: u64,
    /// It is the last of the warm-up that counts for nothing, or one that is measured.
    pub measured: bool,
}

/// Runs rounds through `go`, which returns the seconds that one took and rests through `rest`.
pub(super) fn run<S, E>(
    limits: &Limits,
    state: &mut S,
    mut go: impl FnMut(&mut S, Round) -> Result<f64, E>,
    mut rest: impl FnMut(&mut S, Duration) -> Result<(), E>,
) -> Result<Measured, E> {
    let want = limits.seconds_each;
    let (mut count, mut warmed) = (1_u64, 0.0);
    let mut each = loop {
        let took = go(state, Round { count, window: count.min(WINDOW), measured: false })?;
        warmed += took;
        pause(limits, state, took, &mut rest)?;
        if took >= WARM.1.max(want * WARM.0 / 4.0) || warmed >= want * WARM.0 || count >= MOST {
            break took / to_f64(count);
        }
        count = (count * 4).min(MOST);
    };
    let mut measured = Measured { operations: 0, seconds: 0.0 };
    loop {
        let left = if limits.share < 1.0 { BATCH.min(want - measured.seconds) } else { want - measured.seconds };
        let count = operations(left / each).clamp(1, MOST);
        let count = if measured.operations == 0 && limits.share >= 1.0 { count.max(FEWEST) } else { count };
        let took = go(state, Round { count, window: window(each), measured: true })?;
        measured.operations += count;
        measured.seconds += took;
        each = (measured.seconds / to_f64(measured.operations)).max(1e-9);
        // A last small round would tell little.
        if measured.operations >= FEWEST && measured.seconds >= want * 0.8 {
            return Ok(measured);
        }
        pause(limits, state, took, &mut rest)?;
    }
}

/// The rest after which the link was busy for its share of the time.
fn pause<S, E>(
    limits: &Limits,
    state: &mut S,
    busy: f64,
    rest: &mut impl FnMut(&mut S, Duration) -> Result<(), E>,
) -> Result<(), E> {
    if limits.share >= 1.0 {
        return Ok(());
    }
    let seconds = busy * (1.0 / limits.share - 1.0);
    rest(state, Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX))
}

fn window(each: f64) -> u64 {
    operations(UNDER_WAY / each).clamp(1, WINDOW)
}

#[expect(clippy::cast_precision_loss, reason = "counts far below 2⁵³")]
fn to_f64(count: u64) -> f64 {
    count as f64
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it saturates, and not a number is 0")]
fn operations(number: f64) -> u64 {
    number.ceil() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rounds on a link on which an operation takes this long; all rounds, and the seconds of rest.
    fn on_a_link(each: f64, share: f64) -> (Measured, Vec<Round>, f64) {
        let limits = Limits { seconds_each: 1.0, share, ..Limits::default() };
        let mut state = (Vec::new(), 0.0);
        let go = |state: &mut (Vec<Round>, f64), round: Round| {
            state.0.push(round);
            Ok::<_, ()>(to_f64(round.count) * each)
        };
        let rest = |state: &mut (Vec<Round>, f64), time: Duration| {
            state.1 += time.as_secs_f64();
            Ok(())
        };
        let measured = run(&limits, &mut state, go, rest).unwrap();
        (measured, state.0, state.1)
    }

    #[test]
    fn takes_the_time_and_not_much_more() {
        for each in [1e-7, 1e-5, 1e-3, 0.03] {
            let (measured, rounds, rested) = on_a_link(each, 1.0);
            assert!((0.8..1.2).contains(&measured.seconds), "{each}: {measured:?}");
            let warm: f64 = rounds.iter().filter(|round| !round.measured).map(|round| to_f64(round.count) * each).sum();
            assert!(warm < 0.5 && rested == 0.0, "{each}: warm-up of {warm}");
        }
    }

    #[test]
    fn a_slow_link_gets_five_operations_and_a_short_window() {
        let (measured, rounds, _) = on_a_link(3.7, 1.0);
        assert_eq!((measured.operations, rounds.len()), (5, 2));
        assert_eq!((rounds[0].window, rounds[1].window), (1, 1));
        assert_eq!(on_a_link(0.1, 1.0).1.last().map(|round| round.window), Some(10));
    }

    #[test]
    fn a_share_of_the_link_is_kept_to() {
        for each in [1e-5, 0.01, 0.2] {
            let (measured, rounds, rested) = on_a_link(each, 0.25);
            let busy: f64 = rounds.iter().map(|round| to_f64(round.count) * each).sum();
            let last = rounds.last().map_or(0.0, |round| to_f64(round.count) * each);
            assert!((rested - (busy - last) * 3.0).abs() < 1e-6, "{each}: {busy} busy, {rested} rested");
            assert!(measured.operations >= 5 && last <= 0.06_f64.max(each), "{each}: {rounds:?}");
        }
    }
}
