//! `railbind-webhook explain` as people and programs call it.

use std::{
    io::Write as _,
    process::{Command, Output, Stdio},
};

use serde_json::Value;

const NODES: &str = "../tests/demo/nodes.yaml";

fn explain(args: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_railbind-webhook"))
        .arg("explain")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start");
    child.stdin.take().expect("stdin").write_all(input.as_bytes()).expect("write");
    child.wait_with_output().expect("end")
}

#[test]
fn a_workload_from_standard_input_as_json() {
    let deployment = r"
apiVersion: apps/v1
kind: Deployment
metadata: {name: d}
spec:
  template:
    metadata: {labels: {llm-d.ai/role: decode}}
    spec:
      nodeSelector: {railbind.dev/fabric: roce}
      containers: [{name: main, image: vllm/vllm-openai, resources: {limits: {nvidia.com/gpu: 1}}}]
";
    let output = explain(&["-f", "-", "--nodes", NODES, "-o", "json"], deployment);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&answer["managed"], &answer["profile"]), (&true.into(), &"roce-gpudirect".into()));
    for key in ["patch", "reasons", "warnings"] {
        assert!(answer[key].is_array(), "{answer}");
    }
    assert_eq!(answer["patch"][0]["op"], "add");
}

#[test]
fn several_documents_give_a_list_and_text_names_each() {
    let pods = "{kind: Pod, metadata: {name: a}, spec: {containers: [{name: c}]}}\n---\n{kind: List, items: [{kind: Pod, metadata: {name: b}, spec: {containers: []}}]}\n";
    let answer: Value = serde_json::from_slice(&explain(&["-f", "-", "-o", "json"], pods).stdout).unwrap();
    assert_eq!(answer.as_array().unwrap().len(), 2);
    let text = String::from_utf8(explain(&["-f", "-"], pods).stdout).unwrap();
    assert!(text.contains("Pod/a: not ours") && text.contains("Pod/b: not ours"), "{text}");
}

#[test]
fn each_variable_is_explained_also_in_a_list_that_the_pod_did_not_have() {
    let output = explain(&["-f", "tests/pods/llmd-decode-sidecar.yaml", "--nodes", NODES], "");
    let text = String::from_utf8(output.stdout).unwrap();
    let line = text.lines().position(|line| line.contains(r#"/env/-  {"name":"UCX_TLS""#)).expect(&text);
    assert!(text.lines().nth(line + 1).unwrap().starts_with("      "), "{text}");
}

#[test]
fn the_clusters_own_profiles_are_in_the_place_of_the_shipped_ones() {
    let file = |tls: &str| {
        let profile = include_str!("../../policies/profiles/guide/roce-gpudirect.yaml");
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), profile.replace("rc_x,rc,dc_x,dc,cuda_copy,cuda_ipc", tls)).unwrap();
        file
    };
    let pod = ["-f", "tests/pods/llmd-decode-sidecar.yaml", "--nodes", NODES, "--profiles"];
    let own = file("rc,cuda_copy,cuda_ipc,self");
    let output = explain(&[&pod[..], &[own.path().to_str().unwrap()]].concat(), "");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains(r#"{"name":"UCX_TLS","value":"rc,cuda_copy,cuda_ipc,self"}"#), "{text}");
    let wrong = file("\", nonsense: \"");
    let output = explain(&[&pod[..], &[wrong.path().to_str().unwrap()]].concat(), "");
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && error.contains("nonsense"), "{error}");
}

#[test]
fn what_cannot_be_explained_is_said() {
    for (args, input, said) in [
        (&["-f", "-"][..], "kind: Service", "no Pod and no workload"),
        (&["-f", "-"], "{", "not YAML or JSON"),
        (&["-f", "/nonexistent"], "", "reading /nonexistent"),
        (&["-f", "-", "--nodes", "/nonexistent"], "spec: {containers: []}", "reading /nonexistent"),
        (&["-f", "-", "--nodes", "../tests/demo/workers.yaml"], "spec: {containers: []}", "a Namespace, not a Node"),
    ] {
        let output = explain(args, input);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && error.contains(said), "{args:?}: {error}");
    }
}
