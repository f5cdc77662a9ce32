//! What is read seldom, because reading it costs: kept from one survey to the next, as long as the machine does not boot.

use std::collections::{BTreeMap, BTreeSet};

use policies::fabric::Fact;

use crate::root::Trouble;

/// A read that failed this often is not tried again before the next boot: one of VPD can take the firmware's whole timeout.
const ATTEMPTS: u8 = 3;

/// What one survey leaves to the next. Start with an empty one; throw it away at will.
///
/// In it: whether a PCI function is a switch-management function, which its vital product data tells (slow, and a load on the
/// firmware), and the process of the container runtime, which is found by looking at all others. Everything else is read
/// anew each time. A function that was absent in one survey is asked again in the next: it may be another one.
#[derive(Debug, Default)]
pub struct Cache {
    boot: Option<String>,
    management: BTreeMap<Function, Asked>,
    asked_now: BTreeSet<Function>,
    /// Its number; only a hint, since numbers are used again.
    pub(crate) runtime: Option<u32>,
}

/// A PCI function: its address, and what tells it from another card in the same slot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Function {
    pub(crate) dir: String,
    pub(crate) ids: (Option<u16>, Option<u16>),
    pub(crate) board: Option<String>,
}

#[derive(Debug)]
enum Asked {
    Answered(bool),
    Failed { times: u8, trouble: Trouble },
}

impl Cache {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Opens a survey in the boot `boot`: nothing is kept from another, nor where the kernel does not say which it is.
    pub(crate) fn begin(&mut self, boot: &Fact<String>) {
        let boot = boot.known();
        if boot.is_none() || self.boot.as_ref() != boot {
            *self = Self { boot: boot.cloned(), ..Self::default() };
        }
        self.asked_now.clear();
    }

    /// Closes it: what is gone is forgotten.
    pub(crate) fn end(&mut self) {
        let seen = std::mem::take(&mut self.asked_now);
        self.management.retain(|function, _| seen.contains(function));
    }

    /// Whether `function` manages switches, by `read` where it is not known yet.
    pub(crate) fn management(
        &mut self,
        function: Function,
        read: impl FnOnce() -> Result<bool, Trouble>,
    ) -> Result<bool, Trouble> {
        self.asked_now.insert(function.clone());
        let failed = match self.management.get(&function) {
            Some(Asked::Answered(answer)) => return Ok(*answer),
            Some(Asked::Failed { times: ATTEMPTS.., trouble }) => return Err(*trouble),
            Some(Asked::Failed { times, .. }) => *times,
            None => 0,
        };
        let answer = read();
        let asked = match answer {
            Ok(answer) => Asked::Answered(answer),
            Err(trouble) => Asked::Failed { times: failed + 1, trouble },
        };
        self.management.insert(function, asked);
        answer
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn function(slot: &str) -> Function {
        Function { dir: slot.into(), ids: (Some(0x15b3), Some(0x1021)), board: None }
    }

    fn boot(id: &str) -> Fact<String> {
        Fact::Known(id.into())
    }

    #[test]
    fn an_answer_is_asked_for_once_a_boot() {
        let mut cache = Cache::new();
        let reads = Cell::new(0);
        let read = || {
            reads.set(reads.get() + 1);
            Ok(true)
        };
        for (id, expected) in [("a", 1), ("a", 1), ("b", 2), ("b", 2)] {
            cache.begin(&boot(id));
            assert_eq!(cache.management(function("0000:18:00.0"), read), Ok(true));
            cache.end();
            assert_eq!(reads.get(), expected);
        }
        for expected in [3, 4] {
            cache.begin(&Fact::Unknown("absent".into()));
            assert_eq!(cache.management(function("0000:18:00.0"), read), Ok(true));
            cache.end();
            assert_eq!(reads.get(), expected, "which boot it is, is not known");
        }
    }

    #[test]
    fn a_function_that_was_away_is_asked_again() {
        let mut cache = Cache::new();
        for (seen, expected) in [(true, Ok(false)), (false, Ok(false)), (true, Ok(true))] {
            cache.begin(&boot("a"));
            if seen {
                assert_eq!(cache.management(function("0000:18:00.0"), || expected), expected);
            }
            cache.end();
        }
        cache.begin(&boot("a"));
        let other = Function { board: Some("MT_0000000891".into()), ..function("0000:18:00.0") };
        assert_eq!(cache.management(other, || Ok(false)), Ok(false), "another card in the same slot");
    }

    #[test]
    fn failures_are_tried_again_but_not_for_ever() {
        let mut cache = Cache::new();
        let reads = Cell::new(0);
        for _ in 0..10 {
            cache.begin(&boot("a"));
            let failed = cache.management(function("0000:18:00.0"), || {
                reads.set(reads.get() + 1);
                Err(Trouble::NotAFile)
            });
            assert_eq!(failed, Err(Trouble::NotAFile), "the problem stays");
            cache.end();
        }
        assert_eq!(reads.get(), u32::from(ATTEMPTS));
    }
}
