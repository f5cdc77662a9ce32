//! Late binding: the values of the chosen node go into the Binding's annotations, and with them into the pod in the very
//! write that sets its node.
//!
//! The API server checks neither keys nor sizes on this way, and a bad one poisons the pod: every later update of it fails.

use std::collections::BTreeMap;

use json_patch::{AddOperation, Patch, PatchOperation, jsonptr::PointerBuf};
use policies::names::annotation::ENV_PREFIX;
use serde_json::{Map, Value};

/// Bytes of all annotations of one Binding, keys and values.
pub const MAX_TOTAL: usize = 4096;
/// Bytes of the name part of an annotation's key.
const MAX_NAME: usize = 63;

/// Why a Binding gets no values.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BindingError {
    /// An annotation key of this name would poison the pod.
    #[error("{0:?} is no name for an annotation and a variable")]
    Name(String),
    /// A value with control characters.
    #[error("the value of {0} has control characters")]
    Value(String),
    /// Too much.
    #[error("{0} bytes of values; a Binding carries at most {MAX_TOTAL}")]
    TooLarge(usize),
    /// Not what the API server sends.
    #[error("the Binding's metadata or annotations are no object")]
    Shape,
}

/// The node that a Binding is to; `None` where it is to something else.
pub fn target(binding: &Value) -> Option<&str> {
    let target = binding.get("target")?;
    let kind = target.get("kind").and_then(Value::as_str).unwrap_or_default();
    let name = target.get("name").and_then(Value::as_str)?;
    (matches!(kind, "Node" | "") && !name.is_empty()).then_some(name)
}

/// Puts a node's values, by name of the variable, into the Binding's annotations. Nothing else is touched; what is there
/// already and right is not written again.
pub fn patch(binding: &Value, values: &BTreeMap<String, String>) -> Result<Patch, BindingError> {
    let wanted = annotations(values)?;
    let metadata = binding.get("metadata").and_then(Value::as_object).ok_or(BindingError::Shape)?;
    let operations = match metadata.get("annotations") {
        _ if wanted.is_empty() => Vec::new(),
        None | Some(Value::Null) => vec![add(&["metadata", "annotations"], Value::Object(wanted))],
        Some(Value::Object(present)) => wanted
            .into_iter()
            .filter(|(key, value)| present.get(key) != Some(value))
            .map(|(key, value)| add(&["metadata", "annotations", &key], value))
            .collect(),
        Some(Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_)) => {
            return Err(BindingError::Shape);
        }
    };
    Ok(Patch(operations))
}

fn annotations(values: &BTreeMap<String, String>) -> Result<Map<String, Value>, BindingError> {
    let mut total = 0;
    let mut annotations = Map::new();
    for (name, value) in values {
        if !is_annotation_name(name) {
            return Err(BindingError::Name(name.clone()));
        }
        if value.chars().any(char::is_control) {
            return Err(BindingError::Value(name.clone()));
        }
        let key = format!("{ENV_PREFIX}{name}");
        total += key.len() + value.len();
        annotations.insert(key, Value::String(value.clone()));
    }
    if total > MAX_TOTAL { Err(BindingError::TooLarge(total)) } else { Ok(annotations) }
}

/// A variable's name that is also the name part of an annotation's key: a C identifier, at most 63 characters, alphanumeric
/// at both ends.
pub(crate) fn is_annotation_name(name: &str) -> bool {
    let first = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic());
    let last = name.bytes().next_back().is_some_and(|byte| byte.is_ascii_alphanumeric());
    first && last && name.len() <= MAX_NAME && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

fn add(path: &[&str], value: Value) -> PatchOperation {
    PatchOperation::Add(AddOperation { path: PointerBuf::from_tokens(path.iter().copied()), value })
}

#[cfg(test)]
mod tests;
