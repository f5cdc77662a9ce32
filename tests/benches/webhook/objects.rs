//! Nodes, pods and reviews of usual size.

use serde_json::{Value, json};

/// The node that everything is bound to: one of RoCE, which has late-bound values.
pub(crate) const TARGET: &str = "node-04709";

/// A GPU node as clouds and the GPU operator make it: fifty labels, forty images.
pub(crate) fn node(number: usize) -> Value {
    let name = format!("node-{number:05}");
    let kind = number % 4;
    let mut labels = json!({
        "kubernetes.io/hostname": name,
        "kubernetes.io/arch": "amd64",
        "kubernetes.io/os": "linux",
        "beta.kubernetes.io/arch": "amd64",
        "beta.kubernetes.io/os": "linux",
        "node.kubernetes.io/instance-type": "gpu8",
        "topology.kubernetes.io/region": "eu-1",
        "topology.kubernetes.io/zone": format!("eu-1{}", ["a", "b", "c"][number % 3]),
        "cloud.example.com/instance-id": format!("i-{number:017x}"),
        "cloud.example.com/network-layer-2": format!("nn-{:x}", number / 64),
        "cloud.example.com/network-layer-3": format!("nn-{:x}", number / 16),
        "nvidia.com/gfd.timestamp": (1_760_000_000 + number).to_string(),
        "example.com/pool": format!("pool-{}", number % 5),
    });
    for feature in 0..30 {
        labels[format!("feature.node.kubernetes.io/cpu-cpuid.FEATURE{feature}")] = json!("true");
    }
    let fabric = [
        ("infiniband", "infiniband-gpudirect", "rdma/ib"),
        ("roce", "roce-gpudirect", "rdma/roce_gdr"),
        ("efa", "efa-host-staged", "vpc.amazonaws.com/efa"),
        ("tcp", "tcp", "example.com/nothing"),
    ][kind];
    let domain = format!("{}-{}", fabric.0, number % 8);
    for (key, value) in [
        ("fabric", fabric.0),
        ("profile", fabric.1),
        ("gpudirect", if kind < 2 { "dmabuf" } else { "none" }),
        ("fabric-domain", &domain),
        ("gid-index", "3"),
        ("memlock", "unlimited"),
        ("rate-gbps", "400"),
        ("rdma-ports", "8"),
    ] {
        labels[format!("railbind.dev/{key}")] = json!(value);
    }
    let images: Vec<Value> = (0..40)
        .map(|image| json!({"names": [format!("registry.example.com/team/image-{image}@sha256:{image:064x}")], "sizeBytes": 1_000_000}))
        .collect();
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "labels": labels, "annotations": {
            "railbind.dev/net-devices": "mlx5_0:1,mlx5_1:1,mlx5_2:1,mlx5_3:1",
            "railbind.dev/nics": "mlx5_0 400 ACTIVE;".repeat(20),
        }},
        "spec": {"taints": [{"key": "nvidia.com/gpu", "effect": "NoSchedule"}]},
        "status": {"images": images, "allocatable": {
            "cpu": "191450m", "memory": format!("{}Ki", 2_113_000_000 + number), "pods": "110",
            "nvidia.com/gpu": "8", fabric.2: "8",
        }},
    })
}

/// A prefill worker of llm-d, as its chart makes it.
pub(crate) fn worker(namespace: &str, name: &str) -> Value {
    let variables: Vec<Value> =
        (0..12).map(|n| json!({"name": format!("VLLM_SETTING_{n}"), "value": format!("value-{n}")})).collect();
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": name, "namespace": namespace,
            "labels": {"llm-d.ai/role": "decode", "llm-d.ai/model": "llama", "app": "llm-d", "pod-template-hash": "abc"},
            "annotations": {"example.com/note": "as the chart has it"},
        },
        "spec": {
            // Nobody's: pods stay where they are until they are bound here.
            "schedulerName": "bench",
            "automountServiceAccountToken": false,
            "nodeSelector": {"topology.kubernetes.io/region": "eu-1", "railbind.dev/fabric": "roce"},
            "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
            "containers": [{
                "name": "vllm", "image": "vllm/vllm-openai:v0.11.0",
                "args": ["--model", "meta-llama/Llama-3.1-70B-Instruct", "--port", "8000", "--tensor-parallel-size", "8"],
                "env": variables,
                "ports": [{"containerPort": 8000}],
                "readinessProbe": {"httpGet": {"path": "/health", "port": 8000}},
                "resources": {"limits": {"nvidia.com/gpu": "8", "cpu": "32", "memory": "256Gi"}, "requests": {"nvidia.com/gpu": "8", "cpu": "32", "memory": "256Gi"}},
            }],
        },
    })
}

/// A pod that is none of ours.
pub(crate) fn ordinary(namespace: &str, name: &str) -> Value {
    let mut pod = worker(namespace, name);
    pod["metadata"]["labels"] = json!({"app": "web", "pod-template-hash": "abc"});
    pod["spec"]["containers"][0]["resources"] = json!({"limits": {"cpu": "1"}});
    pod
}

/// Binds a pod to [`TARGET`].
pub(crate) fn binding(namespace: &str, name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Binding",
        "metadata": {"name": name, "namespace": namespace},
        "target": {"apiVersion": "v1", "kind": "Node", "name": TARGET},
    })
}

/// The review of a creation, with what the API server puts around it.
pub(crate) fn review(kind: &str, subresource: &str, object: &Value) -> Value {
    let kind = json!({"group": "", "version": "v1", "kind": kind});
    let resource = json!({"group": "", "version": "v1", "resource": "pods"});
    json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": "8f1f8d2c-3b83-4a21-9f35-0d6c5b6f0a11",
            "kind": kind, "resource": resource, "subResource": subresource,
            "requestKind": kind, "requestResource": resource, "requestSubResource": subresource,
            "name": object["metadata"]["name"], "namespace": object["metadata"]["namespace"], "operation": "CREATE",
            "userInfo": {"username": "system:serviceaccount:kube-system:replicaset-controller",
                "groups": ["system:serviceaccounts", "system:authenticated"]},
            "object": object, "oldObject": null, "dryRun": false,
            "options": {"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1"},
        },
    })
}
