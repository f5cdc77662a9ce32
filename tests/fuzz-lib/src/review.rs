//! Reviews from bytes: the golden pods with parts of them changed in ways that no API server would let through.

use std::{fs, path::Path, sync::LazyLock};

use arbitrary::Arbitrary;
use serde_json::{Map, Value, json};

/// The golden pods and a Binding, as objects of reviews.
pub static OBJECTS: LazyLock<Vec<Value>> = LazyLock::new(|| {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../webhook/tests/pods");
    let mut files: Vec<_> =
        fs::read_dir(folder).expect("the golden pods").map(|file| file.expect("a file").path()).collect();
    files.sort();
    let pods =
        files.iter().map(|file| serde_saphyr::from_str(&fs::read_to_string(file).expect("a pod")).expect("YAML"));
    let binding = json!({"metadata": {"name": "w"}, "target": {"kind": "Node", "name": "roce-1"}});
    pods.chain([binding]).collect()
});

/// What a place in a review becomes.
#[derive(Debug, Arbitrary)]
enum Change {
    Remove,
    Null,
    Flag(bool),
    Number(i64),
    Fraction(f64),
    Text(String),
    /// One of the words that mean something to us.
    Word(u8),
    EmptyList,
    EmptyObject,
    /// A list of what was there.
    Wrap,
    /// What was there, in a list as often as this.
    Repeat(u8),
    /// Below a chain of objects, this deep.
    Sink(u8),
    /// A field beside the others.
    Field(u8, Box<Change>),
    /// What is at another place of the object.
    Other(Vec<u8>),
    /// A very long text.
    Long(u16),
}

/// A review as the API server would send it but for these changes.
#[derive(Debug, Arbitrary)]
pub struct Mutated {
    object: u8,
    strict: bool,
    /// By steps from the top of the object, each the number of a field or an element.
    changes: Vec<(Vec<u8>, Change)>,
    /// The same for the whole review.
    outside: Option<(Vec<u8>, Change)>,
}

const WORDS: &[&str] = &[
    "enabled",
    "disabled",
    "deny",
    "override",
    "preferred",
    "none",
    "guide",
    "nixl",
    "auto",
    "roce-1",
    "ib-1",
    "main",
    "decode",
    "railbind.dev/inject",
    "railbind.dev/containers",
    "railbind.dev/placement",
    "railbind.dev/conflicts",
    "railbind.dev/no-rdma",
    "railbind.dev/profile-set",
    "railbind.dev/ucx-version",
    "railbind.dev/decision",
    "railbind.dev/group",
    "llm-d.ai/role",
    "llm-d.ai/model",
    "metadata",
    "labels",
    "annotations",
    "spec",
    "containers",
    "initContainers",
    "env",
    "envFrom",
    "name",
    "value",
    "valueFrom",
    "resources",
    "limits",
    "requests",
    "claims",
    "nvidia.com/gpu",
    "rdma/ib",
    "vpc.amazonaws.com/efa",
    "securityContext",
    "capabilities",
    "add",
    "drop",
    "volumes",
    "volumeMounts",
    "mountPath",
    "/dev/shm",
    "emptyDir",
    "affinity",
    "nodeAffinity",
    "podAffinity",
    "podAntiAffinity",
    "requiredDuringSchedulingIgnoredDuringExecution",
    "preferredDuringSchedulingIgnoredDuringExecution",
    "nodeSelectorTerms",
    "matchExpressions",
    "matchFields",
    "key",
    "operator",
    "values",
    "In",
    "NotIn",
    "Exists",
    "nodeName",
    "nodeSelector",
    "tolerations",
    "restartPolicy",
    "Always",
    "args",
    "command",
    "--disaggregation-mode",
    "UCX_TLS",
    "UCX_IB_GID_INDEX",
    "UCX_RNDV_SCHEME",
    "runAsUser",
    "runAsNonRoot",
    "target",
    "kind",
    "Node",
    "{\"profile\":\"tcp\"}",
    "kubernetes.io/config.mirror",
    "a/b~c",
    "",
    "-",
    "0",
    "18446744073709551615",
    "é",
];

fn word(at: u8) -> &'static str {
    WORDS[usize::from(at) % WORDS.len()]
}

impl Mutated {
    /// The review's body, and whether it is about a Binding.
    pub fn body(&self) -> (String, bool) {
        let which = usize::from(self.object) % OBJECTS.len();
        let binding = which == OBJECTS.len() - 1;
        let mut object = OBJECTS[which].clone();
        for (steps, change) in self.changes.iter().take(16) {
            apply(&mut object, steps, change);
        }
        let (kind, subresource) = if binding { ("Binding", "binding") } else { ("Pod", "") };
        let namespace = if self.strict { "strict" } else { "ns" };
        let mut review = review(kind, subresource, namespace, &object);
        if let Some((steps, change)) = &self.outside {
            apply(&mut review, steps, change);
        }
        (review.to_string(), binding)
    }
}

/// The review of a creation.
pub fn review(kind: &str, subresource: &str, namespace: &str, object: &Value) -> Value {
    json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": "u-1",
            "kind": {"group": "", "version": "v1", "kind": kind},
            "resource": {"group": "", "version": "v1", "resource": "pods"},
            "subResource": subresource, "namespace": namespace, "operation": "CREATE", "object": object,
        },
    })
}

/// The place that some steps lead to, as far as they lead.
fn place<'a>(mut value: &'a mut Value, steps: &[u8]) -> &'a mut Value {
    for &step in steps.iter().take(12) {
        let count = match &*value {
            Value::Array(items) => items.len(),
            Value::Object(fields) => fields.len(),
            _ => 0,
        };
        if count == 0 {
            return value;
        }
        let at = usize::from(step) % count;
        value = match value {
            Value::Array(items) => &mut items[at],
            Value::Object(fields) => fields.values_mut().nth(at).expect("as many as were counted"),
            other => return other,
        };
    }
    value
}

fn apply(root: &mut Value, steps: &[u8], change: &Change) {
    if let Change::Remove = change {
        let Some((&last, above)) = steps.split_last() else { return };
        match place(root, above) {
            Value::Object(fields) if !fields.is_empty() => {
                let at = usize::from(last) % fields.len();
                let key = fields.keys().nth(at).cloned().unwrap_or_default();
                fields.remove(&key);
            }
            Value::Array(items) if !items.is_empty() => drop(items.remove(usize::from(last) % items.len())),
            _ => {}
        }
        return;
    }
    let other = match change {
        Change::Other(steps) => Some(place(&mut root.clone(), steps).clone()),
        _ => None,
    };
    let here = place(root, steps);
    match other {
        // Nothing may grow without end: a place can hold the whole object, and that again.
        Some(other) if other.to_string().len() < 16 << 10 => *here = other,
        Some(_) => {}
        None => *here = made(change, here.take()),
    }
}

fn made(change: &Change, old: Value) -> Value {
    match change {
        Change::Remove | Change::Null | Change::Other(_) => Value::Null,
        Change::Flag(flag) => json!(flag),
        Change::Number(number) => json!(number),
        Change::Fraction(number) => json!(number),
        Change::Text(text) => json!(text),
        Change::Word(at) => json!(word(*at)),
        Change::EmptyList => json!([]),
        Change::EmptyObject => json!({}),
        Change::Wrap => json!([old]),
        Change::Repeat(count) if old.to_string().len() < 2048 => Value::Array(vec![old; usize::from(*count)]),
        Change::Repeat(_) => old,
        Change::Sink(depth) => (0..*depth).fold(old, |below, at| json!({word(at): below})),
        Change::Field(key, change) => {
            let mut fields = match old {
                Value::Object(fields) => fields,
                other => Map::from_iter([("was".to_owned(), other)]),
            };
            let before = fields.remove(word(*key)).unwrap_or_default();
            fields.insert(word(*key).to_owned(), made(change, before));
            Value::Object(fields)
        }
        Change::Long(length) => json!("x".repeat(usize::from(*length))),
    }
}
