//! When the CA is replaced, step by step, so that no API server ever meets a certificate that it does not trust yet. Pure.
//!
//! The state is what the shared Secret holds, so any replica can take the next step and every replica comes to the same:
//!
//! ```text
//! steady ──a third of its life left──▶ announced: old signs, old + new are trusted
//!   ▲                                     │ the list has been registered for the grace
//!   │                                     ▼
//!   └──registered for the grace── retiring: new signs, new + old are trusted
//! ```
//!
//! How long a list has been registered each replica measures by itself, and anew when it starts: a step comes later then, never
//! too early. A replica that has not read the Secret yet registers the list that it knows, and so holds the others back.

use std::time::{Duration, SystemTime};

/// From when to when a certificate is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// Not before.
    pub from: SystemTime,
    /// Not after.
    pub until: SystemTime,
}

impl Validity {
    /// How long that is.
    pub fn life(self) -> Duration {
        self.until.duration_since(self.from).unwrap_or_default()
    }

    /// Whether it is over.
    pub fn is_over(self, now: SystemTime) -> bool {
        now >= self.until
    }

    /// Whether it has begun and is not over.
    pub fn holds(self, now: SystemTime) -> bool {
        self.from <= now && !self.is_over(now)
    }

    /// When it has a third of its life left.
    pub fn renew_at(self) -> SystemTime {
        self.until - self.life() / 3
    }
}

/// How far a rotation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// There is one CA.
    Steady,
    /// The next one is trusted and does not sign yet.
    Announced(Validity),
    /// The last one is still trusted and does not sign any more.
    Retiring,
}

/// What to do with the Secret now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nothing before then.
    Wait(Option<SystemTime>),
    /// Put a new CA beside the one that signs.
    Announce,
    /// Let the announced one sign; the other stays trusted.
    Switch,
    /// Trust only the one that signs.
    Retire,
    /// Put a new CA in the place of all: there is none that an API server would accept.
    Replace,
}

/// The next step, where the CA that signs is good for `signing`, and what is to be trusted now has been registered for
/// `registered` without interruption (`None`: it is not registered, or that is not known).
pub fn step(signing: Validity, phase: Phase, registered: Option<Duration>, grace: Duration, now: SystemTime) -> Step {
    // When the list has been registered for long enough, if nothing interferes.
    let settled = registered.map(|registered| now + grace.saturating_sub(registered));
    let is_settled = registered.is_some_and(|registered| registered >= grace);
    match phase {
        // What is over serves nobody: there is nothing to wait for. Nor does what has not begun: a clock that was ahead made it.
        Phase::Announced(next) if !signing.holds(now) && next.holds(now) => Step::Switch,
        Phase::Steady | Phase::Announced(_) | Phase::Retiring if !signing.holds(now) => Step::Replace,
        Phase::Announced(next) if !next.holds(now) => Step::Announce,
        Phase::Announced(_) if is_settled => Step::Switch,
        Phase::Retiring if is_settled => Step::Retire,
        Phase::Announced(_) | Phase::Retiring => Step::Wait(settled),
        Phase::Steady if now >= signing.renew_at() => Step::Announce,
        Phase::Steady => Step::Wait(Some(signing.renew_at())),
    }
}

#[cfg(test)]
mod tests {
    use super::{Duration, Phase, Step, SystemTime, Validity, step};

    const DAY: Duration = Duration::from_hours(24);
    const GRACE: Duration = Duration::from_mins(10);
    const START: SystemTime = SystemTime::UNIX_EPOCH;

    fn valid(from: SystemTime, life: Duration) -> Validity {
        Validity { from, until: from + life }
    }

    #[test]
    fn two_rotations() {
        let mut now = START;
        let mut signing = valid(now, 360 * DAY);
        for _ in 0..2 {
            let due = signing.from + 240 * DAY;
            assert_eq!(step(signing, Phase::Steady, Some(DAY), GRACE, now), Step::Wait(Some(due)));
            now = due;
            assert_eq!(step(signing, Phase::Steady, None, GRACE, now), Step::Announce);
            let next = valid(now, 360 * DAY);

            let announced = |registered, now| step(signing, Phase::Announced(next), registered, GRACE, now);
            assert_eq!(announced(None, now + 30 * DAY), Step::Wait(None), "never before it is registered");
            assert_eq!(announced(Some(GRACE / 2), now), Step::Wait(Some(now + GRACE / 2)));
            now += GRACE;
            assert_eq!(announced(Some(GRACE), now), Step::Switch);
            signing = next;

            assert_eq!(step(signing, Phase::Retiring, Some(Duration::ZERO), GRACE, now), Step::Wait(Some(now + GRACE)));
            assert_eq!(step(signing, Phase::Retiring, None, GRACE, now + DAY), Step::Wait(None));
            now += GRACE;
            assert_eq!(step(signing, Phase::Retiring, Some(GRACE), GRACE, now), Step::Retire);
        }
    }

    #[test]
    fn what_is_over_is_replaced_at_once() {
        let (old, end) = (valid(START, DAY), START + DAY);
        for phase in [Phase::Steady, Phase::Retiring, Phase::Announced(old)] {
            assert_eq!(step(old, phase, Some(DAY), GRACE, end), Step::Replace, "{phase:?}");
        }
        let next = valid(START, 2 * DAY);
        assert_eq!(step(old, Phase::Announced(next), None, GRACE, end), Step::Switch, "nothing to wait for any more");
        assert_eq!(step(next, Phase::Announced(old), Some(DAY), GRACE, end), Step::Announce, "another one");
    }

    #[test]
    fn what_has_not_begun_is_replaced_at_once() {
        let (now, ahead) = (START + DAY, valid(START + 400 * DAY, DAY));
        for phase in [Phase::Steady, Phase::Retiring, Phase::Announced(ahead)] {
            assert_eq!(step(ahead, phase, Some(DAY), GRACE, now), Step::Replace, "{phase:?}");
        }
        let good = valid(START, 360 * DAY);
        assert_eq!(step(ahead, Phase::Announced(good), None, GRACE, now), Step::Switch);
        assert_eq!(step(good, Phase::Announced(ahead), Some(DAY), GRACE, now), Step::Announce, "another one");
    }

    #[test]
    fn a_ca_that_falls_due_while_the_last_one_retires_waits_its_turn() {
        let short = valid(START, DAY);
        let late = START + DAY - Duration::from_secs(1);
        assert_eq!(step(short, Phase::Retiring, Some(GRACE), GRACE, late), Step::Retire);
        assert_eq!(step(short, Phase::Steady, Some(GRACE), GRACE, late), Step::Announce);
    }
}
