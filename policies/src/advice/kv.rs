//! How large a KV cache is, from a model's shape.

use std::str::FromStr;

use serde::Serialize;
use serde_json::Value;

/// What of a model says how large its KV cache is.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct KvShape {
    /// Layers.
    pub layers: u32,
    /// What each of them keeps for a token.
    pub kept: Kept,
    /// Bits of one value.
    pub bits: u32,
    /// What makes the size a bound and not a value.
    pub note: Option<String>,
}

/// What a layer keeps for a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Kept {
    /// A key and a value for each head (MHA, GQA, MQA).
    Heads {
        /// Key/value heads.
        kv_heads: u32,
        /// Values in a head.
        head_dim: u32,
    },
    /// One compressed vector and one rotary key (multi-head latent attention).
    Latent {
        /// `kv_lora_rank`.
        rank: u32,
        /// `qk_rope_head_dim`.
        rope: u32,
    },
}

/// A shape that makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ShapeError {
    /// Not four parts.
    #[error("{0:?} is no shape: give layers,kv_heads,head_dim,dtype, such as 32,8,128,bf16")]
    Parts(String),
    /// A part that is no positive number.
    #[error("{name}: {value:?} is no whole number from 1 to 1,000,000")]
    Number {
        /// Which.
        name: &'static str,
        /// What was given.
        value: String,
    },
    /// A type nobody knows.
    #[error("dtype {0:?} is not known: give fp32, bf16, fp16, fp8, int8 or fp4")]
    Type(String),
    /// A configuration without the field.
    #[error("the model's config.json has no {0}: give the shape with --model-shape layers,kv_heads,head_dim,dtype")]
    Missing(&'static str),
}

impl KvShape {
    /// Bytes of one token, all layers.
    pub fn bytes_per_token(&self) -> f64 {
        let values = match self.kept {
            Kept::Heads { kv_heads, head_dim } => 2.0 * f64::from(kv_heads) * f64::from(head_dim),
            Kept::Latent { rank, rope } => f64::from(rank) + f64::from(rope),
        };
        f64::from(self.layers) * values * f64::from(self.bits) / 8.0
    }

    /// The same in words.
    pub fn formula(&self) -> String {
        let Self { layers, bits, .. } = self;
        match self.kept {
            Kept::Heads { kv_heads, head_dim } => {
                format!("2 (K and V) × {layers} layers × {kv_heads} KV heads × {head_dim} × {bits} bits")
            }
            Kept::Latent { rank, rope } => format!("{layers} layers × ({rank} latent + {rope} rotary) × {bits} bits"),
        }
    }

    /// From a `config.json` as Hugging Face's transformers writes it.
    ///
    /// # Errors
    /// A field that is needed is not there, or makes no sense.
    pub fn from_config(config: &Value) -> Result<Self, ShapeError> {
        // Models that also see or hear keep the language model's part apart.
        let part = ["text_config", "llm_config", "language_config"].iter().find(|key| config[**key].is_object());
        let text = part.map_or(config, |key| &config[*key]);
        let find = |names: &[&'static str]| {
            let found = names.iter().find_map(|name| Some((*name, text.get(*name).filter(|value| !value.is_null())?)));
            found.map(|(name, value)| number(name, &value.to_string())).transpose()
        };
        let need = |names: &[&'static str]| find(names)?.ok_or(ShapeError::Missing(names[0]));
        let layers = need(&["num_hidden_layers", "n_layer", "num_layers"])?;
        let kept = if let (Some(rank), Some(rope)) = (find(&["kv_lora_rank"])?, find(&["qk_rope_head_dim"])?) {
            Kept::Latent { rank, rope }
        } else {
            let heads = need(&["num_attention_heads", "n_head"])?;
            let head_dim = match find(&["head_dim"])? {
                Some(dim) => dim,
                None => need(&["hidden_size", "n_embd"])? / heads,
            };
            Kept::Heads { kv_heads: find(&["num_key_value_heads"])?.unwrap_or(heads), head_dim }
        };
        let kind = ["torch_dtype", "dtype"].iter().find_map(|key| text[*key].as_str().or(config[*key].as_str()));
        let window = text["layer_types"]
            .as_array()
            .is_some_and(|kinds| kinds.iter().any(|kind| kind.as_str().is_some_and(|kind| kind != "full_attention")));
        let note = window.then(|| "some layers keep a window or a state only: the size is an upper bound".to_owned());
        Ok(Self { layers, kept, bits: bits(kind.unwrap_or("bf16"))?, note })
    }
}

impl FromStr for KvShape {
    type Err = ShapeError;

    /// `layers,kv_heads,head_dim,dtype`.
    fn from_str(text: &str) -> Result<Self, ShapeError> {
        let parts: Vec<&str> = text.split(',').map(str::trim).collect();
        let [layers, kv_heads, head_dim, kind] = parts[..] else { return Err(ShapeError::Parts(text.into())) };
        let kept = Kept::Heads { kv_heads: number("kv_heads", kv_heads)?, head_dim: number("head_dim", head_dim)? };
        Ok(Self { layers: number("layers", layers)?, kept, bits: bits(kind)?, note: None })
    }
}

fn number(name: &'static str, text: &str) -> Result<u32, ShapeError> {
    let number = text.parse().ok().filter(|number| (1..=1_000_000).contains(number));
    number.ok_or_else(|| ShapeError::Number { name, value: text.chars().take(40).collect() })
}

fn bits(kind: &str) -> Result<u32, ShapeError> {
    match kind.to_ascii_lowercase().trim_start_matches("torch.") {
        "fp32" | "float32" | "f32" => Ok(32),
        "bf16" | "bfloat16" | "fp16" | "float16" | "f16" | "half" | "auto" => Ok(16),
        "fp8" | "int8" | "fp8_e4m3" | "fp8_e5m2" | "float8_e4m3fn" | "float8_e5m2" => Ok(8),
        "fp4" | "int4" | "nvfp4" | "mxfp4" => Ok(4),
        _ => Err(ShapeError::Type(kind.chars().take(40).collect())),
    }
}
