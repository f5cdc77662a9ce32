//! Should this workload be disaggregated here? The guide's break-even, with one's own figures.
//!
//! Total latency = TTFT + OSL × ITL (guide, Break-Even Analysis). What is not given is estimated from the model's shape and a
//! bandwidth, or is the guide's example; the answer says of each figure where it is from.

use serde::Serialize;

mod kv;
mod question;

pub use kv::{KvShape, ShapeError};
pub use question::{Measured, Question};

/// Section of the guide that the formula and the example are from.
pub const BREAK_EVEN: &str = "Break-Even Analysis";
/// Section of the guide with the rules of thumb.
pub const WHEN: &str = "When Disaggregated Makes Sense";
/// Section of the guide with what a transfer adds to the first token.
pub const OVERHEAD: &str = "KV Cache Transfer Overhead";

/// A factor up to which the guide calls slower acceptable: it calls 1.1 so.
const ACCEPTABLE: f64 = 1.15;
/// Points of a curve.
const POINTS: u32 = 60;

/// Time to the first token and between tokens.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Times {
    /// Time to first token in milliseconds.
    pub ttft_ms: f64,
    /// Time between tokens in milliseconds.
    pub itl_ms: f64,
}

impl Times {
    /// Total latency of `osl` tokens, in milliseconds.
    pub fn total(self, osl: f64) -> f64 {
        osl.mul_add(self.itl_ms, self.ttft_ms)
    }
}

/// The guide's example: Llama-3.1-8B-Instruct, ISL 4000, on AWS p5.48xlarge (guide, Break-Even Analysis).
pub const GUIDE_AGGREGATED: Times = Times { ttft_ms: 218.0, itl_ms: 8.0 };
/// The same, disaggregated.
pub const GUIDE_DISAGGREGATED: Times = Times { ttft_ms: 2400.0, itl_ms: 7.8 };
/// Input tokens of that example.
pub const GUIDE_ISL: u32 = 4000;

/// From how many output tokens on disaggregation is not slower.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum BreakEven {
    /// From this many on.
    Tokens(u64),
    /// It is never slower.
    Always,
    /// It is always slower: nothing is gained for each token.
    Never,
}

/// Overhead of the first token, over what each further token gains.
pub fn break_even(aggregated: Times, disaggregated: Times) -> BreakEven {
    let overhead = disaggregated.ttft_ms - aggregated.ttft_ms;
    let gain = aggregated.itl_ms - disaggregated.itl_ms;
    if overhead <= 0.0 {
        return if gain >= 0.0 { BreakEven::Always } else { BreakEven::Never };
    }
    if gain <= 0.0 {
        return BreakEven::Never;
    }
    // 8.0 - 7.8 is not 0.2 in binary: a millionth of a token is not one more.
    let tokens = (overhead / gain - 1e-6).ceil();
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positive; a float's cast saturates")]
    BreakEven::Tokens(tokens as u64)
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Recommendation {
    /// Disaggregate: it is not slower.
    Disaggregate,
    /// A little slower, worth it where prefill and decode must scale apart.
    Acceptable,
    /// Keep prefill and decode together.
    Aggregate,
}

/// A sentence and where it is from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reason {
    /// What.
    pub text: String,
    /// Section of the guide, or who said so.
    pub source: String,
}

/// The KV cache that goes over the network for one request.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Cache {
    /// Bytes of one token, all layers.
    pub bytes_per_token: f64,
    /// Bytes of the whole prompt.
    pub bytes: f64,
    /// How it is computed.
    pub formula: String,
}

/// How long that takes.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Transfer {
    /// 10⁹ bytes a second.
    pub gbytes_per_s: f64,
    /// Where the bandwidth is from.
    pub source: String,
    /// Milliseconds.
    pub ms: f64,
}

/// One point of the two curves.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Point {
    /// Output tokens.
    pub osl: u32,
    /// Total latency in milliseconds.
    pub aggregated_ms: f64,
    /// Total latency in milliseconds.
    pub disaggregated_ms: f64,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Advice {
    /// What to do.
    pub recommendation: Recommendation,
    /// Input tokens.
    pub isl: u32,
    /// Output tokens.
    pub osl: u32,
    /// Both on the same workers.
    pub aggregated: Times,
    /// Prefill and decode apart.
    pub disaggregated: Times,
    /// What the first token waits longer, in milliseconds.
    pub overhead_ms: f64,
    /// From how many output tokens on it pays.
    pub break_even: BreakEven,
    /// Total latency at this OSL, in milliseconds, both on the same workers.
    pub aggregated_total_ms: f64,
    /// The same, apart.
    pub disaggregated_total_ms: f64,
    /// Disaggregated over aggregated: 1.1 is a tenth slower.
    pub factor: f64,
    /// What is moved, where the model's shape is known.
    pub cache: Option<Cache>,
    /// How long that takes, where a bandwidth is known.
    pub transfer: Option<Transfer>,
    /// Why.
    pub reasons: Vec<Reason>,
    /// Figures that are not the caller's own.
    pub assumptions: Vec<Reason>,
    /// Total latency over output tokens, for a plot.
    pub curve: Vec<Point>,
}

/// Answers.
pub fn advise(question: &Question) -> Advice {
    let (aggregated, disaggregated, cache, transfer, assumptions) = question.figures();
    let osl = f64::from(question.osl);
    let (together, apart) = (aggregated.total(osl), disaggregated.total(osl));
    let factor = if together > 0.0 { apart / together } else { 1.0 };
    let even = break_even(aggregated, disaggregated);
    let slow_network = transfer.as_ref().is_some_and(|transfer| transfer.gbytes_per_s < 1.0);
    let recommendation = match factor {
        _ if slow_network && factor > 1.0 => Recommendation::Aggregate,
        factor if factor <= 1.0 => Recommendation::Disaggregate,
        factor if factor <= ACCEPTABLE => Recommendation::Acceptable,
        _ => Recommendation::Aggregate,
    };
    Advice {
        recommendation,
        isl: question.isl,
        osl: question.osl,
        aggregated,
        disaggregated,
        overhead_ms: disaggregated.ttft_ms - aggregated.ttft_ms,
        break_even: even,
        aggregated_total_ms: together,
        disaggregated_total_ms: apart,
        factor,
        reasons: reasons(question, factor, even, disaggregated.ttft_ms - aggregated.ttft_ms, slow_network),
        curve: curve(question.osl, even, aggregated, disaggregated),
        cache,
        transfer,
        assumptions,
    }
}

fn reasons(question: &Question, factor: f64, even: BreakEven, overhead: f64, slow_network: bool) -> Vec<Reason> {
    let osl = question.osl;
    let mut reasons = Vec::new();
    let mut say = |text: String, source: &str| reasons.push(Reason { text, source: source.into() });
    let compared = match factor {
        factor if (0.95..1.05).contains(&factor) => {
            let word = if factor > 1.0 { "longer" } else { "less long" };
            format!("at OSL {osl}, disaggregated takes {:.1} % {word}", (factor - 1.0).abs() * 100.0)
        }
        factor if factor > 1.0 => format!("at OSL {osl}, disaggregated is {factor:.1}x slower"),
        factor => format!("at OSL {osl}, disaggregated is {:.1}x faster", 1.0 / factor.max(f64::EPSILON)),
    };
    say(compared, BREAK_EVEN);
    match even {
        BreakEven::Tokens(tokens) => say(format!("it pays from {} output tokens on", thousands(tokens)), BREAK_EVEN),
        BreakEven::Always => say("the first token is no later, and no later one is slower".into(), BREAK_EVEN),
        BreakEven::Never => say("no number of output tokens makes up for the first token".into(), BREAK_EVEN),
    }
    if osl > 1000 {
        say("more than 1000 output tokens: the overhead is spread over them".into(), WHEN);
    } else if osl < 500 {
        say("under 500 output tokens: the guide would keep prefill and decode together".into(), WHEN);
    }
    if slow_network {
        say(
            "under 1 GB/s is a red flag: RDMA does not carry this; run `kubectl railbind doctor`".into(),
            "Runtime Diagnostics",
        );
    }
    if let Some(like) = like(overhead) {
        say(format!("{overhead:.0} ms more to the first token is what the guide expects of {like}"), OVERHEAD);
    }
    reasons
}

/// The row of the guide's table that an overhead falls into.
fn like(overhead_ms: f64) -> Option<&'static str> {
    match overhead_ms {
        ms if ms < 200.0 => None,
        ms if ms <= 500.0 => Some("InfiniBand with GPUDirect (+200-500ms)"),
        ms if ms <= 800.0 => Some("RoCE with GPUDirect (+300-800ms)"),
        ms if ms < 1000.0 => None,
        ms if ms <= 3000.0 => Some("transfers staged through the host (+1-3s)"),
        ms if ms >= 10_000.0 => Some("TCP (+90-100s): TTFT over 10 s is a red flag"),
        _ => None,
    }
}

fn curve(osl: u32, even: BreakEven, aggregated: Times, disaggregated: Times) -> Vec<Point> {
    let shown = match even {
        BreakEven::Tokens(tokens) => u32::try_from(tokens).unwrap_or(u32::MAX).min(osl.saturating_mul(10)).max(osl),
        BreakEven::Always | BreakEven::Never => osl,
    };
    let end = shown.saturating_add(shown / 4).max(100);
    (0..=POINTS)
        .map(|step| {
            let osl = u32::try_from(u64::from(end) * u64::from(step) / u64::from(POINTS)).unwrap_or(end);
            let tokens = f64::from(osl);
            Point { osl, aggregated_ms: aggregated.total(tokens), disaggregated_ms: disaggregated.total(tokens) }
        })
        .collect()
}

/// `10,910`.
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests;
