//! Which certificate to serve with and which CAs to have trusted while the files of somebody else change, so that no API server
//! ever meets a certificate that it does not trust yet. Pure.
//!
//! Replicas see a change of the files up to two minutes apart, and none knows what another sees. Each registers what it knows: whoever
//! still knows only the old CA writes that, and so holds the others back.

use std::time::{Duration, SystemTime};

/// What is asked of a certificate here.
pub(super) trait Certified: Clone + PartialEq {
    /// Its CAs, PEM each.
    fn authority(&self) -> &[String];
    /// When it ends.
    fn until(&self) -> SystemTime;
    /// Whether somebody who trusts this accepts it.
    fn is_trusted_by(&self, bundle: &str, now: SystemTime) -> bool;
}

/// A CA that was in use stays trusted for so many graces after its successor came into use here: longer than another replica needs
/// to see the change and to register the list.
const GRACES: u32 = 3;
/// More old CAs than these are not kept.
const MAX_BESIDES: usize = 8;

/// What is in use, and what comes.
#[derive(Debug, Clone)]
pub(super) struct Overlap<P> {
    grace: Duration,
    serving: Option<P>,
    /// Good, and not known to be trusted by every API server yet; and since when it waits.
    waiting: Option<(P, SystemTime)>,
    /// Trusted besides, and until when.
    besides: Vec<(String, SystemTime)>,
}

impl<P: Certified> Overlap<P> {
    /// With nothing in use.
    pub(super) fn new(grace: Duration) -> Self {
        Self { grace, serving: None, waiting: None, besides: Vec::new() }
    }

    /// These CAs the API server knows from whoever was here before us: other replicas may serve by them.
    pub(super) fn inherit(&mut self, known: Vec<String>, now: SystemTime) {
        let until = now + self.grace * GRACES;
        self.besides.extend(known.into_iter().take(MAX_BESIDES).map(|one| (one, until)));
    }

    /// What is served with.
    pub(super) fn serving(&self) -> Option<&P> {
        self.serving.as_ref()
    }

    /// What is to be trusted, PEM; empty where that is somebody else's business.
    pub(super) fn bundle(&self) -> String {
        let mut all: Vec<&str> = Vec::new();
        let waiting = self.waiting.as_ref().map(|(pair, _)| pair);
        let current = [self.serving.as_ref(), waiting].into_iter().flatten().flat_map(P::authority);
        for one in current.chain(self.besides.iter().map(|(one, _)| one)) {
            if !all.contains(&one.as_str()) {
                all.push(one);
            }
        }
        // Every replica that knows the same says the same.
        all.sort_unstable();
        all.concat()
    }

    /// The files hold this now.
    pub(super) fn found(&mut self, pair: P, now: SystemTime) {
        match &self.serving {
            Some(serving) if *serving == pair => self.waiting = None,
            // What is trusted already, or nobody's business here, needs no waiting; nor does what follows something that is over.
            Some(serving)
                if !pair.authority().is_empty()
                    && now < serving.until()
                    && !pair.is_trusted_by(&self.bundle_without_waiting(), now) =>
            {
                let since =
                    self.waiting.as_ref().filter(|(waiting, _)| *waiting == pair).map_or(now, |(_, since)| *since);
                self.waiting = Some((pair, since));
            }
            Some(_) | None => self.switch(pair, now),
        }
    }

    /// Takes the step that is due, where [`Self::bundle`] has been registered for `registered` without interruption (`None`: it is
    /// not, or that is not known); says when to come again at the latest.
    pub(super) fn step(&mut self, registered: Option<Duration>, now: SystemTime) -> Option<Duration> {
        self.besides.retain(|(_, until)| now < *until);
        if let Some((waiting, since)) = self.waiting.clone() {
            let is_over = self.serving.as_ref().is_none_or(|serving| serving.until() <= now);
            let is_settled = registered.is_some_and(|registered| registered >= self.grace);
            // Others are done with the old CA, and will not let us be: they were long before us.
            let is_late =
                registered.is_some() && now.duration_since(since).is_ok_and(|waited| waited >= self.grace * GRACES);
            if is_over || is_settled || is_late {
                self.switch(waiting, now);
            } else {
                return registered.map(|registered| self.grace.saturating_sub(registered));
            }
        }
        self.besides.iter().filter_map(|(_, until)| until.duration_since(now).ok()).min()
    }

    /// Whether there is something better than what is served with.
    pub(super) fn is_waiting(&self) -> bool {
        self.waiting.is_some()
    }

    fn bundle_without_waiting(&self) -> String {
        Self { waiting: None, ..self.clone() }.bundle()
    }

    fn switch(&mut self, pair: P, now: SystemTime) {
        let until = now + self.grace * GRACES;
        let old = self.serving.replace(pair);
        self.waiting = None;
        let old = old.iter().flat_map(P::authority).cloned();
        let (serving, besides) = (&self.serving, &mut self.besides);
        for one in old {
            let still = serving.as_ref().is_some_and(|serving| serving.authority().contains(&one));
            if !still && besides.len() < MAX_BESIDES && !besides.iter().any(|(other, _)| *other == one) {
                besides.push((one, until));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Certified, Duration, Overlap, SystemTime};

    const GRACE: Duration = Duration::from_mins(10);
    const START: SystemTime = SystemTime::UNIX_EPOCH;

    /// A certificate by a CA, both of one letter.
    #[derive(Debug, Clone, PartialEq)]
    struct Fake {
        name: &'static str,
        authority: Vec<String>,
        until: SystemTime,
    }

    impl Certified for Fake {
        fn authority(&self) -> &[String] {
            &self.authority
        }

        fn until(&self) -> SystemTime {
            self.until
        }

        fn is_trusted_by(&self, bundle: &str, _: SystemTime) -> bool {
            self.authority.iter().any(|one| bundle.contains(one))
        }
    }

    fn fake(name: &'static str, authority: &str) -> Fake {
        let authority = if authority.is_empty() { Vec::new() } else { vec![authority.to_owned()] };
        Fake { name, authority, until: START + Duration::from_hours(24) }
    }

    fn serving(overlap: &Overlap<Fake>) -> &'static str {
        overlap.serving().map_or("", |pair| pair.name)
    }

    #[test]
    fn the_same_ca_is_no_reason_to_wait() {
        let mut overlap = Overlap::new(GRACE);
        overlap.found(fake("one", "A"), START);
        overlap.found(fake("two", "A"), START);
        assert_eq!((serving(&overlap), overlap.bundle().as_str()), ("two", "A"));
        assert_eq!(overlap.step(None, START), None);
    }

    #[test]
    fn another_ca_is_trusted_first_and_the_old_one_a_while_longer() {
        let mut now = START;
        let mut overlap = Overlap::new(GRACE);
        overlap.found(fake("one", "A"), now);
        overlap.found(fake("two", "B"), now);
        assert_eq!((serving(&overlap), overlap.bundle().as_str()), ("one", "AB"));
        assert!(overlap.is_waiting());
        now += 10 * GRACE;
        overlap.found(fake("two", "B"), now);
        assert_eq!(overlap.step(None, now), None, "never before it is registered");
        now = START + GRACE;
        assert_eq!(overlap.step(Some(GRACE / 2), now), Some(GRACE / 2));
        assert_eq!(serving(&overlap), "one");
        assert_eq!(overlap.step(Some(GRACE), now), Some(3 * GRACE));
        assert_eq!((serving(&overlap), overlap.bundle().as_str()), ("two", "AB"));
        now += 3 * GRACE;
        assert_eq!(overlap.step(Some(GRACE), now), None);
        assert_eq!(overlap.bundle(), "B");
    }

    #[test]
    fn the_files_may_change_again_or_back_while_it_waits() {
        let mut overlap = Overlap::new(GRACE);
        overlap.found(fake("one", "A"), START);
        overlap.found(fake("two", "B"), START);
        overlap.found(fake("three", "C"), START);
        assert_eq!((serving(&overlap), overlap.bundle().as_str()), ("one", "AC"));
        overlap.found(fake("one", "A"), START);
        assert_eq!((overlap.is_waiting(), overlap.bundle().as_str()), (false, "A"));
    }

    #[test]
    fn whoever_is_late_does_not_wait_for_those_who_are_done() {
        let mut overlap = Overlap::new(GRACE);
        overlap.found(fake("one", "A"), START);
        overlap.found(fake("two", "B"), START);
        let again = Some(Duration::from_secs(30));
        overlap.step(again, START + 2 * GRACE);
        assert_eq!(serving(&overlap), "one");
        overlap.step(again, START + 3 * GRACE);
        assert_eq!(serving(&overlap), "two");
    }

    #[test]
    fn what_is_over_is_followed_at_once() {
        let mut overlap = Overlap::new(GRACE);
        overlap.found(fake("one", "A"), START);
        overlap.found(fake("two", "B"), START + Duration::from_hours(23));
        assert_eq!(serving(&overlap), "one");
        overlap.step(None, START + Duration::from_hours(24));
        assert_eq!(serving(&overlap), "two", "nothing to wait for any more");
        let late = START + Duration::from_hours(25);
        overlap.found(fake("three", "C"), late);
        assert_eq!(serving(&overlap), "three");
    }

    #[test]
    fn what_the_api_server_knew_before_us_stays_for_a_while() {
        let mut overlap = Overlap::new(GRACE);
        overlap.found(fake("one", "A"), START);
        overlap.inherit(vec!["X".into(), "A".into()], START);
        assert_eq!(overlap.bundle(), "AX");
        assert_eq!(overlap.step(None, START), Some(3 * GRACE));
        overlap.step(None, START + 3 * GRACE);
        assert_eq!(overlap.bundle(), "A");
        overlap.inherit((0..100).map(|number| format!("{number},")).collect(), START);
        assert_eq!(overlap.bundle(), "0,1,2,3,4,5,6,7,A", "within bounds");
    }

    #[test]
    fn what_is_not_ours_to_register_is_served_at_once() {
        let mut overlap = Overlap::new(GRACE);
        overlap.found(fake("one", ""), START);
        overlap.found(fake("two", ""), START);
        assert_eq!((serving(&overlap), overlap.bundle().as_str()), ("two", ""));
    }
}
