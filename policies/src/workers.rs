//! Recognising workers: role labels of the serving stacks, arguments where there are none, and the engine.
//!
//! Labels and arguments from the stacks' own sources: NVIDIA Dynamo deploy/operator/internal/consts, the llm-d modelservice chart,
//! KServe LLMInferenceService, LeaderWorkerSet's DisaggregatedSet, RoleBasedGroup, AIBrix StormService, Grove; vLLM, SGLang and
//! TensorRT-LLM command lines.

use std::collections::BTreeMap;

use crate::intent::Engine;

/// A stack's role label.
struct RoleLabel {
    stack: &'static str,
    key: &'static str,
    /// Values that mean a worker. Empty: any value.
    values: &'static [&'static str],
    /// A label that must be there too, for keys that are not the stack's own.
    with: Option<&'static str>,
}

const fn role(stack: &'static str, key: &'static str, values: &'static [&'static str]) -> RoleLabel {
    RoleLabel { stack, key, values, with: None }
}

const ROLE_LABELS: &[RoleLabel] = &[
    // v1beta1 says the role itself; v1alpha1 says `worker` and the role in the sub-type.
    role("Dynamo", "nvidia.com/dynamo-component-type", &["prefill", "decode", "worker"]),
    role("Dynamo", "nvidia.com/dynamo-sub-component-type", &["prefill", "decode"]),
    role("Dynamo", "nvidia.com/dynamo-component-class", &["worker"]),
    role("llm-d", "llm-d.ai/role", &["prefill", "decode", "both", "prefill-decode"]),
    role("LeaderWorkerSet", "disaggregatedset.x-k8s.io/role", &["prefill", "decode"]),
    role("KServe", "kserve.io/component", &["workload"]),
    role(
        "KServe",
        "app.kubernetes.io/component",
        &[
            "llminferenceservice-workload",
            "llminferenceservice-workload-prefill",
            "llminferenceservice-workload-leader",
            "llminferenceservice-workload-worker",
            "llminferenceservice-workload-leader-prefill",
            "llminferenceservice-workload-worker-prefill",
        ],
    ),
    role("RoleBasedGroup", "rolebasedgroup.workloads.x-k8s.io/role", &[]),
    role("RoleBasedGroup", "rbg.workloads.x-k8s.io/role-name", &[]),
    RoleLabel { stack: "AIBrix", key: "role-name", values: &["prefill", "decode"], with: Some("storm-service-name") },
    role("Grove", "grove.io/podclique", &[]),
];

/// The stack whose role label this pod carries, with the label, for people.
pub fn by_labels(labels: &BTreeMap<String, String>) -> Option<String> {
    ROLE_LABELS.iter().find_map(|role| {
        let value = labels.get(role.key)?;
        let known = role.values.is_empty() || role.values.contains(&value.as_str());
        let here = role.with.is_none_or(|with| labels.contains_key(with));
        (known && here).then(|| format!("{} worker ({}={value})", role.stack, role.key))
    })
}

/// What in a container's command line makes it a disaggregated worker.
pub fn by_arguments(words: &[&str]) -> Option<String> {
    let text = words.join(" ");
    for mode in ["prefill", "decode"] {
        for form in [format!("--disaggregation-mode {mode}"), format!("--disaggregation-mode={mode}")] {
            if text.contains(&form) {
                return Some(format!("argument {form}"));
            }
        }
    }
    if text.contains("--kv-transfer-config") && text.contains("Nixl") {
        return Some("argument --kv-transfer-config with a NIXL connector".into());
    }
    ["cache_transceiver_config", "--is-prefill-worker", "--is-decode-worker"]
        .iter()
        .find(|mark| text.contains(**mark))
        .map(|mark| format!("argument {mark}"))
}

/// The engine, by image, command line and labels.
pub fn engine(labels: &BTreeMap<String, String>, image: &str, words: &[&str]) -> Option<Engine> {
    let named = labels.get("model.aibrix.ai/engine").map(String::as_str);
    let image = image.to_ascii_lowercase();
    let text = words.join(" ").to_ascii_lowercase();
    // SGLang before vLLM: its images and modules never name vLLM, while TensorRT-LLM has three spellings.
    let marks: [(Engine, &[&str]); 3] = [
        (Engine::Sglang, &["sglang"]),
        (Engine::TensorRtLlm, &["tensorrtllm", "tensorrt-llm", "tensorrt_llm", "trtllm"]),
        (Engine::Vllm, &["vllm"]),
    ];
    let find = |text: &str| {
        marks.iter().find(|(_, marks)| marks.iter().any(|mark| text.contains(mark))).map(|(engine, _)| *engine)
    };
    named.and_then(find).or_else(|| find(&text)).or_else(|| find(&image))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect()
    }

    #[test]
    fn roles() {
        for pairs in [
            &[("nvidia.com/dynamo-component-type", "prefill")][..],
            &[("nvidia.com/dynamo-component-type", "worker"), ("nvidia.com/dynamo-sub-component-type", "decode")],
            &[("llm-d.ai/role", "decode")],
            &[("app.kubernetes.io/component", "llminferenceservice-workload-prefill")],
            &[("role-name", "prefill"), ("storm-service-name", "s")],
            &[("rbg.workloads.x-k8s.io/role-name", "anything")],
        ] {
            assert!(by_labels(&labels(pairs)).is_some(), "{pairs:?}");
        }
        for pairs in [
            &[("nvidia.com/dynamo-component-type", "frontend")][..],
            &[("nvidia.com/dynamo-component-type", "planner")],
            &[("role-name", "prefill")],
            &[("app.kubernetes.io/component", "database")],
            &[],
        ] {
            assert_eq!(by_labels(&labels(pairs)), None, "{pairs:?}");
        }
    }

    #[test]
    fn arguments() {
        assert!(by_arguments(&["python3", "-m", "dynamo.sglang", "--disaggregation-mode", "prefill"]).is_some());
        assert!(by_arguments(&["--disaggregation-mode=decode"]).is_some());
        assert!(by_arguments(&["--kv-transfer-config", r#"{"kv_connector":"NixlConnector"}"#]).is_some());
        assert_eq!(by_arguments(&["--disaggregation-mode", "null"]), None);
        assert_eq!(by_arguments(&["vllm", "serve"]), None);
    }

    #[test]
    fn engines() {
        let none = BTreeMap::new();
        assert_eq!(engine(&none, "nvcr.io/nvidia/ai-dynamo/vllm-runtime:1.0", &[]), Some(Engine::Vllm));
        assert_eq!(engine(&none, "lmsysorg/sglang:latest", &[]), Some(Engine::Sglang));
        assert_eq!(engine(&none, "x/tensorrtllm-runtime", &[]), Some(Engine::TensorRtLlm));
        assert_eq!(engine(&none, "private/image", &["python3 -m dynamo.trtllm"]), Some(Engine::TensorRtLlm));
        assert_eq!(engine(&none, "private/image", &["sleep"]), None);
    }
}
