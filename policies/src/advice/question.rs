//! What is asked, and where each figure of the answer is from.

use super::{BREAK_EVEN, Cache, GUIDE_AGGREGATED, GUIDE_DISAGGREGATED, GUIDE_ISL, KvShape, Reason, Times, Transfer};

/// A bandwidth and where it is from.
#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    /// 10⁹ bytes a second.
    pub gbytes_per_s: f64,
    /// Who says so.
    pub source: String,
}

/// A workload, and what is known about it. Times are in milliseconds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Question {
    /// Input tokens.
    pub isl: u32,
    /// Output tokens.
    pub osl: u32,
    /// Time to first token, prefill and decode on the same workers.
    pub ttft_agg: Option<f64>,
    /// Time between tokens, on the same workers.
    pub itl_agg: Option<f64>,
    /// Time to first token, apart.
    pub ttft_disagg: Option<f64>,
    /// Time between tokens, apart.
    pub itl_disagg: Option<f64>,
    /// The model.
    pub shape: Option<KvShape>,
    /// The network.
    pub bandwidth: Option<Measured>,
}

impl Question {
    /// Both pairs of times, what is moved, how long that takes, and which of them are not the caller's own.
    pub(super) fn figures(&self) -> (Times, Times, Option<Cache>, Option<Transfer>, Vec<Reason>) {
        let mut assumptions = Vec::new();
        let cache = self.shape.as_ref().map(|shape| Cache {
            bytes_per_token: shape.bytes_per_token(),
            bytes: shape.bytes_per_token() * f64::from(self.isl),
            formula: shape.formula(),
        });
        let transfer = cache.as_ref().zip(self.bandwidth.as_ref()).map(|(cache, bandwidth)| Transfer {
            gbytes_per_s: bandwidth.gbytes_per_s,
            source: bandwidth.source.clone(),
            ms: cache.bytes / (bandwidth.gbytes_per_s * 1e9) * 1e3,
        });
        let mut assume = |text: String, source: &str| assumptions.push(Reason { text, source: source.into() });
        let example = "guide, Break-Even Analysis (Llama-3.1-8B, ISL 4000, p5.48xlarge)";
        let mut or = |own: Option<f64>, guide: f64, what: &str, flag: &str| {
            own.unwrap_or_else(|| {
                assume(format!("{what} {guide} ms; your own: {flag}"), example);
                guide
            })
        };
        let aggregated = Times {
            ttft_ms: or(self.ttft_agg, GUIDE_AGGREGATED.ttft_ms, "aggregated TTFT", "--ttft-agg"),
            itl_ms: or(self.itl_agg, GUIDE_AGGREGATED.itl_ms, "aggregated ITL", "--itl-agg"),
        };
        // The example's times belong together: with times of one's own, its disaggregated ones say nothing.
        let own = self.ttft_agg.is_some() || self.itl_agg.is_some();
        let ttft_ms = match (self.ttft_disagg, &transfer) {
            (Some(own), _) => own,
            (None, Some(transfer)) => {
                let text = format!(
                    "disaggregated TTFT = aggregated TTFT + {:.1} ms of transfer, without queueing; measured: --ttft-disagg",
                    transfer.ms
                );
                assume(text, "KV cache size over bandwidth");
                aggregated.ttft_ms + transfer.ms
            }
            (None, None) if own => {
                let overhead = GUIDE_DISAGGREGATED.ttft_ms - GUIDE_AGGREGATED.ttft_ms;
                let text = format!(
                    "disaggregated TTFT = aggregated TTFT + {overhead} ms; your own: --ttft-disagg, or --model-shape and --bandwidth"
                );
                assume(text, example);
                aggregated.ttft_ms + overhead
            }
            (None, None) => {
                let ms = GUIDE_DISAGGREGATED.ttft_ms;
                assume(format!("disaggregated TTFT {ms} ms; your own: --ttft-disagg"), example);
                ms
            }
        };
        let itl_ms = self.itl_disagg.unwrap_or_else(|| {
            let ratio = GUIDE_DISAGGREGATED.itl_ms / GUIDE_AGGREGATED.itl_ms;
            let ms = if self.itl_agg.is_some() { aggregated.itl_ms * ratio } else { GUIDE_DISAGGREGATED.itl_ms };
            assume(format!("disaggregated ITL {ms:.3} ms, {ratio} of aggregated; your own: --itl-disagg"), example);
            ms
        });
        if self.isl != GUIDE_ISL && (self.ttft_agg.is_none() || (self.ttft_disagg.is_none() && transfer.is_none())) {
            assume(
                format!("the guide's times are of ISL {GUIDE_ISL}; at ISL {} they are others", self.isl),
                &format!("guide, {BREAK_EVEN}"),
            );
        }
        (aggregated, Times { ttft_ms, itl_ms }, cache, transfer, assumptions)
    }
}
