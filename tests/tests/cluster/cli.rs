//! `kubectl railbind` on real control planes: what it shows, and what it says where it cannot look.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use harness::{Cluster, LIMIT, NodeSpec, Options, front::Rule, railbind::binary, until, with_namespace};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::{
    cluster,
    selftest::{says, tester},
    stage::stage,
};

/// What the plugin said, and how it ended.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {}\n{}", self.out, self.err))
    }
}

/// Runs the plugin.
pub(crate) async fn run(kubeconfig: &Path, args: &str) -> Result<Answer> {
    let mut command = Command::new(binary("kubectl-railbind")?);
    command.args(args.split(' ')).env("KUBECONFIG", kubeconfig);
    answer(command).await
}

async fn answer(mut command: Command) -> Result<Answer> {
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await.context("run kubectl-railbind")?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok(Answer { code: output.status.code().unwrap_or(-1), out: text(&output.stdout), err: text(&output.stderr) })
}

fn worker(namespace: &str, name: &str, node: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": {"llm-d.ai/role": "decode"}},
        "spec": {"nodeSelector": {"kubernetes.io/hostname": node}, "containers": [{
            "name": "main", "image": "engine", "args": ["--hf-token", "s3cret-argument"],
            "env": [{"name": "HF_TOKEN", "value": "s3cret-value"}],
            "resources": {"limits": {"nvidia.com/gpu": "1"}},
        }]},
    })
}

pub(crate) async fn started(cluster: &Cluster, namespace: &str, name: &str, node: &str) -> Result<()> {
    cluster.apply(&worker(namespace, name, node).to_string()).await?;
    cluster.recorded(namespace, name, "main").await.map(|_| ())
}

#[tokio::test]
async fn status_by_kubectl_itself() {
    stage().await;
    let plugin = binary("kubectl-railbind").unwrap();
    let path = format!("{}:{}", plugin.parent().unwrap().display(), std::env::var("PATH").unwrap_or_default());
    let mut kubectl = Command::new(harness::kube_binary().await.unwrap());
    kubectl.args(["kubectl", "railbind", "status"]).env("PATH", path).env("KUBECONFIG", cluster().await.kubeconfig());
    let shown = answer(kubectl).await.unwrap();
    assert_eq!(shown.code, 0, "{}", shown.err);
    for part in [
        "infiniband, domain ib-fe80000000000000",
        "roce, domain roce-8-1a2327d48ab7129c",
        "roce-2",
        "infiniband-gpudirect",
        "8 x 400G",
    ] {
        assert!(shown.out.contains(part), "no {part:?} in\n{}", shown.out);
    }
    let json = run(cluster().await.kubeconfig(), "status -o json").await.unwrap().json();
    let roce = json["nodes"].as_array().unwrap().iter().find(|node| node["node"] == "roce-2").unwrap();
    assert_eq!((&roce["fabric"], &roce["ports"], &roce["gpus"]), (&json!("roce"), &json!(8), &json!(8)));
}

#[tokio::test]
async fn a_living_pod_is_explained_as_a_diff_with_its_nodes_values() {
    stage().await;
    with_namespace(cluster().await, &[("railbind.dev/inject", "enabled")], async |namespace| {
        let cluster = cluster().await;
        started(cluster, namespace, "w", "roce-2").await?;
        let shown = run(cluster.kubeconfig(), &format!("explain pod w -n {namespace}")).await?;
        ensure!(shown.code == 0, "{shown:?}");
        for part in [
            "profile roce-gpudirect",
            "Given when it was bound to roce-2\n  UCX_IB_GID_INDEX=5",
            "Difference to what was applied",
            "+    - name: UCX_TLS\n+      value: rc_x,rc,dc_x,dc,cuda_copy,cuda_ipc",
            "+        - IPC_LOCK",
            "rdma/roce_gdr: \"1\"",
        ] {
            ensure!(shown.out.contains(part), "no {part:?} in\n{}", shown.out);
        }
        // What would be patched, by the same decision, with the cluster's nodes.
        let file = cluster.path().join("explained.json");
        std::fs::write(&file, worker(namespace, "w", "roce-2").to_string())?;
        let would = run(cluster.kubeconfig(), &format!("explain -f {} -o json", file.display())).await?.json();
        ensure!(would["profile"] == "roce-gpudirect" && would["managed"] == true, "{would}");
        let absent = run(cluster.kubeconfig(), &format!("explain pod nobody -n {namespace}")).await?;
        ensure!(absent.code == 2 && absent.err.contains("not found"), "{absent:?}");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_deployment_is_looked_at_by_its_name_and_its_pods_explained_by_its_template() {
    stage().await;
    with_namespace(cluster().await, &[("railbind.dev/inject", "enabled")], async |namespace| {
        let cluster = cluster().await;
        let template = json!({
            "metadata": {"labels": {"llm-d.ai/role": "decode", "app": "d"}},
            "spec": worker(namespace, "x", "roce-1")["spec"],
        });
        let deployment = json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "namespace": namespace},
            "spec": {"replicas": 1, "selector": {"matchLabels": {"app": "d"}}, "template": template},
        });
        cluster.apply(&deployment.to_string()).await?;
        let name = until("the pod to run", LIMIT, || async {
            let args =
                ["get", "pods", "-n", namespace, "-o", "jsonpath={.items[0].metadata.name} {.items[0].status.phase}"];
            let shown = cluster.kubectl(&args).await?;
            Ok(shown.strip_suffix(" Running").context(shown.clone())?.to_owned())
        })
        .await?;
        let answer =
            run(cluster.kubeconfig(), &format!("doctor deployment d -n {namespace} --no-logs -o json")).await?;
        ensure!(answer.code == 0 && answer.json()["lookedAt"]["workers"] == 1, "{answer:?}");
        let shown = run(cluster.kubeconfig(), &format!("explain pod {name} -n {namespace}")).await?;
        ensure!(
            shown.out.contains("Difference to its controller's template") && shown.out.contains("+        - IPC_LOCK"),
            "{shown:?}"
        );
        let absent = run(cluster.kubeconfig(), &format!("doctor deployment nobody -n {namespace}")).await?;
        ensure!(absent.code == 2 && absent.err.contains("no Deployment or StatefulSet nobody"), "{absent:?}");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_bundle_holds_what_is_needed_and_no_secret() {
    stage().await;
    with_namespace(cluster().await, &[("railbind.dev/inject", "enabled")], async |namespace| {
        let cluster = cluster().await;
        started(cluster, namespace, "w", "ib-1").await?;
        let file = cluster.path().join("bundle.tar.gz");
        let shown = run(cluster.kubeconfig(), &format!("collect -n {namespace} -f {}", file.display())).await?;
        // Hollow kubelets serve no logs, and the bundle says so.
        ensure!(shown.code == 7 && shown.err.contains("log of"), "{shown:?}");
        let tar = |args: &'static [&'static str]| {
            let file = file.clone();
            async move {
                let mut command = Command::new("tar");
                command.args(args).arg(&file);
                answer(command).await
            }
        };
        let names = tar(&["-tzf"]).await?.out;
        for name in [
            "cluster/nodes.json",
            "cluster/nodefabrics.json",
            "workers/pods.json",
            "doctor.json",
            "about.json",
            "railbind/daemonsets.json",
        ] {
            ensure!(names.contains(name), "no {name} in\n{names}");
        }
        let all = tar(&["-xzOf"]).await?.out;
        ensure!(all.contains("UCX_TLS") && all.contains("HF_TOKEN") && !all.contains("s3cret"), "a secret, or nothing");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn logs_of_a_gigabyte_a_hanging_list_and_pods_without_logs() {
    stage().await;
    with_namespace(cluster().await, &[("railbind.dev/inject", "enabled")], async |namespace| {
        let cluster = cluster().await;
        started(cluster, namespace, "w", "ib-1").await?;
        // Before the kubelet has said that it runs, nobody asks for its log.
        cluster
            .kubectl(&["wait", "-n", namespace, "--for=jsonpath={.status.phase}=Running", "pod", "w", "--timeout=60s"])
            .await?;
        let doctor = format!("doctor pod w -n {namespace} -o json");
        let line = "INFO step 17\n[1] UCX  WARN no RDMA transports available\n";
        let large = cluster.fake_front(&[("/log", Rule::Repeat(line, 1 << 30))]).await?;
        let begun = Instant::now();
        let answer = run(&large, &doctor).await?;
        ensure!(begun.elapsed() < Duration::from_mins(1), "{:?}", begun.elapsed());
        ensure!(answer.code == 1 && answer.json()["findings"][0]["code"] == "LogsTcp", "{answer:?}");

        let without = run(cluster.kubeconfig(), &doctor).await?;
        ensure!(without.code == 7 && without.err.contains("not looked at: log of pod"), "{without:?}");
        ensure!(without.json()["healthy"] == true && without.json()["lookedAt"]["logs"] == 0, "{without:?}");
        let shown = run(cluster.kubeconfig(), &format!("doctor pod w -n {namespace}")).await?;
        ensure!(shown.out.starts_with("Nothing to act on in what could be looked at: "), "{shown:?}");
        ensure!(shown.err.contains("what needs no log is all here"), "{shown:?}");
        let unasked = run(cluster.kubeconfig(), &format!("{doctor} --no-logs")).await?;
        ensure!(unasked.code == 0, "{unasked:?}");
        // One whose container waits for an init container has no log yet: nothing is missing.
        let mut waits = worker(namespace, "waits", "ib-1");
        waits["spec"]["initContainers"] = json!([{"name": "first", "image": "engine", "command": ["sleep"]}]);
        cluster.apply(&waits.to_string()).await?;
        cluster.recorded(namespace, "waits", "first").await?;
        until("the kubelet to say that it waits", LIMIT, || async {
            let reason = "jsonpath={.status.containerStatuses[0].state.waiting.reason}";
            let reason = cluster.kubectl(&["get", "pod", "waits", "-n", namespace, "-o", reason]).await?;
            ensure!(reason == "PodInitializing", "{reason}");
            Ok(())
        })
        .await?;
        let waiting = run(cluster.kubeconfig(), &format!("doctor pod waits -n {namespace} -o json")).await?;
        ensure!(waiting.code == 0 && waiting.json()["missing"] == json!([]), "{waiting:?}");

        let half = cluster.fake_front(&[("nodefabrics", Rule::Hang)]).await?;
        let answer = run(&half, "status --request-timeout 2 -o json").await?;
        ensure!(answer.code == 7 && answer.err.contains("NodeFabrics: no answer within 2 s"), "{answer:?}");
        let nodes = answer.json()["nodes"].as_array().map_or(0, Vec::len);
        ensure!(nodes >= 6 && answer.json()["missing"][0]["what"].is_string(), "{answer:?}");
        // A finding wins, and what could not be looked at is said all the same.
        let pods = cluster.fake_front(&[("/nodefabrics", Rule::Hang), ("/log", Rule::Repeat(line, 1 << 16))]).await?;
        let answer = run(&pods, &format!("{doctor} --request-timeout 2")).await?;
        ensure!(answer.code == 1 && answer.err.contains("not looked at: NodeFabrics"), "{answer:?}");
        Ok(())
    })
    .await;
}

/// A kubeconfig of a service account with these rights.
pub(crate) async fn limited(cluster: &Cluster, name: &str, rules: Value) -> Result<PathBuf> {
    let objects = json!({"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": harness::railbind::NAMESPACE}},
        {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": name}, "rules": rules},
        {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": harness::railbind::NAMESPACE}]},
    ]});
    cluster.apply(&objects.to_string()).await?;
    cluster.identity(name, None).await
}

#[tokio::test]
async fn without_permission_what_may_be_seen_is_shown() {
    stage().await;
    let cluster = cluster().await;
    let nodes = json!([{"apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "list"]}]);
    let some = limited(cluster, "cli-some", nodes).await.unwrap();
    let shown = until("the role to count", LIMIT, || async {
        let shown = run(&some, "status").await?;
        ensure!(shown.out.contains("roce-2"), "{shown:?}");
        Ok(shown)
    })
    .await
    .unwrap();
    assert_eq!(shown.code, 4, "{shown:?}");
    assert!(shown.err.contains("not looked at: NodeFabrics: nodefabrics.railbind.dev is forbidden"), "{shown:?}");
    let none = limited(cluster, "cli-none", json!([])).await.unwrap();
    for args in ["status", "matrix", "doctor pod x", "explain pod x"] {
        let refused = run(&none, args).await.unwrap();
        assert!(refused.code == 4 && refused.err.contains("forbidden"), "{args}: {refused:?}");
    }
    let doctor = run(&none, "doctor").await.unwrap();
    assert_eq!(doctor.code, 4, "{doctor:?}");
    assert!(doctor.err.contains("pods: ") && doctor.err.contains("nodes: "), "{doctor:?}");
}

#[tokio::test]
async fn without_railbind_with_an_older_one_and_self_tests_by_a_test_that_plays_the_agent() {
    let cluster = Cluster::start(Options::default()).await.unwrap();
    cluster.add_node(NodeSpec::new("one")).await.unwrap();
    let none = run(cluster.kubeconfig(), "status").await.unwrap();
    assert_eq!(none.code, 5, "{none:?}");
    assert!(none.err.contains("Railbind is not installed here") && none.out.contains("one"), "{none:?}");
    let page = run(cluster.kubeconfig(), "ui").await.unwrap();
    assert!(page.code == 5 && page.err.contains("not installed in namespace railbind-system"), "{page:?}");

    cluster
        .kubectl(&["label", "node", "one", "railbind.dev/fabric=infiniband", "railbind.dev/fabric-domain=ib-x"])
        .await
        .unwrap();
    let older = run(cluster.kubeconfig(), "status").await.unwrap();
    assert_eq!(older.code, 6, "{older:?}");
    assert!(older.err.contains("an older Railbind"), "{older:?}");

    cluster.apply(include_str!("../../../manifests/base/crds/nodefabrics.yaml")).await.unwrap();
    cluster.kubectl(&["wait", "--for=condition=Established", "crd/nodefabrics.railbind.dev"]).await.unwrap();
    for name in ["one", "two"] {
        let fabric = json!({"apiVersion": "railbind.dev/v1alpha1", "kind": "NodeFabric", "metadata": {"name": name}, "spec": {}});
        until("the kind", LIMIT, || async { cluster.apply(&fabric.to_string()).await }).await.unwrap();
    }
    set_status(&cluster, "one", &json!({"fabric": "infiniband", "fromTheFuture": {"x": 1}})).await.unwrap();
    let lacking = run(cluster.kubeconfig(), "status").await.unwrap();
    assert_eq!(lacking.code, 6, "{lacking:?}");
    assert!(lacking.err.contains("NodeFabric one is of another version") && lacking.out.contains("one"), "{lacking:?}");

    // Nobody takes the request up.
    let alone = run(cluster.kubeconfig(), "selftest one --wait 2").await.unwrap();
    assert_eq!(alone.code, 6, "{alone:?}");
    assert!(alone.err.contains("does not take up the request"), "{alone:?}");
    // The test plays the agent: it answers the request that it finds on the node.
    let old = request(&cluster).await.unwrap();
    let kubeconfig = cluster.kubeconfig().to_owned();
    let asked = tokio::spawn(async move { run(&kubeconfig, "selftest one --wait 60").await });
    let new = until("a new request", LIMIT, || async {
        let new = request(&cluster).await?;
        ensure!(new != old, "still the old one");
        Ok(new)
    })
    .await
    .unwrap();
    let test = |tests: u32, ended: Option<&str>| {
        let partner = json!({"name": "two", "at": "2026-01-01T00:00:00Z", "verdict": "passed", "streak": 1, "code": "AsExpected", "gbytesPerS": 47.1});
        json!({
            "fabric": "infiniband", "facts": {}, "ready": {"status": "True", "reason": "x", "message": "x"},
            "selftest": {
                "verdict": "passed", "code": "AsExpected", "reasons": ["as it should be"], "remedy": "", "bandwidth": "47.1 GB/s",
                "partners": [partner], "requested": new, "sweep": {"since": "2026-01-01T00:00:00Z", "trigger": "requested", "tests": tests, "ended": ended},
            },
        })
    };
    set_status(&cluster, "one", &test(1, None)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    set_status(&cluster, "one", &test(3, Some("2026-01-01T00:01:00Z"))).await.unwrap();
    let done = asked.await.unwrap().unwrap();
    assert_eq!(done.code, 0, "{done:?}");
    assert!(done.err.contains("one: 3 transfers, passed 47.1 GB/s") && done.out.contains("done"), "{done:?}");

    cluster.add_node(NodeSpec::new("two").label("railbind.dev/fabric", "infiniband")).await.unwrap();
    cluster
        .kubectl(&[
            "label",
            "node",
            "two",
            "railbind.dev/fabric=infiniband",
            "railbind.dev/fabric-domain=ib-x",
            "--overwrite",
        ])
        .await
        .unwrap();
    set_status(&cluster, "two", &json!({"facts": {}, "ready": {"status": "True", "reason": "x", "message": "x"}}))
        .await
        .unwrap();
    let svg = cluster.path().join("matrix.svg");
    let matrix = run(cluster.kubeconfig(), &format!("matrix --svg {}", svg.display())).await.unwrap();
    assert_eq!(matrix.code, 0, "{matrix:?}");
    assert!(
        matrix.out.contains("ib-x, median 47.1 GB/s") && matrix.out.contains("No node and no pair is odd"),
        "{matrix:?}"
    );
    assert!(std::fs::read_to_string(svg).unwrap().contains("one to two: 47 GB/s"));
    let command = "advise --isl 8000 --osl 500 --model-shape 32,8,128,bf16 --pair one,two -o json";
    let advice = run(cluster.kubeconfig(), command).await.unwrap().json();
    assert_eq!(advice["transfer"]["source"], "self-test one to two", "{advice}");
    let unknown = run(cluster.kubeconfig(), "advise --isl 1 --osl 1 --pair one,three").await.unwrap();
    assert!(unknown.code == 2 && unknown.err.contains("no node three"), "{unknown:?}");
    cluster.stop().await.unwrap();
}

#[tokio::test]
async fn real_agents_are_asked_for_a_self_test_and_watched() {
    stage().await;
    let cluster = cluster().await;
    let root = harness::railbind::repository().join("tests/fixtures/tcp-only");
    let mut agents = Vec::new();
    for node in ["asked-1", "asked-2"] {
        agents.push(tester(cluster, node, &root, &["--selftest-recovery=3600"]).await.unwrap());
    }
    for (agent, node) in agents.iter().zip(["asked-1", "asked-2"]) {
        says(cluster, agent, node, &["passed", "slow"]).await.unwrap();
    }
    let done = run(cluster.kubeconfig(), "selftest asked-1 asked-2 --wait 120 -o json").await.unwrap();
    let all = done.json();
    for one in all.as_array().unwrap() {
        assert_eq!(one["state"], "done", "{done:?}");
        assert!(one["tests"].as_u64().unwrap() >= 1, "{done:?}");
        // Over this machine's TCP, two readings of which can differ by half.
        assert!(["passed", "slow"].contains(&one["verdict"].as_str().unwrap()), "{done:?}");
    }
    let matrix = run(cluster.kubeconfig(), "matrix -o json").await.unwrap().json();
    let rows = matrix["rows"].as_array().unwrap();
    let row = rows.iter().find(|row| row["node"] == "asked-1").unwrap();
    let cell = &row["cells"]["asked-2"];
    assert!(cell["gbytesPerS"].as_f64().is_some_and(|gbytes| gbytes > 0.0), "{matrix}");
    for (mut agent, node) in agents.into_iter().zip(["asked-1", "asked-2"]) {
        agent.process.stop().await.unwrap();
        cluster.remove_node(node).await.unwrap();
    }
}

async fn set_status(cluster: &Cluster, name: &str, status: &Value) -> Result<()> {
    let patch = json!({"status": status}).to_string();
    cluster
        .kubectl(&["patch", "nodefabric", name, "--subresource=status", "--type=merge", "-p", &patch])
        .await
        .map(|_| ())
}

async fn request(cluster: &Cluster) -> Result<String> {
    cluster
        .kubectl(&["get", "node", "one", "-o", "jsonpath={.metadata.annotations.railbind\\.dev/selftest-requested}"])
        .await
}
