//! Real tokens that try more than they may: a row for each attempt, with the reason that the API server gives.

use anyhow::{Context as _, Result};
use harness::railbind::NAMESPACE;
use http::Request;
use k8s_openapi::api::core::v1::Node;
use kube::{
    Api, Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::{Value, json};

use crate::installed;

/// Method, path, body, and a part of the refusal. `RBAC` stands for RBAC's own words.
type Attempt = (&'static str, String, Value, &'static str);
const RBAC: &str = "is forbidden: User \"system:serviceaccount:railbind-system:railbind-";
const CORE: &str = "/api/v1";
const OURS: &str = "/apis/railbind.dev/v1alpha1";
const ADMISSION: &str = "/apis/admissionregistration.k8s.io/v1";

async fn thief(account: &str, node: Option<&str>) -> Result<Client> {
    let cluster = installed().await;
    let nodes: Api<Node> = Api::all(cluster.client().await?);
    let node = match node {
        Some(name) => Some(nodes.get(name).await?),
        None => None,
    };
    let file = cluster.identity(account, node.as_ref()).await?;
    let config = Config::from_custom_kubeconfig(Kubeconfig::read_from(file)?, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}

async fn send(client: &Client, method: &str, path: &str, body: &Value) -> Result<String> {
    let kind = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
    let body = if matches!(method, "GET" | "DELETE") { Vec::new() } else { serde_json::to_vec(body)? };
    let request = Request::builder().method(method).uri(path).header("content-type", kind).body(body)?;
    client.request_text(request).await.with_context(|| format!("{method} {path}"))
}

async fn all_fail(client: &Client, attempts: Vec<Attempt>) {
    println!("{} attempts", attempts.len());
    for (method, path, body, why) in attempts {
        match send(client, method, &path, &body).await {
            Ok(answer) => panic!("{method} {path} {body} succeeded: {answer}"),
            Err(error) => assert!(format!("{error:?}").contains(why), "{method} {path} {body}: {error:?}"),
        }
    }
}

fn event(kind: &str, name: &str) -> Value {
    json!({
        "apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "forged", "namespace": "default"},
        "eventTime": "2026-01-01T00:00:00.000000Z", "reportingController": "railbind-agent", "reportingInstance": "x",
        "action": "Forge", "reason": "Forged", "type": "Warning", "regarding": {"apiVersion": "v1", "kind": kind, "name": name},
    })
}

#[tokio::test]
async fn a_stolen_agent_token_gets_nowhere() {
    let client = thief("railbind-agent", Some("own")).await.unwrap();
    let none = || json!({});
    let label = |key: &str, value: Value| json!({"metadata": {"labels": {key: value}}});
    let status = |name: &str| format!("{CORE}/nodes/{name}/status");
    let events = "/apis/events.k8s.io/v1/namespaces/default/events".to_owned();
    let fabric = |name: &str| json!({"apiVersion": "railbind.dev/v1alpha1", "kind": "NodeFabric", "metadata": {"name": name}, "spec": {}});
    let another =
        json!({"apiVersion": "v1", "kind": "Node", "name": "other", "uid": "00000000-0000-0000-0000-000000000000"});
    let mut adopted = fabric("own");
    adopted["metadata"]["ownerReferences"] = json!([another]);
    let mut held = fabric("own");
    held["metadata"]["finalizers"] = json!(["thief.example/keep"]);
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    // Its own Event is there to be changed; somebody else's is not.
    send(&client, "POST", &events, &event("Node", "own")).await.unwrap();
    installed().await.apply(&event("Node", "other").to_string().replace("forged", "theirs")).await.unwrap();

    let mut attempts: Vec<Attempt> = vec![
        // Other nodes, other keys of its own, everything that is not a label.
        ("PATCH", status("other"), label("railbind.dev/fabric", json!("tcp")), "may only change its own node"),
        ("PATCH", status("own"), label("rack", json!("r1")), "may not set this label"),
        ("PATCH", status("own"), label("node-role.kubernetes.io/control-plane", json!("")), "may not set this label"),
        ("PATCH", status("own"), label("kubernetes.io/hostname", Value::Null), "may not remove this label"),
        ("PATCH", status("own"), json!({"metadata": {"annotations": {"x": "y"}}}), "may not set this annotation"),
        (
            "PATCH",
            status("own"),
            json!({"metadata": {"finalizers": ["x.example/y"]}}),
            "may not change finalizers or owners",
        ),
        (
            "PATCH",
            status("own"),
            json!({"metadata": {"ownerReferences": [another]}}),
            "may not change finalizers or owners",
        ),
        (
            "PATCH",
            status("own"),
            json!({"status": {"capacity": {"nvidia.com/gpu": "64"}}}),
            "may not change this part of status",
        ),
        (
            "PATCH",
            status("own"),
            json!({"status": {"allocatable": {"rdma/roce": "99"}}}),
            "may not change this part of status",
        ),
        ("PATCH", status("own"), json!({"status": {"addresses": []}}), "may not change this part of status"),
        ("PATCH", status("own"), json!({"status": {"conditions": []}}), "may not change this condition"),
        // Through the Node itself: taints, cordon.
        (
            "PATCH",
            format!("{CORE}/nodes/own"),
            json!({"spec": {"taints": [{"key": "x", "effect": "NoExecute"}]}}),
            RBAC,
        ),
        ("PATCH", format!("{CORE}/nodes/own"), label("railbind.dev/fabric", json!("tcp")), RBAC),
        ("PATCH", format!("{CORE}/nodes/other"), json!({"spec": {"unschedulable": true}}), RBAC),
        ("PUT", status("own"), none(), RBAC),
        ("DELETE", format!("{CORE}/nodes/own"), none(), RBAC),
        (
            "POST",
            format!("{CORE}/nodes"),
            json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "mine"}}),
            RBAC,
        ),
        ("GET", format!("{CORE}/nodes/own/proxy/logs/"), none(), RBAC),
        // NodeFabrics.
        ("POST", format!("{OURS}/nodefabrics"), fabric("other"), "may only write its own node's NodeFabric"),
        ("POST", format!("{OURS}/nodefabrics"), adopted, "owned by its Node alone"),
        ("POST", format!("{OURS}/nodefabrics"), held, "has no finalizers"),
        ("DELETE", format!("{OURS}/nodefabrics/own"), none(), RBAC),
        ("DELETE", format!("{OURS}/nodefabrics"), none(), RBAC),
        ("PUT", format!("{OURS}/nodefabrics/own"), fabric("own"), RBAC),
        ("GET", format!("{OURS}/transportprofiles/tcp"), none(), RBAC),
        ("GET", format!("{OURS}/transportprofiles?watch=true"), none(), RBAC),
        ("PATCH", format!("{OURS}/transportprofiles/tcp"), json!({"spec": {"priority": 1}}), RBAC),
        ("DELETE", format!("{OURS}/transportprofiles/tcp"), none(), RBAC),
        ("GET", format!("{OURS}/bindingvalues"), none(), RBAC),
        // Events.
        ("POST", events.clone(), event("Node", "other"), "may only write Events about its own node"),
        ("POST", events.clone(), event("Pod", "own"), "may only write Events about its own node"),
        (
            "PATCH",
            format!("{events}/theirs"),
            json!({"series": {"count": 99, "lastObservedTime": "2026-01-01T00:00:00.000000Z"}}),
            "may only write Events about its own node",
        ),
        (
            "PATCH",
            format!("{events}/theirs"),
            json!({"regarding": {"kind": "Node", "name": "own"}}),
            "field is immutable",
        ),
        ("DELETE", format!("{events}/theirs"), none(), RBAC),
        ("GET", events.clone(), none(), RBAC),
        ("POST", events.replace("default", "kube-system"), event("Node", "own"), RBAC),
    ];
    attempts.extend(strangers(&pod));
    all_fail(&client, attempts).await;
    // Nor does a token without a node claim.
    let unbound = thief("railbind-agent", None).await.unwrap();
    all_fail(
        &unbound,
        vec![
            ("PATCH", status("own"), label("railbind.dev/fabric", json!("tcp")), "may only change its own node"),
            ("POST", format!("{OURS}/nodefabrics"), fabric("own"), "may only write its own node's NodeFabric"),
            ("POST", events, event("Node", "own"), "may only write Events about its own node"),
        ],
    )
    .await;
}

/// What neither account may do.
fn strangers(pod: &Value) -> Vec<Attempt> {
    let none = || json!({});
    let account = format!("{CORE}/namespaces/{NAMESPACE}/serviceaccounts/railbind-webhook/token");
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    vec![
        ("GET", format!("{CORE}/secrets"), none(), RBAC),
        ("GET", format!("{CORE}/namespaces/kube-system/secrets"), none(), RBAC),
        ("GET", format!("{CORE}/namespaces/{NAMESPACE}/secrets"), none(), RBAC),
        ("GET", format!("{CORE}/configmaps"), none(), RBAC),
        ("POST", format!("{CORE}/namespaces/{NAMESPACE}/pods"), pod.clone(), RBAC),
        ("PATCH", format!("{CORE}/namespaces/default/pods/p"), json!({"metadata": {"labels": {"a": "b"}}}), RBAC),
        ("DELETE", format!("{CORE}/namespaces/default/pods/p"), none(), RBAC),
        ("POST", format!("{CORE}/namespaces/default/pods/p/binding"), none(), RBAC),
        ("POST", format!("{CORE}/namespaces/default/pods/p/eviction"), none(), RBAC),
        ("GET", format!("{CORE}/namespaces/default/pods/p/exec?command=id"), none(), RBAC),
        (
            "POST",
            account,
            json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"audiences": []}}),
            RBAC,
        ),
        (
            "PATCH",
            format!("{CORE}/namespaces/default"),
            json!({"metadata": {"labels": {"railbind.dev/inject": "enabled"}}}),
            RBAC,
        ),
        ("POST", format!("{rbac}/clusterrolebindings"), none(), RBAC),
        ("PATCH", format!("{rbac}/clusterroles/railbind-agent"), json!({"rules": []}), RBAC),
        ("GET", "/apis/apps/v1/deployments".into(), none(), RBAC),
        ("PATCH", format!("/apis/apps/v1/namespaces/{NAMESPACE}/daemonsets/railbind-agent"), none(), RBAC),
        ("DELETE", format!("{ADMISSION}/validatingadmissionpolicybindings/railbind-agent-own-node"), none(), RBAC),
        ("DELETE", format!("{ADMISSION}/validatingadmissionpolicies/railbind-webhook-own-objects"), none(), RBAC),
        ("POST", format!("{ADMISSION}/mutatingwebhookconfigurations"), none(), RBAC),
        ("POST", format!("{ADMISSION}/mutatingadmissionpolicies"), none(), RBAC),
        ("POST", format!("{ADMISSION}/mutatingadmissionpolicybindings"), none(), RBAC),
        ("POST", format!("{ADMISSION}/validatingwebhookconfigurations"), none(), RBAC),
        (
            "PATCH",
            "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/nodefabrics.railbind.dev".into(),
            none(),
            RBAC,
        ),
        ("POST", format!("{OURS}/transportprofiles"), none(), RBAC),
    ]
}

/// A webhook as we register it, to spoil one thing of.
fn hook() -> Value {
    json!({
        "name": "pods.railbind.dev", "failurePolicy": "Ignore", "sideEffects": "None", "admissionReviewVersions": ["v1"],
        "clientConfig": {"service": {"name": "railbind-webhook", "namespace": NAMESPACE}},
        "namespaceSelector": {"matchExpressions": [
            {"key": "railbind.dev/inject", "operator": "In", "values": ["enabled"]},
            {"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": ["kube-system", NAMESPACE]},
        ]},
        "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}],
    })
}

#[tokio::test]
async fn a_stolen_webhook_token_gets_nowhere() {
    let client = thief("railbind-webhook", None).await.unwrap();
    let none = || json!({});
    let own = format!("{ADMISSION}/mutatingwebhookconfigurations/railbind-webhook");
    let with = |path: &str, value: Value| {
        let mut hook = hook();
        *hook.pointer_mut(path).unwrap() = value;
        json!({"webhooks": [hook]})
    };
    // What it is for goes through, as a dry run: so it is the spoilt part that is refused below.
    send(&client, "PATCH", &format!("{own}?dryRun=All"), &json!({"webhooks": [hook()]})).await.unwrap();
    let secrets = format!("{CORE}/namespaces/{NAMESPACE}/secrets");
    let leases = format!("/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases");
    let secret = |name: &str, kind: &str| {
        json!({"apiVersion": "v1", "kind": "Secret", "type": kind, "metadata": {"name": name, "annotations": {"kubernetes.io/service-account.name": "railbind-agent"}},
               "stringData": {"tls.crt": "", "tls.key": ""}})
    };
    let about = |kind: &str, component: &str| {
        json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "forged"}, "reason": "Forged", "source": {"component": component},
               "involvedObject": {"kind": kind, "name": "x", "namespace": "default"}})
    };
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let fabric =
        json!({"apiVersion": "railbind.dev/v1alpha1", "kind": "NodeFabric", "metadata": {"name": "own"}, "spec": {}});
    let mut attempts: Vec<Attempt> = vec![
        // Its own registration, turned against others.
        ("PATCH", own.clone(), with("/failurePolicy", json!("Fail")), "webhooks that fail open"),
        (
            "PATCH",
            own.clone(),
            with("/rules/0/resources", json!(["secrets"])),
            "only be called for new pods and bindings",
        ),
        ("PATCH", own.clone(), with("/rules/0/resources", json!(["*"])), "only be called for new pods and bindings"),
        ("PATCH", own.clone(), with("/rules/0/operations", json!(["*"])), "only be called for new pods and bindings"),
        ("PATCH", own.clone(), with("/rules/0/apiGroups", json!(["apps"])), "only be called for new pods and bindings"),
        ("PATCH", own.clone(), with("/namespaceSelector", json!({})), "only be called for namespaces that opted in"),
        (
            "PATCH",
            own.clone(),
            with("/namespaceSelector/matchExpressions/1/values", json!(["x"])),
            "for kube-system and its own namespace",
        ),
        (
            "PATCH",
            own.clone(),
            with("/clientConfig", json!({"url": "https://thief.example/"})),
            "only register its own Service",
        ),
        (
            "PATCH",
            own.clone(),
            with("/clientConfig/service/namespace", json!("thief")),
            "only register its own Service",
        ),
        ("DELETE", own, none(), RBAC),
        ("GET", format!("{ADMISSION}/mutatingwebhookconfigurations"), none(), RBAC),
        ("PATCH", format!("{ADMISSION}/mutatingwebhookconfigurations/another"), none(), RBAC),
        ("PATCH", format!("{ADMISSION}/mutatingadmissionpolicies/railbind-bindings"), none(), RBAC),
        ("DELETE", format!("{ADMISSION}/mutatingadmissionpolicies/another"), none(), RBAC),
        ("DELETE", format!("{ADMISSION}/mutatingadmissionpolicybindings/another"), none(), RBAC),
        // Nodes and what they say.
        ("PATCH", format!("{CORE}/nodes/own"), json!({"metadata": {"labels": {"a": "b"}}}), RBAC),
        ("PATCH", format!("{CORE}/nodes/own/status"), json!({"metadata": {"labels": {"a": "b"}}}), RBAC),
        ("DELETE", format!("{CORE}/nodes/own"), none(), RBAC),
        ("GET", format!("{OURS}/nodefabrics"), none(), RBAC),
        ("POST", format!("{OURS}/nodefabrics"), fabric, RBAC),
        // Objects that it may make, of other names and kinds: a token of the agent's above all.
        ("POST", secrets.clone(), secret("another", "kubernetes.io/tls"), "only write the Secret with its CA"),
        (
            "POST",
            secrets.clone(),
            secret("railbind-webhook-ca", "kubernetes.io/service-account-token"),
            "only write the Secret with its CA",
        ),
        ("GET", format!("{secrets}/another"), none(), RBAC),
        ("DELETE", format!("{secrets}/railbind-webhook-ca"), none(), RBAC),
        ("POST", secrets.replace(NAMESPACE, "default"), secret("railbind-webhook-ca", "kubernetes.io/tls"), RBAC),
        (
            "POST",
            leases.clone(),
            json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "another"}}),
            "only write its own Lease",
        ),
        ("DELETE", format!("{leases}/railbind-webhook"), none(), RBAC),
        ("GET", "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases".into(), none(), RBAC),
        (
            "POST",
            format!("{OURS}/bindingvalues"),
            json!({"apiVersion": "railbind.dev/v1alpha1", "kind": "BindingValues", "metadata": {"name": "another"}}),
            "only write its own BindingValues",
        ),
        (
            "POST",
            format!("{CORE}/namespaces/default/events"),
            about("Node", "railbind-webhook"),
            "only write Events about pods",
        ),
        ("POST", format!("{CORE}/namespaces/default/events"), about("Pod", "kubelet"), "only write Events about pods"),
        ("GET", format!("{CORE}/events"), none(), RBAC),
    ];
    attempts.extend(strangers(&pod));
    all_fail(&client, attempts).await;
}
