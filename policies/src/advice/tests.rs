use rstest::rstest;
use serde_json::json;

use super::{
    BreakEven, GUIDE_AGGREGATED, GUIDE_DISAGGREGATED, KvShape, Measured, Question, Recommendation, ShapeError, Times,
    advise, break_even, thousands,
};

fn guide(osl: u32) -> Question {
    Question { isl: 4000, osl, ..Question::default() }
}

/// Guide, Break-Even Analysis: "2182ms / (8.0 - 7.8)ms per token = 10,910 tokens".
#[test]
fn the_guides_break_even() {
    assert_eq!(break_even(GUIDE_AGGREGATED, GUIDE_DISAGGREGATED), BreakEven::Tokens(10_910));
    let advice = advise(&guide(2000));
    assert!((advice.overhead_ms - 2182.0).abs() < 1e-9, "{}", advice.overhead_ms);
    assert!(advice.reasons.iter().any(|reason| reason.text.contains("10,910")), "{:?}", advice.reasons);
}

/// Guide, Break-Even Analysis: "At OSL=2000: Disagg is 1.1x slower (acceptable). At OSL=100: Disagg is 3.1x slower (not recommended)".
#[rstest]
#[case(2000, "1.1", Recommendation::Acceptable)]
#[case(100, "3.1", Recommendation::Aggregate)]
#[case(10_909, "1.0", Recommendation::Acceptable)]
#[case(10_910, "1.0", Recommendation::Disaggregate)]
#[case(0, "11.0", Recommendation::Aggregate)]
fn the_guides_factors(#[case] osl: u32, #[case] factor: &str, #[case] recommendation: Recommendation) {
    let advice = advise(&guide(osl));
    assert_eq!((format!("{:.1}", advice.factor).as_str(), advice.recommendation), (factor, recommendation));
}

#[rstest]
#[case(100.0, 8.0, 90.0, 8.0, BreakEven::Always)]
#[case(100.0, 8.0, 90.0, 9.0, BreakEven::Never)]
#[case(100.0, 8.0, 200.0, 8.0, BreakEven::Never)]
#[case(100.0, 8.0, 200.0, 9.0, BreakEven::Never)]
#[case(100.0, 8.0, 110.0, 7.0, BreakEven::Tokens(10))]
fn break_evens(#[case] ttft: f64, #[case] itl: f64, #[case] ttft_d: f64, #[case] itl_d: f64, #[case] even: BreakEven) {
    let times = |ttft_ms, itl_ms| Times { ttft_ms, itl_ms };
    assert_eq!(break_even(times(ttft, itl), times(ttft_d, itl_d)), even);
}

#[test]
fn cache_and_transfer() {
    // Llama-3.1-8B: 32 layers, 8 KV heads of 128, bf16: 128 KiB a token (model card's config.json).
    let llama: KvShape = "32,8,128,bf16".parse().unwrap();
    assert!((llama.bytes_per_token() - 131_072.0).abs() < 0.1);
    let question = Question {
        ttft_agg: Some(200.0),
        itl_agg: Some(8.0),
        shape: Some(llama),
        bandwidth: Some(Measured { gbytes_per_s: 47.1, source: "self-test".into() }),
        ..guide(1500)
    };
    let advice = advise(&question);
    let transfer = advice.transfer.unwrap();
    assert!((transfer.ms - 11.13).abs() < 0.01, "{}", transfer.ms);
    assert!((advice.overhead_ms - transfer.ms).abs() < 1e-9);
    assert_eq!(advice.recommendation, Recommendation::Disaggregate);
    // The same over TCP at 0.1 GB/s is the guide's red flag.
    let slow = Question { bandwidth: Some(Measured { gbytes_per_s: 0.1, source: "x".into() }), ..question };
    let advice = advise(&slow);
    assert_eq!(advice.recommendation, Recommendation::Aggregate);
    assert!(advice.reasons.iter().any(|reason| reason.text.contains("red flag")));
}

#[test]
fn shapes_of_models() {
    let llama = json!({"num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "hidden_size": 4096, "torch_dtype": "bfloat16"});
    assert!((KvShape::from_config(&llama).unwrap().bytes_per_token() - 131_072.0).abs() < 0.1);
    // DeepSeek-V3: 61 layers, latent 512 + rotary 64: 70,272 bytes a token in bf16.
    let deepseek = json!({"num_hidden_layers": 61, "num_attention_heads": 128, "num_key_value_heads": 128, "kv_lora_rank": 512, "qk_rope_head_dim": 64, "torch_dtype": "bfloat16"});
    assert!((KvShape::from_config(&deepseek).unwrap().bytes_per_token() - 70_272.0).abs() < 0.1);
    let nested = json!({"text_config": llama, "torch_dtype": "bfloat16"});
    assert!(KvShape::from_config(&nested).is_ok());
    assert_eq!(KvShape::from_config(&json!({})), Err(ShapeError::Missing("num_hidden_layers")));
    assert!(matches!(KvShape::from_config(&json!({"num_hidden_layers": -1})), Err(ShapeError::Number { .. })));
}

#[rstest]
#[case("32,8,128")]
#[case("32,8,128,bf16,1")]
#[case("0,8,128,bf16")]
#[case("32,8,128,complex")]
#[case("99999999999,8,128,bf16")]
#[case("")]
fn shapes_that_make_no_sense(#[case] text: &str) {
    assert!(text.parse::<KvShape>().is_err());
}

#[test]
fn what_is_assumed_is_said() {
    let sources = |question: &Question| advise(question).assumptions.len();
    assert_eq!(sources(&guide(100)), 4);
    let own = Question {
        ttft_agg: Some(1.0),
        itl_agg: Some(1.0),
        ttft_disagg: Some(1.0),
        itl_disagg: Some(1.0),
        isl: 17,
        ..guide(100)
    };
    assert_eq!(sources(&own), 0);
    assert_eq!(thousands(1_234_567), "1,234,567");
    assert_eq!(thousands(12), "12");
}
