//! Pods in, decisions out: one file in `tests/pods` and one snapshot for each.

use std::{collections::BTreeMap, fs, path::Path};

use policies::{node_map::NodeMap, profile::Profiles, select::NodeView};
use serde_json::{Value, json};
use webhook::{explain, mutate};

fn nodes() -> NodeMap {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/nodes.yaml")).expect("nodes.yaml");
    let nodes: Vec<NodeView> = serde_saphyr::from_str(&text).expect("nodes");
    nodes.into_iter().collect()
}

#[test]
fn golden_pods() {
    let nodes = nodes();
    let profiles = Profiles::embedded().unwrap();
    let none = BTreeMap::new();
    let context = mutate::Context {
        namespace_labels: &none,
        namespace_annotations: &none,
        nodes: &nodes,
        profiles: &profiles,
        namespace: "",
        workers: None,
        bounds: None,
        decision: None,
    };
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pods");
    let mut files: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 12, "the golden pods are gone: {files:?}");
    for file in files {
        let pod: Value = serde_saphyr::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
        let outcome = mutate::pod(&pod, &context).unwrap();
        let mut patched = pod.clone();
        json_patch::patch(&mut patched, &outcome.patch).unwrap();
        let again = mutate::pod(&patched, &context).unwrap();
        assert!(again.patch.is_empty(), "{}: {}", file.display(), json!(again.patch));
        insta::with_settings!({ input_file => file.clone(), prepend_module_to_snapshot => false, snapshot_suffix => "", omit_expression => true }, {
            let name = file.file_stem().unwrap().to_string_lossy().into_owned();
            insta::assert_yaml_snapshot!(name, explain::machine(&outcome));
        });
    }
}
