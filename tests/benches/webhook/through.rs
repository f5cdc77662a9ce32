//! Pods through the real API server, in turns: no webhook, Railbind, a MutatingAdmissionPolicy with the same patch, a Go webhook with
//! the same patch, and webhooks whose answer is ready before they are asked, with that patch and with none. Each has a namespace of
//! its own, so all of them are there all the time and every pod is one turn.

use std::{
    fmt::Write as _,
    fs,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use harness::{Cluster, LIMIT, free_port, railbind::repository, until};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::{
    Api, Client,
    api::{DeleteParams, PostParams},
};
use serde_json::{Map, Value, json};

use crate::{
    alone::authority,
    constant::{self, Patches},
    load::Load,
    objects,
    section::Half,
    stats,
};

/// Pods of each way in a round.
const PODS: usize = 100;
const ROUNDS: usize = 10;

/// The ways, by namespace. A prime number of them: each step through them meets all.
const WAYS: [(&str, &str); 7] = [
    ("none", "no webhook"),
    ("railbind", "Railbind"),
    ("policy", "policy, same patch"),
    ("go", "Go webhook, same patch"),
    ("ready", "ready answer, same patch"),
    ("empty", "ready answer, no patch"),
    ("none-2", "no webhook, again"),
];

pub(crate) async fn run(cluster: &Cluster) -> Result<Half> {
    let client = cluster.client().await?;
    for (namespace, _) in WAYS {
        prepare(&client, namespace).await?;
    }
    let listen = format!("127.0.0.1:{}", free_port()?);
    let more = ["--drain-seconds", "1", "--binding-engine", "webhook"];
    let railbind = cluster.spawn_webhook_at("webhook", &listen, &format!("https://{listen}"), &more).await?;
    // What Railbind makes of the pod and its Binding is what the others shall make of theirs.
    let pods: Api<Pod> = Api::namespaced(client.clone(), "railbind");
    let patch = patch_of(cluster, &listen).await?;
    let example = until("Railbind's configuration to be in force", LIMIT, || async {
        let pod = create(&pods, &objects::worker("railbind", "example")).await?;
        let admitted = serde_json::to_value(&pod)?["metadata"]["annotations"]["railbind.dev/decision"].is_string();
        if !admitted {
            pods.delete("example", &DeleteParams::default().grace_period(0)).await?;
        }
        ensure!(admitted, "the pod was not patched");
        Ok(pod)
    })
    .await?;
    let mut plain = objects::worker("railbind", "example");
    json_patch::patch(&mut plain, &serde_json::from_value::<json_patch::Patch>(patch.clone())?)?;
    bind(&pods, "railbind", "example").await?;
    let bound = serde_json::to_value(pods.get("example").await?)?;
    let values = late(&bound);
    ensure!(values.get("UCX_IB_GID_INDEX") == Some(&json!("3")), "not the node's values: {values:?}");
    policy(cluster, &patch, &values).await?;
    let go = go(cluster, &plain, &values).await?;
    ready(cluster, patch, &values).await?;
    let expected = essence(&serde_json::to_value(example)?);
    for namespace in ["policy", "go", "ready"] {
        same(&client, namespace, &expected, &values).await?;
    }

    let (mut creates, mut binds) = (vec![Vec::new(); WAYS.len()], vec![Vec::new(); WAYS.len()]);
    for round in 0..=ROUNDS {
        let mut took = vec![(Vec::new(), Vec::new()); WAYS.len()];
        for number in 0..PODS {
            for turn in 0..WAYS.len() {
                // Nobody always comes after the same one: what a way leaves to be done must not always be the same other's burden.
                let stride = 1 + number % (WAYS.len() - 1);
                let way = (turn * stride + number / (WAYS.len() - 1) + round) % WAYS.len();
                let namespace = WAYS[way].0;
                let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
                let name = format!("w-{round}-{number}");
                let object = objects::worker(namespace, &name);
                let started = Instant::now();
                create(&pods, &object).await?;
                took[way].0.push(started.elapsed());
                let started = Instant::now();
                bind(&pods, namespace, &name).await?;
                took[way].1.push(started.elapsed());
            }
        }
        for (way, (namespace, _)) in WAYS.iter().enumerate() {
            let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
            pods.delete_collection(&DeleteParams::default().grace_period(0), &kube::api::ListParams::default()).await?;
            // The first round is for the caches and the connections.
            if round > 0 {
                let (create, bind) = std::mem::take(&mut took[way]);
                creates[way].push(stats::Latencies::new(create).at(500));
                binds[way].push(stats::Latencies::new(bind).at(500));
            }
        }
    }
    let mut half = report(&creates, &binds);
    let admission = cluster.kubectl(&["get", "--raw", "/metrics"]).await?;
    let lines = admission.lines().filter(|line| {
        line.starts_with("apiserver_admission_webhook_fail_open_count")
            || line.starts_with("apiserver_admission_webhook_rejection_count")
    });
    let trouble: Vec<&str> = lines.collect();
    ensure!(trouble.is_empty(), "calls of webhooks failed: {trouble:?}");
    let durations = durations(&admission)?;
    println!("{durations}");
    half.notes.push(durations);
    ensure!(
        railbind.metric("railbind_webhook_requests_total", "outcome=\"patched\"").await? >= 2000.0,
        "not Railbind's"
    );
    drop((railbind, go));
    Ok(half)
}

/// Prints it; what the page says of it.
fn report(creates: &[Vec<f64>], binds: &[Vec<f64>]) -> Half {
    println!(
        "\nthrough the API server: one client, pods in turns; p50 in ms, median of {ROUNDS} rounds of {PODS} (least–greatest)"
    );
    println!("{:<24} {:>22} {:>8} {:>22} {:>8}", "", "CREATE pod", "added", "bind", "added");
    // Within each round, because the machine is not the same from one to the next.
    let against = |all: &[Vec<f64>], way: usize, other: usize, how: fn(f64, f64) -> f64| -> Vec<f64> {
        all[way].iter().zip(&all[other]).map(|(one, other)| how(*one, *other)).collect()
    };
    let [none, railbind] = ["none", "railbind"].map(|key| WAYS.iter().position(|(way, _)| *way == key).unwrap_or(0));
    let (mut rows, mut drawn) = (Vec::new(), Vec::new());
    for (way, (_, name)) in WAYS.iter().enumerate() {
        let mut row = vec![(*name).to_owned()];
        let mut added = Vec::new();
        for (series, all) in [("CREATE pod", creates), ("bind", binds)] {
            let more = against(all, way, none, |one, none| one - none);
            let first = way == none;
            added.push(if first { String::new() } else { format!("{:+.3}", stats::median(&more)) });
            row.push(stats::spread(&all[way]));
            row.push(if first { "–".into() } else { stats::spread(&more) });
            // Of the whole request, which is what a user waits for.
            let ratio = against(all, railbind, way, |railbind, other| railbind / other);
            row.push(if way == railbind { "–".into() } else { stats::spread(&ratio) });
            if !first {
                drawn.push(((*name).to_owned(), series, more));
            }
        }
        println!(
            "{name:<24} {:>22} {:>8} {:>22} {:>8}",
            stats::spread(&creates[way]),
            added[0],
            stats::spread(&binds[way]),
            added[1]
        );
        rows.push(row);
    }
    let columns = ["", "CREATE pod", "added", "Railbind ÷ this", "bind", "added", "Railbind ÷ this"];
    Half {
        method: format!(
            "Through the real API server: one client creates and binds pods in turns, so that every way meets the same machine: no webhook, \
             Railbind, a MutatingAdmissionPolicy with the same patch, a Go webhook with the same patch, webhooks that read nothing and \
             whose answer is ready before they are asked, with the same patch and with none, and no webhook again, which shows the \
             noise. The patches are compared before anything counts. {ROUNDS} rounds of {PODS} pods of each way; differences and \
             ratios are taken within a round. What a ready answer adds is the API server's own work and the way there and back: \
             Railbind's part is what it adds beyond that."
        ),
        caption: format!(
            "Through the API server: p50 in ms, median of {ROUNDS} rounds of {PODS} pods (least–greatest)"
        ),
        columns: columns.map(str::to_owned).into(),
        rows,
        notes: Vec::new(),
        drawn,
    }
}

/// The API server's own account of what its calls of each webhook took. All of them were called.
fn durations(metrics: &str) -> Result<String> {
    let mut text = String::from("the API server's own account, mean of a call in ms:");
    let hooks = ["railbind.dev", "go.test", "ready.test", "empty.test"];
    for name in hooks.iter().flat_map(|hook| ["pods", "bindings"].map(|kind| format!("{kind}.{hook}"))) {
        let value = |part: &str| -> f64 {
            let start = format!("apiserver_admission_webhook_admission_duration_seconds_{part}{{name=\"{name}\"");
            let lines = metrics.lines().filter(|line| line.starts_with(&start));
            lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
        };
        let calls = value("count");
        ensure!(calls > 0.0, "{name} was never called");
        let _ = write!(text, "  {name} {:.3}", value("sum") / calls * 1000.0);
    }
    Ok(text)
}

async fn prepare(client: &Client, namespace: &str) -> Result<()> {
    let post = PostParams::default();
    let inject = if namespace == "railbind" { "enabled" } else { "disabled" };
    let object =
        json!({"metadata": {"name": namespace, "labels": {"railbind.dev/inject": inject, "bench": namespace}}});
    let namespaces: Api<Namespace> = Api::all(client.clone());
    namespaces.create(&post, &serde_json::from_value(object)?).await?;
    // What the controller manager would do.
    let accounts: Api<k8s_openapi::api::core::v1::ServiceAccount> = Api::namespaced(client.clone(), namespace);
    accounts.create(&post, &serde_json::from_value(json!({"metadata": {"name": "default"}}))?).await?;
    Ok(())
}

async fn create(pods: &Api<Pod>, pod: &Value) -> Result<Pod> {
    Ok(pods.create(&PostParams::default(), &serde_json::from_value(pod.clone())?).await?)
}

async fn bind(pods: &Api<Pod>, namespace: &str, name: &str) -> Result<()> {
    let binding = objects::binding(namespace, name);
    let _: Value = pods.create_subresource("binding", name, &PostParams::default(), &binding).await?;
    Ok(())
}

/// Railbind's patch for the pod, from the webhook itself.
async fn patch_of(cluster: &Cluster, listen: &str) -> Result<Value> {
    let load = Load {
        address: listen.parse().context("the webhook's address")?,
        authority: authority(cluster).await?,
        path: "/mutate/pods",
        body: objects::review("Pod", "", &objects::worker("railbind", "example")).to_string().into(),
        a_second: 0,
        lasting: Duration::ZERO,
        patched: true,
    };
    let answer: Value = serde_json::from_slice(&load.once().await?)?;
    let patch = answer["response"]["patch"].as_str().with_context(|| format!("no patch: {answer}"))?;
    Ok(serde_json::from_slice(&BASE64_STANDARD.decode(patch)?)?)
}

/// The late-bound values of a pod.
fn late(pod: &Value) -> Map<String, Value> {
    let annotations = pod["metadata"]["annotations"].as_object().into_iter().flatten();
    annotations
        .filter_map(|(key, value)| Some((key.strip_prefix("env.railbind.dev/")?.to_owned(), value.clone())))
        .collect()
}

/// The annotations that carry late-bound values.
fn annotations_of(values: &Map<String, Value>) -> Value {
    values.iter().map(|(name, value)| (format!("env.railbind.dev/{name}"), value.clone())).collect()
}

/// The patch of a Binding.
fn of_binding(values: &Map<String, Value>) -> Value {
    json!([{"op": "add", "path": "/metadata/annotations", "value": annotations_of(values)}])
}

/// What the patch is about: the pod without what differs between any two.
fn essence(pod: &Value) -> Value {
    let mut annotations = pod["metadata"]["annotations"].clone();
    let decision = &mut annotations["railbind.dev/decision"];
    let parsed = decision.as_str().and_then(|text| serde_json::from_str::<Value>(text).ok());
    if let Some(mut parsed) = parsed {
        // Each review's own.
        parsed["id"] = Value::Null;
        *decision = parsed;
    }
    json!({"annotations": annotations, "spec": pod["spec"]})
}

/// Waits until a way's pod and its binding come out as Railbind's do.
async fn same(client: &Client, namespace: &str, expected: &Value, values: &Map<String, Value>) -> Result<()> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    until(format_args!("the way {namespace} to make the same patch"), LIMIT, || async {
        let pod = create(&pods, &objects::worker(namespace, "example")).await?;
        bind(&pods, namespace, "example").await?;
        let bound = serde_json::to_value(pods.get("example").await?)?;
        pods.delete("example", &DeleteParams::default().grace_period(0)).await?;
        let found = essence(&serde_json::to_value(pod)?);
        ensure!(found == *expected, "{found}\ninstead of\n{expected}");
        ensure!(late(&bound) == *values, "bound with {:?}", late(&bound));
        Ok(())
    })
    .await
}

/// JSON as CEL, whose lists and maps want one type: `dyn`.
fn cel(value: &Value) -> String {
    match value {
        Value::Array(items) => {
            format!("[{}]", items.iter().map(|item| format!("dyn({})", cel(item))).collect::<Vec<_>>().join(", "))
        }
        Value::Object(fields) => {
            let fields: Vec<String> = fields
                .iter()
                .map(|(key, value)| format!("{}: dyn({})", Value::from(key.as_str()), cel(value)))
                .collect();
            format!("{{{}}}", fields.join(", "))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.to_string(),
    }
}

/// Two policies: a pod's patch, operation for operation, and a Binding's annotations.
async fn policy(cluster: &Cluster, patch: &Value, values: &Map<String, Value>) -> Result<()> {
    let operations = |patch: &Value| {
        let operations = patch.as_array().into_iter().flatten().map(|operation| {
            format!(
                "JSONPatch{{op: {}, path: {}, value: {}}}",
                operation["op"],
                operation["path"],
                cel(&operation["value"])
            )
        });
        format!("[{}]", operations.collect::<Vec<_>>().join(", "))
    };
    let binding = of_binding(values);
    let mut documents = String::new();
    for (name, resource, patch) in [("bench-pods", "pods", patch), ("bench-bindings", "pods/binding", &binding)] {
        let policy = json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingAdmissionPolicy", "metadata": {"name": name},
            "spec": {
                "failurePolicy": "Fail", "reinvocationPolicy": "Never",
                "matchConstraints": {
                    "namespaceSelector": {"matchLabels": {"bench": "policy"}},
                    "resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": [resource]}],
                },
                "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": operations(patch)}}],
            },
        });
        let binding = json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingAdmissionPolicyBinding",
            "metadata": {"name": name}, "spec": {"policyName": name},
        });
        let _ = write!(documents, "{policy}\n---\n{binding}\n---\n");
    }
    cluster.apply(&documents).await?;
    Ok(())
}

/// The Go webhook.
async fn go(cluster: &Cluster, patched: &Value, values: &Map<String, Value>) -> Result<harness::Process> {
    let folder = cluster.path().join("go");
    fs::create_dir_all(&folder)?;
    let identity = cluster.authority().serving(&[])?;
    fs::write(folder.join("tls.crt"), &identity.certificate)?;
    fs::write(folder.join("tls.key"), &identity.key)?;
    let program = built(&repository().join("tests/bench/peer-webhook"), &folder)?;
    let annotations = |keep: &dyn Fn(&str) -> bool| -> Map<String, Value> {
        let all = patched["metadata"]["annotations"].as_object().into_iter().flatten();
        all.filter(|(key, _)| keep(key)).map(|(key, value)| (key.clone(), value.clone())).collect()
    };
    let before = objects::worker("go", "example");
    let (old, new) = (&before["spec"]["containers"][0], &patched["spec"]["containers"][0]);
    let added = |key: &str| -> Vec<Value> {
        let old = old[key].as_array().cloned().unwrap_or_default();
        new[key].as_array().into_iter().flatten().filter(|item| !old.contains(item)).cloned().collect()
    };
    let resources: Map<String, Value> = new["resources"]["limits"]
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(name, _)| old["resources"]["limits"].get(name.as_str()).is_none())
        .map(|(name, count)| (name.clone(), count.clone()))
        .collect();
    let additions = json!({
        "annotations": annotations(&|key| key.contains("railbind.dev/")),
        "env": added("env"),
        "capabilities": new["securityContext"]["capabilities"]["add"],
        "resources": resources,
        "volumes": patched["spec"]["volumes"],
        "volumeMounts": added("volumeMounts"),
        "affinity": patched["spec"]["affinity"],
    });
    let port = free_port()?;
    let envs = [("PEER_PATCH", additions.to_string()), ("PEER_ANNOTATIONS", annotations_of(values).to_string())];
    let envs = envs.each_ref().map(|(name, value)| (*name, value.as_str()));
    let folder = folder.to_str().context("the folder is not UTF-8")?;
    let process = cluster.spawn("peer-webhook", program, [&port.to_string(), folder], &envs)?;
    until("the Go webhook to listen", Duration::from_secs(30), || async {
        Ok(tokio::net::TcpStream::connect(("127.0.0.1", port)).await?)
    })
    .await
    .with_context(|| process.tail(10))?;
    register(cluster, "go", port, "/mutate").await?;
    Ok(process)
}

/// The webhooks whose answer is ready.
async fn ready(cluster: &Cluster, pods: Value, values: &Map<String, Value>) -> Result<()> {
    let bindings = of_binding(values);
    let identity = cluster.authority().serving(&[])?;
    let port = constant::serve(identity.certificate.as_bytes(), identity.key.as_bytes(), Patches { pods, bindings })?;
    register(cluster, "ready", port, "/patch").await?;
    register(cluster, "empty", port, "/empty").await
}

/// Has the API server call a peer for the pods of its namespace, as Railbind has itself called.
async fn register(cluster: &Cluster, name: &str, port: u16, path: &str) -> Result<()> {
    let bundle = BASE64_STANDARD.encode(cluster.authority().certificate());
    let hook = |kind: &str, resource: &str| {
        json!({
            "name": format!("{kind}.{name}.test"), "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "failurePolicy": "Ignore", "timeoutSeconds": 3,
            "clientConfig": {"url": format!("https://127.0.0.1:{port}{path}/{kind}"), "caBundle": bundle},
            "namespaceSelector": {"matchLabels": {"bench": name}},
            "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": [resource], "scope": "Namespaced"}],
        })
    };
    let configuration = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration", "metadata": {"name": name},
        "webhooks": [hook("pods", "pods"), hook("bindings", "pods/binding")],
    });
    cluster.apply(&configuration.to_string()).await?;
    Ok(())
}

fn built(module: &Path, folder: &Path) -> Result<std::path::PathBuf> {
    let program = folder.join("peer-webhook");
    let output = Command::new("go").args(["build", "-o"]).arg(&program).arg(".").current_dir(module).output();
    let output = output.context("Go is not installed (https://go.dev/doc/install)")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(program)
}
