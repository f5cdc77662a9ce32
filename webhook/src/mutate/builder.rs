//! A patch in the making: every operation is applied to a working copy at once, so later ones see its effect.

use json_patch::{AddOperation, Patch, PatchOperation, ReplaceOperation, jsonptr::PointerBuf};
use serde_json::{Map, Value};

use super::Malformed;

/// The operations so far, and the object with them applied.
#[derive(Debug)]
pub(super) struct Builder {
    object: Value,
    operations: Vec<PatchOperation>,
}

/// A key as one token of a JSON pointer (RFC 6901): `~` before `/`.
pub(super) fn token(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

impl Builder {
    pub(super) fn new(object: &Value) -> Self {
        Self { object: object.clone(), operations: Vec::new() }
    }

    pub(super) fn finish(self) -> Patch {
        Patch(self.operations)
    }

    /// The value at `pointer`; JSON's null counts as absent, as it does for the API server.
    pub(super) fn get(&self, pointer: &str) -> Option<&Value> {
        self.object.pointer(pointer).filter(|value| !value.is_null())
    }

    /// Makes sure that there is an object at `pointer`, whose parent must be one.
    pub(super) fn object(&mut self, pointer: &str) -> Result<(), Malformed> {
        match self.get(pointer) {
            None => self.add(pointer, Value::Object(Map::new())),
            Some(Value::Object(_)) => Ok(()),
            Some(_) => Err(Malformed { path: pointer.into(), expected: "an object" }),
        }
    }

    /// Appends to the list at `pointer`, which is made if absent.
    pub(super) fn push(&mut self, pointer: &str, value: Value) -> Result<(), Malformed> {
        match self.get(pointer) {
            None => self.add(pointer, Value::Array(vec![value])),
            Some(Value::Array(_)) => self.add(&format!("{pointer}/-"), value),
            Some(_) => Err(Malformed { path: pointer.into(), expected: "a list" }),
        }
    }

    /// Sets a key of the object at `parent`, which is made if absent.
    pub(super) fn set(&mut self, parent: &str, key: &str, value: Value) -> Result<(), Malformed> {
        self.object(parent)?;
        self.add(&format!("{parent}/{}", token(key)), value)
    }

    pub(super) fn annotation(&self, key: &str) -> Option<&str> {
        self.get(&format!("/metadata/annotations/{}", token(key)))?.as_str()
    }

    pub(super) fn set_annotation(&mut self, key: &str, value: &str) -> Result<(), Malformed> {
        self.set("/metadata/annotations", key, Value::String(value.into()))
    }

    /// The list at `pointer`; empty where absent.
    pub(super) fn list(&self, pointer: &str) -> &[Value] {
        self.get(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
    }

    /// Puts another value in the place of the one at `pointer`.
    pub(super) fn replace(&mut self, pointer: &str, value: Value) -> Result<(), Malformed> {
        let malformed = || Malformed { path: pointer.into(), expected: "a value to replace" };
        let path = PointerBuf::parse(pointer).map_err(|_| malformed())?;
        self.apply(PatchOperation::Replace(ReplaceOperation { path, value }), malformed)
    }

    fn add(&mut self, pointer: &str, value: Value) -> Result<(), Malformed> {
        let malformed = || Malformed { path: pointer.into(), expected: "a place in the pod" };
        let path = PointerBuf::parse(pointer).map_err(|_| malformed())?;
        self.apply(PatchOperation::Add(AddOperation { path, value }), malformed)
    }

    fn apply(&mut self, operation: PatchOperation, malformed: impl Fn() -> Malformed) -> Result<(), Malformed> {
        json_patch::patch(&mut self.object, std::slice::from_ref(&operation)).map_err(|_| malformed())?;
        self.operations.push(operation);
        Ok(())
    }
}
