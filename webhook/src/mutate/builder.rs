//! A patch in the making: every operation is applied to a working copy at once, so later ones see its effect. What lies below
//! something that the patch itself adds goes into that: the API server applies operations one at a time, over the whole pod.

use json_patch::{
    AddOperation, Patch, PatchOperation, ReplaceOperation,
    jsonptr::{Pointer, PointerBuf, Resolve as _, ResolveMut as _},
};
use serde_json::{Map, Value};

use super::Malformed;

/// The operations so far, and the object with them applied.
#[derive(Debug)]
pub(super) struct Builder {
    object: Value,
    /// Where one adds a key to an object, its value is in the object alone until the end.
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
        let Self { mut object, mut operations } = self;
        for operation in &mut operations {
            // As it has become. An element that was appended is not found by its path, and has its value.
            if let PatchOperation::Add(add) = operation
                && let Ok(whole) = object.resolve_mut(&add.path)
            {
                add.value = whole.take();
            }
        }
        Patch(operations)
    }

    /// The value at `pointer`; JSON's null counts as absent, as it does for the API server.
    pub(super) fn get(&self, pointer: &str) -> Option<&Value> {
        let pointer = Pointer::parse(pointer).ok()?;
        self.object.resolve(pointer).ok().filter(|value| !value.is_null())
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
        self.object.get("metadata")?.get("annotations")?.get(key)?.as_str()
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
        let known = self.is_added(pointer);
        let place = self.object.resolve_mut(&path).map_err(|_| malformed())?;
        place.clone_from(&value);
        if !known {
            self.operations.push(PatchOperation::Replace(ReplaceOperation { path, value }));
        }
        Ok(())
    }

    /// Adds a key to an object, or with `-` for a key an element to the end of a list.
    fn add(&mut self, pointer: &str, value: Value) -> Result<(), Malformed> {
        let malformed = || Malformed { path: pointer.into(), expected: "a place in the pod" };
        let path = PointerBuf::parse(pointer).map_err(|_| malformed())?;
        let (parent, key) = path.split_back().ok_or_else(malformed)?;
        let known = self.is_added(pointer);
        let kept = match self.object.resolve_mut(parent) {
            Ok(Value::Object(fields)) => {
                fields.insert(key.decoded().into_owned(), value);
                Value::Null
            }
            Ok(Value::Array(items)) if key.encoded() == "-" => {
                let kept = if known { Value::Null } else { value.clone() };
                items.push(value);
                kept
            }
            _ => return Err(malformed()),
        };
        if !known {
            self.operations.push(PatchOperation::Add(AddOperation { path, value: kept }));
        }
        Ok(())
    }

    /// Whether an operation adds this place, or one above it, whose value has all that comes later in it.
    fn is_added(&self, pointer: &str) -> bool {
        self.operations.iter().any(|operation| {
            let PatchOperation::Add(add) = operation else { return false };
            pointer.strip_prefix(add.path.as_str()).is_some_and(|below| match below {
                "" => !pointer.ends_with("/-"),
                below => below.starts_with('/'),
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::Builder;

    /// The operations, and the object that they make, which must be the builder's own.
    fn built(object: &Value, write: impl FnOnce(&mut Builder)) -> Value {
        let mut builder = Builder::new(object);
        write(&mut builder);
        let made = builder.object.clone();
        let patch = builder.finish();
        let mut applied = object.clone();
        json_patch::patch(&mut applied, &patch).unwrap();
        assert_eq!(applied, made);
        json!(patch)
    }

    #[test]
    fn what_lies_below_something_added_goes_into_it() {
        let patch = built(&json!({"spec": {"own": [1]}}), |builder| {
            builder.object("/spec/a").unwrap();
            builder.set("/spec/a/b~1c", "d", json!({"e": []})).unwrap();
            builder.push("/spec/own", json!({"f": 0})).unwrap();
            builder.push("/spec/a/b~1c/d/e", json!({"g": 1})).unwrap();
            builder.push("/spec/a/b~1c/d/e", json!(2)).unwrap();
            builder.replace("/spec/a/b~1c/d/e/0", json!(3)).unwrap();
            builder.object("/spec/ab").unwrap();
        });
        assert_eq!(
            patch,
            json!([
                {"op": "add", "path": "/spec/a", "value": {"b/c": {"d": {"e": [3, 2]}}}},
                {"op": "add", "path": "/spec/own/-", "value": {"f": 0}},
                {"op": "add", "path": "/spec/ab", "value": {}},
            ])
        );
    }

    #[test]
    fn a_key_that_is_set_twice_is_one_operation_and_elements_are_one_each() {
        let patch = built(&json!({"spec": {"own": []}}), |builder| {
            builder.set("/spec", "a", json!(1)).unwrap();
            builder.set("/spec", "a", json!(2)).unwrap();
            builder.push("/spec/own", json!(3)).unwrap();
            builder.push("/spec/own", json!(3)).unwrap();
        });
        assert_eq!(
            patch,
            json!([
                {"op": "add", "path": "/spec/a", "value": 2},
                {"op": "add", "path": "/spec/own/-", "value": 3},
                {"op": "add", "path": "/spec/own/-", "value": 3},
            ])
        );
    }

    #[test]
    fn what_lies_below_something_of_the_user_is_an_operation_of_its_own() {
        let patch = built(&json!({"spec": {"own": [{"f": null}], "none": null}}), |builder| {
            builder.push("/spec/own", json!({})).unwrap();
            // The element that was just appended: its operation has no number to be found by.
            builder.set("/spec/own/1", "x", json!(1)).unwrap();
            builder.set("/spec/own/0/f", "y", json!(2)).unwrap();
            builder.push("/spec/none", json!(3)).unwrap();
        });
        let paths: Vec<&Value> = patch.as_array().unwrap().iter().map(|operation| &operation["path"]).collect();
        assert_eq!(paths, ["/spec/own/-", "/spec/own/1/x", "/spec/own/0/f", "/spec/none"]);
    }

    #[test]
    fn a_place_that_is_not_there_is_said() {
        let mut builder = Builder::new(&json!({"spec": {"own": 1}}));
        assert_eq!(
            builder.object("/spec/own").unwrap_err().to_string(),
            "/spec/own: expected an object; the pod is left alone"
        );
        assert!(builder.push("/spec/own", json!(1)).is_err());
        assert!(builder.replace("/spec/missing", json!(1)).is_err());
        assert!(builder.object("/missing/too").is_err());
        assert!(builder.finish().is_empty());
    }
}
