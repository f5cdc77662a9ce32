//! What two nodes agree on before they move anything: the caller proposes, the called one narrows.
//!
//! Neither takes the other's word for its own machine. The environment is not on the wire at all: each side works out what *its*
//! pods would get of the profile that is named, so a hostile peer cannot choose what runs here.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Limits, Memory, Op, Order, Role};

/// Most operations of one transfer.
const OPS: usize = 8;
/// Most sizes of one transfer.
const SIZES: usize = 32;
/// Largest size of one operation in bytes: 128 MiB, what the guide measures with.
const LARGEST: u64 = 128 << 20;

/// What is to be moved, and within which bounds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Terms {
    /// Profile under whose environment both sides run.
    pub profile: String,
    /// Where the buffer of the side that says it lies: in a proposal the caller's, in an answer the called side's. A GPU's is taken
    /// only where both have it.
    pub memory: Memory,
    /// What is measured.
    pub ops: Vec<Op>,
    /// Sizes in bytes.
    pub sizes: Vec<u64>,
    /// Bounds.
    pub limits: Limits,
}

/// Why terms are refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TermsError {
    /// Nothing to do, or more than anybody needs.
    #[error("{what}: {found}, and {least} to {most} are taken")]
    Count {
        /// Operations or sizes.
        what: &'static str,
        /// How many.
        found: usize,
        /// Fewest.
        least: usize,
        /// Most.
        most: usize,
    },
    /// A bound that is no number, or not above zero.
    #[error("{0} is not a number above zero")]
    Bound(&'static str),
    /// No size fits in the buffers of both sides.
    #[error("no size fits in {0} bytes")]
    TooLarge(u64),
    /// The answer takes more than was proposed.
    #[error("the answer asks for more than was proposed: {0}")]
    Widened(&'static str),
}

impl Terms {
    /// These terms within this side's own bounds.
    ///
    /// # Errors
    /// What makes no sense, or leaves nothing to do.
    pub fn within(&self, own: &Limits) -> Result<Self, TermsError> {
        let count = |what, found, least, most| {
            let fits = (least..=most).contains(&found);
            fits.then_some(()).ok_or(TermsError::Count { what, found, least, most })
        };
        count("operations", self.ops.len(), 1, OPS)?;
        count("sizes", self.sizes.len(), 1, SIZES)?;
        let limits = narrower(&self.limits, own)?;
        let most = limits.buffer_bytes.min(LARGEST);
        let sizes: Vec<u64> = self.sizes.iter().copied().filter(|size| (1..=most).contains(size)).collect();
        if sizes.is_empty() {
            return Err(TermsError::TooLarge(most));
        }
        Ok(Self { sizes, limits, ..self.clone() })
    }

    /// Whether an answer to these terms only narrows them. Which GPU the called side takes is its own choice.
    ///
    /// # Errors
    /// What it widens.
    pub fn narrowed_to(&self, answer: &Self) -> Result<(), TermsError> {
        if answer.profile != self.profile {
            return Err(TermsError::Widened("another profile"));
        }
        if self.memory == Memory::Host && answer.memory != Memory::Host {
            return Err(TermsError::Widened("memory of a GPU"));
        }
        if answer.ops != self.ops {
            return Err(TermsError::Widened("other operations"));
        }
        if answer.sizes.is_empty() || answer.sizes.iter().any(|size| !self.sizes.contains(size)) {
            return Err(TermsError::Widened("other sizes"));
        }
        let narrower = narrower(&answer.limits, &self.limits)? == answer.limits;
        narrower.then_some(()).ok_or(TermsError::Widened("wider limits"))
    }

    /// Where this side's buffer lies when these are the other side's terms, and why it is the host's where it is. `own`: the GPU that
    /// it could be on, or why it could be on none.
    pub fn own_memory(&self, own: &Result<u32, String>) -> (Memory, Option<String>) {
        match (own, self.memory) {
            (Ok(gpu), Memory::Cuda(_)) => (Memory::Cuda(*gpu), None),
            (Ok(_), Memory::Host) => (Memory::Host, Some("the other side has host memory".into())),
            (Err(why), _) => (Memory::Host, Some(why.clone())),
        }
    }

    /// The order for this side's child.
    pub fn order(&self, role: Role, secret: &str, memory: Memory, env: BTreeMap<String, String>) -> Order {
        Order {
            role,
            secret: secret.into(),
            memory,
            ops: self.ops.clone(),
            sizes: self.sizes.clone(),
            env,
            limits: self.limits,
        }
    }
}

/// The narrower of two bounds, field by field.
fn narrower(asked: &Limits, own: &Limits) -> Result<Limits, TermsError> {
    let least = |what, asked: f64, own: f64| {
        let sound = asked.is_finite() && asked > 0.0;
        sound.then(|| asked.min(own)).ok_or(TermsError::Bound(what))
    };
    if asked.buffer_bytes == 0 {
        return Err(TermsError::Bound("bufferBytes"));
    }
    Ok(Limits {
        deadline_seconds: least("deadlineSeconds", asked.deadline_seconds, own.deadline_seconds)?,
        seconds_each: least("secondsEach", asked.seconds_each, own.seconds_each)?,
        stall_seconds: least("stallSeconds", asked.stall_seconds, own.stall_seconds)?,
        buffer_bytes: asked.buffer_bytes.min(own.buffer_bytes),
        share: least("share", asked.share, own.share)?,
    })
}

/// Whether this can be a session's secret: 32 hexadecimal digits in lower case.
pub fn is_secret(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms() -> Terms {
        Terms {
            profile: "tcp".into(),
            memory: Memory::Host,
            ops: vec![Op::Get, Op::Latency],
            sizes: vec![4096, 64 << 20],
            limits: Limits::default(),
        }
    }

    #[test]
    fn both_sides_bounds_hold() {
        let own = Limits { buffer_bytes: 1 << 20, share: 0.5, deadline_seconds: 20.0, ..Limits::default() };
        let narrowed = terms().within(&own).unwrap();
        assert_eq!(narrowed.sizes, [4096]);
        assert_eq!(narrowed.limits, own);
        assert_eq!(terms().narrowed_to(&narrowed), Ok(()));
        assert_eq!(narrowed.narrowed_to(&terms()), Err(TermsError::Widened("other sizes")));
    }

    #[test]
    fn nonsense_is_refused() {
        let own = Limits::default();
        let none = Terms { ops: vec![], ..terms() };
        assert!(matches!(none.within(&own), Err(TermsError::Count { what: "operations", found: 0, .. })));
        let many = Terms { sizes: vec![8; 33], ..terms() };
        assert!(matches!(many.within(&own), Err(TermsError::Count { what: "sizes", found: 33, .. })));
        for wrong in [f64::NAN, f64::INFINITY, 0.0, -1.0] {
            let endless = Terms { limits: Limits { deadline_seconds: wrong, ..own }, ..terms() };
            assert_eq!(endless.within(&own), Err(TermsError::Bound("deadlineSeconds")), "{wrong}");
        }
        let huge = Terms { sizes: vec![u64::MAX, 0], ..terms() };
        assert_eq!(huge.within(&own), Err(TermsError::TooLarge(128 << 20)));
    }

    #[test]
    fn a_gpus_memory_is_taken_where_both_sides_have_it() {
        let gpu = Terms { memory: Memory::Cuda(3), ..terms() };
        assert_eq!(gpu.own_memory(&Ok(1)), (Memory::Cuda(1), None));
        assert_eq!(terms().own_memory(&Ok(1)), (Memory::Host, Some("the other side has host memory".into())));
        let why = Err("the node has no GPU".to_owned());
        assert_eq!(gpu.own_memory(&why), (Memory::Host, Some("the node has no GPU".into())));
        assert_eq!(gpu.narrowed_to(&terms()), Ok(()), "the called side may have none");
        assert_eq!(gpu.narrowed_to(&Terms { memory: Memory::Cuda(0), ..terms() }), Ok(()));
        assert_eq!(terms().narrowed_to(&gpu), Err(TermsError::Widened("memory of a GPU")));
    }

    #[test]
    fn an_answer_may_not_widen() {
        let wider = |change: fn(&mut Terms)| {
            let mut answer = terms();
            change(&mut answer);
            terms().narrowed_to(&answer).unwrap_err()
        };
        assert_eq!(wider(|answer| answer.profile = "other".into()), TermsError::Widened("another profile"));
        assert_eq!(wider(|answer| answer.ops = vec![Op::Put]), TermsError::Widened("other operations"));
        assert_eq!(wider(|answer| answer.limits.share = 2.0), TermsError::Widened("wider limits"));
        assert_eq!(wider(|answer| answer.sizes.clear()), TermsError::Widened("other sizes"));
    }

    #[test]
    fn secrets_have_one_form() {
        assert!(is_secret("0123456789abcdef0123456789abcdef"));
        for wrong in [
            "",
            "0123456789abcdef0123456789abcde",
            "0123456789ABCDEF0123456789abcdef",
            "g123456789abcdef0123456789abcdef",
        ] {
            assert!(!is_secret(wrong), "{wrong}");
        }
    }
}
