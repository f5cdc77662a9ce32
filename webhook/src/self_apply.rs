//! Our own check of a patch before it is sent: the API server rejects the pod on a patch that does not apply, even with
//! `failurePolicy: Ignore`, and obeys one that reaches too far.

use std::borrow::Cow;

use json_patch::{Patch, PatchOperation, jsonptr::Resolve as _};
use serde_json::Value;

/// One step of a path that may be written.
#[derive(Debug, Clone, Copy)]
pub enum Step {
    /// This key.
    Key(&'static str),
    /// A key that starts so.
    Prefix(&'static str),
    /// An element of an array, by number.
    Index,
    /// Whatever is below, and the place itself.
    Rest,
}

use Step::{Index, Key, Prefix, Rest};

/// The places that a patch may write.
#[derive(Debug, Clone, Copy)]
pub struct AllowList(&'static [&'static [Step]]);

/// For pods.
pub const POD: AllowList = AllowList(&[
    &[Key("metadata"), Key("annotations"), Prefix("railbind.dev/")],
    &[Key("metadata"), Key("annotations"), Prefix("env.railbind.dev/")],
    &[Key("spec"), Key("affinity"), Rest],
    &[Key("spec"), Key("volumes"), Rest],
    &[Key("spec"), Key("containers"), Index, Key("env"), Rest],
    &[Key("spec"), Key("containers"), Index, Key("resources"), Rest],
    &[Key("spec"), Key("containers"), Index, Key("securityContext"), Rest],
    &[Key("spec"), Key("containers"), Index, Key("volumeMounts"), Rest],
    &[Key("spec"), Key("initContainers"), Index, Key("env"), Rest],
    &[Key("spec"), Key("initContainers"), Index, Key("resources"), Rest],
    &[Key("spec"), Key("initContainers"), Index, Key("securityContext"), Rest],
    &[Key("spec"), Key("initContainers"), Index, Key("volumeMounts"), Rest],
]);

/// For bindings.
pub const BINDING: AllowList = AllowList(&[&[Key("metadata"), Key("annotations"), Prefix("env.railbind.dev/")]]);

/// Why a patch is not sent.
#[derive(Debug, thiserror::Error)]
pub enum SelfCheckError {
    /// It does not apply.
    #[error("the patch does not apply: {0}")]
    Apply(#[from] json_patch::PatchError),
    /// An operation that we never send: one that tests or takes away.
    #[error("operation {0} is neither add nor replace")]
    Operation(usize),
    /// A place that we may not write.
    #[error("{0} may not be written")]
    Place(String),
    /// A list or an object would be put in the place of another, and what we do not know in it would be lost.
    #[error("{0} has content that would be lost")]
    Lossy(String),
    /// `null` takes away.
    #[error("{0} would become null")]
    Null(String),
}

/// The patch, if it may be sent and changes the object; `None` if it changes nothing.
pub fn patch_checked(object: &Value, patch: Patch, allow: AllowList) -> Result<Option<Patch>, SelfCheckError> {
    if patch.is_empty() {
        return Ok(None);
    }
    let mut result = object.clone();
    for (number, operation) in patch.iter().enumerate() {
        let (pointer, value) = match operation {
            PatchOperation::Add(add) => (&add.path, &add.value),
            PatchOperation::Replace(replace) => (&replace.path, &replace.value),
            PatchOperation::Remove(_) | PatchOperation::Move(_) | PatchOperation::Copy(_) | PatchOperation::Test(_) => {
                return Err(SelfCheckError::Operation(number));
            }
        };
        if value.is_null() {
            return Err(SelfCheckError::Null(pointer.to_string()));
        }
        let place: Vec<Cow<'_, str>> = pointer.tokens().map(|token| Cow::Owned(token.decoded().into_owned())).collect();
        if !allow.permits(&place, value) {
            return Err(SelfCheckError::Place(pointer.to_string()));
        }
        let overwritten = result.resolve(pointer).ok().filter(|_| !inserts(operation, &result));
        if overwritten.is_some_and(|old| has_content(old) && !is_same_variable(&place, old, value)) {
            return Err(SelfCheckError::Lossy(pointer.to_string()));
        }
        json_patch::patch(&mut result, std::slice::from_ref(operation))?;
    }
    Ok((result != *object).then_some(patch))
}

/// Whether the operation makes room in an array rather than overwriting something.
fn inserts(operation: &PatchOperation, object: &Value) -> bool {
    let PatchOperation::Add(add) = operation else { return false };
    add.path.parent().and_then(|parent| object.resolve(parent).ok()).is_some_and(Value::is_array)
}

/// Whether a container's variable gets another value: its name is the same.
fn is_same_variable(place: &[Cow<'_, str>], old: &Value, new: &Value) -> bool {
    let [spec, list, _, env, _] = place else { return false };
    let there = spec == "spec" && (list == "containers" || list == "initContainers") && env == "env";
    let name = |value: &Value| value.get("name").and_then(Value::as_str).map(str::to_owned);
    there && name(old).is_some() && name(old) == name(new)
}

fn has_content(value: &Value) -> bool {
    match value {
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

impl AllowList {
    /// Whether this value may be put there: the place is in the list, or is above places of the list and the value has
    /// nothing beside them.
    fn permits(self, place: &[Cow<'_, str>], value: &Value) -> bool {
        if self.0.iter().any(|pattern| holds(pattern, place)) {
            return true;
        }
        let above = self.0.iter().any(|pattern| {
            // An object in the place of an array's element would be a new element: a container, say.
            pattern.len() > place.len()
                && holds(&pattern[..place.len()], place)
                && !matches!(pattern[..place.len()].last(), Some(Index))
        });
        match value {
            Value::Object(fields) if above => fields.iter().all(|(key, value)| {
                let mut below = place.to_vec();
                below.push(Cow::Borrowed(key));
                self.permits(&below, value)
            }),
            _ => false,
        }
    }
}

fn holds(pattern: &[Step], place: &[Cow<'_, str>]) -> bool {
    match (pattern, place) {
        ([Rest], _) | ([], []) => true,
        ([step, pattern @ ..], [key, place @ ..]) => {
            let here = match step {
                Key(want) => key == want,
                Prefix(want) => key.len() > want.len() && key.starts_with(want),
                Index => !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_digit()),
                Rest => false,
            };
            here && holds(pattern, place)
        }
        ([], _) | (_, []) => false,
    }
}

#[cfg(test)]
mod tests;
