//! The self-test as a platform team turns it on: what its agents have more than the others, where they run, and docs/selftest.md.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use harness::{
    Cluster, LIMIT, NodeSpec, Options,
    railbind::{NAMESPACE, repository},
    until,
};
use node_agent::args::RunArgs;
use policies::quantity;
use serde_json::{Value, json};

use crate::render::{Mine, Objects, helm, kustomize, same};

const PLAIN: &str = "DaemonSet/railbind-agent";
const OWN: &str = "DaemonSet/railbind-agent-selftest";

/// `railbind-agent run`, by the agent's own parser.
#[derive(Debug, Parser)]
struct Run {
    #[command(flatten)]
    args: RunArgs,
}

fn container(object: &Value) -> &Value {
    &object["spec"]["template"]["spec"]["containers"][0]
}

/// What a container's arguments mean.
fn run(object: &Value) -> Result<RunArgs> {
    let args = container(object)["args"].as_array().context("args")?.iter();
    let args: Vec<&str> = args.map(|arg| arg.as_str().context("no text")).collect::<Result<_>>()?;
    ensure!(args.first() == Some(&"run"), "{args:?}");
    // The first stands for the program's name; the node's comes from the environment.
    Ok(Run::try_parse_from([&args[..], &["--node-name=node"]].concat())?.args)
}

fn page() -> String {
    fs::read_to_string(repository().join("docs/selftest.md")).unwrap()
}

/// The same without its lines' ends.
fn prose() -> String {
    page().split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The page's blocks of YAML, in order.
fn blocks(page: &str) -> Vec<&str> {
    let blocks: Vec<&str> = page.split("```yaml\n").skip(1).filter_map(|rest| rest.split("\n```").next()).collect();
    assert_eq!(blocks.len(), 3, "{blocks:#?}");
    blocks
}

/// The chart with these values, and with those of one of its examples.
async fn chart(values: &str, example: Option<&str>) -> Objects {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), values).unwrap();
    let example = example.map(|name| repository().join(format!("charts/railbind/examples/{name}.yaml")));
    let mut args = vec!["--set", "namespace.create=true", "--values", file.path().to_str().unwrap()];
    args.extend(example.iter().flat_map(|path| ["--values", path.to_str().unwrap()]));
    helm(&args).await.unwrap()
}

#[tokio::test]
async fn its_agent_is_the_plain_one_and_what_the_page_lists() {
    let (base, with) = (kustomize("base").await.unwrap(), kustomize("overlays/selftest").await.unwrap());
    let more: Vec<&str> = with.keys().filter(|name| !base.contains_key(*name)).map(String::as_str).collect();
    assert_eq!(more, [OWN, "PriorityClass/railbind-selftest"]);
    for (name, object) in base.iter().filter(|(name, _)| *name != PLAIN) {
        assert_eq!(object, &with[name], "nothing else of the installation changes: {name}");
    }

    let mut plain = base[PLAIN].clone();
    let term =
        json!({"matchExpressions": [{"key": "nvidia.com/gpu.present", "operator": "NotIn", "values": ["true"]}]});
    plain["spec"]["template"]["spec"]["affinity"] = json!({
        "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}},
    });
    assert_eq!(with[PLAIN], plain);

    let mut own = base[PLAIN].clone();
    own["metadata"]["name"] = json!("railbind-agent-selftest");
    for labels in ["/metadata/labels", "/spec/selector/matchLabels", "/spec/template/metadata/labels"] {
        own.pointer_mut(labels).unwrap()["app.kubernetes.io/name"] = json!("railbind-agent-selftest");
    }
    let pod = &mut own["spec"]["template"]["spec"];
    pod["nodeSelector"] = json!({"nvidia.com/gpu.present": "true"});
    pod["priorityClassName"] = json!("railbind-selftest");
    pod["runtimeClassName"] = json!("nvidia");
    let container = &mut pod["containers"][0];
    container["args"].as_array_mut().unwrap().push(json!("--selftest=on"));
    container["env"].as_array_mut().unwrap().extend([
        json!({"name": "NVIDIA_VISIBLE_DEVICES", "value": "all"}),
        json!({"name": "NVIDIA_DRIVER_CAPABILITIES", "value": "compute,utility"}),
    ]);
    container["resources"]["limits"] = json!({"memory": "2Gi", "rdma/hca": "1"});
    container["securityContext"]["capabilities"]["add"] = json!(["IPC_LOCK"]);
    assert_eq!(with[OWN], own);

    let page = prose();
    for said in
        ["--selftest=on", "IPC_LOCK", "NVIDIA_VISIBLE_DEVICES=all", "NVIDIA_DRIVER_CAPABILITIES=compute,utility"]
    {
        assert!(page.contains(said), "the page does not name {said}");
    }
    assert_eq!(with["PriorityClass/railbind-selftest"]["preemptionPolicy"], "Never");
}

#[tokio::test]
async fn its_arguments_are_the_agents_and_its_figures_the_pages() {
    let objects = kustomize("overlays/selftest").await.unwrap();
    assert!(!run(&objects[PLAIN]).unwrap().selftest.selftest);
    let args = run(&objects[OWN]).unwrap();
    assert!(args.selftest.selftest && args.ucx_folders.is_empty());
    let mut wrong = objects[OWN].clone();
    wrong["spec"]["template"]["spec"]["containers"][0]["args"]
        .as_array_mut()
        .unwrap()
        .push(json!("--selftest-size=1M"));
    assert!(run(&wrong).unwrap_err().to_string().contains("--selftest-size"), "the parser takes anything");

    let (page, prose, config) = (page(), prose(), args.selftest.config("node", Path::new("/"), &[]));
    let (settings, limits) = (config.settings, config.limits);
    let largest = config.sizes.iter().max().unwrap() >> 20;
    for said in [
        format!("Let the nodes reach each other**: TCP port {},", args.selftest.listen.port()),
        format!("`--selftest-partners` ({})", settings.sample),
        format!("a `--selftest-slot` of {} s", settings.slot_seconds),
        format!("seven times `--selftest-seconds` ({})", limits.seconds_each),
        format!("every `--selftest-recovery` ({} min)", settings.recovery_seconds / 60.0),
        format!("2 or more, {} at most", settings.most),
        format!("the largest of `--selftest-sizes` ({largest} MiB) and {} MiB", (limits.buffer_bytes >> 20) - largest),
    ] {
        assert!(prose.contains(&said), "the page does not say: {said}");
    }
    assert!((settings.period_seconds - 3600.0).abs() < 1e-9 && prose.contains("every `--selftest-period` (an hour)"));
    let steps = 3 * config.sizes.len() + 1;
    assert_eq!(steps, 7, "put, get and tag at each size, and the latency");

    // The memory, line by line.
    let mib = |what: &str| -> u64 {
        let row = page.lines().find_map(|line| line.strip_prefix(&format!("| {what} | ")));
        let row = row.unwrap_or_else(|| panic!("no line about {what}"));
        row.split(" |").next().unwrap().parse().unwrap()
    };
    let limit = |object: &Value| {
        quantity::floor(container(object)["resources"]["limits"]["memory"].as_str().unwrap()).unwrap() >> 20
    };
    assert_eq!(mib("the agent"), limit(&objects[PLAIN]));
    assert_eq!(mib("buffers"), (2 * limits.buffer_bytes) >> 20);
    let sum = mib("the agent") + mib("buffers") + mib("UCX");
    assert!(page.contains(&format!("| | {sum} |")), "the sum is {sum}");
    let without = Mine::new("resources: [../base]\ncomponents: [../components/selftest]\n").await;
    assert!(2 * sum <= limit(&kustomize(&without.path).await.unwrap()[OWN]));
    assert!(2 * sum + mib("CUDA") <= limit(&objects[OWN]));
}

#[tokio::test]
async fn the_pages_overlay_and_the_pages_values_are_the_same() {
    let page = page();
    let (blocks, example) = (blocks(&page), Some("ha"));
    let mine = Mine::new(blocks[0]).await;
    let objects = kustomize(&mine.path).await.unwrap();
    let selector = &objects[OWN]["spec"]["template"]["spec"]["nodeSelector"];
    assert_eq!(selector, &json!({"example.com/selftest": "on"}));
    same(&objects, &chart(blocks[1], example).await);
}

#[tokio::test]
async fn another_ucx_comes_from_the_node_or_from_an_image() {
    let components = "resources: [../overlays/dev]\ncomponents: [../components/selftest, ../components/selftest-ucx]\n";
    let node = kustomize(&Mine::new(components).await.path).await.unwrap();
    assert_eq!(run(&node[OWN]).unwrap().ucx_folders, [PathBuf::from("/opt/ucx/lib")]);
    assert!(run(&node[PLAIN]).unwrap().ucx_folders.is_empty());
    let values = "agent: {selftest: {enabled: true, ucx: {volume: {hostPath: {path: /opt/ucx, type: Directory}}}}}";
    same(&node, &chart(values, Some("dev")).await);

    // The page's patch, with an image's name in it.
    let (page, prose, reference) = (page(), prose(), "registry.example/ucx-cuda:1.19");
    let patch = prose.split("a patch after the component: `").nth(1).and_then(|rest| rest.split('`').next()).unwrap();
    let patch = patch.replace('…', &format!("\"{reference}\""));
    let patched = format!(
        "{components}patches:\n  - target: {{kind: DaemonSet, name: railbind-agent-selftest}}\n    patch: |\n      - {patch}\n"
    );
    let image = kustomize(&Mine::new(&patched).await.path).await.unwrap();
    assert_eq!(
        image[OWN]["spec"]["template"]["spec"]["volumes"][4],
        json!({"name": "ucx", "image": {"reference": reference}})
    );
    let values = format!("{}\n    enabled: true\n", blocks(&page)[2]);
    same(&image, &chart(&values, Some("dev")).await);
}

#[tokio::test]
async fn values_reach_the_agent_that_they_are_for() {
    let values = "agent:\n  extraArgs: [--period=30]\n  nodeSelector: {kubernetes.io/os: linux}\n  resources: {limits: {memory: 64Mi}}\n  \
                  selftest: {enabled: true, nodeLabel: example.com/selftest=, rdmaResource: '', memoryLimit: 3Gi, extraArgs: [--selftest-share=0.5]}\n";
    let objects = chart(values, None).await;
    let (plain, own) = (run(&objects[PLAIN]).unwrap(), run(&objects[OWN]).unwrap());
    assert!(!plain.selftest.selftest && own.selftest.selftest);
    assert_eq!((plain.period.as_secs(), own.period.as_secs()), (30, 30));
    assert!((own.selftest.share - 0.5).abs() < 1e-9 && (plain.selftest.share - 1.0).abs() < 1e-9);
    assert_eq!(container(&objects[PLAIN])["resources"]["limits"], json!({"memory": "64Mi"}));
    assert_eq!(container(&objects[OWN])["resources"]["limits"], json!({"memory": "3Gi"}));
    let pod = &objects[OWN]["spec"]["template"]["spec"];
    assert_eq!(pod["nodeSelector"], json!({"kubernetes.io/os": "linux", "example.com/selftest": ""}));
    assert!(pod["runtimeClassName"].is_null() && pod["volumes"].as_array().unwrap().len() == 4, "{pod}");
    // Nothing of it is there until somebody wants it.
    let off = helm(&[]).await.unwrap();
    assert!(!off.contains_key(OWN) && !off.keys().any(|name| name.starts_with("PriorityClass/")));
    assert!(off[PLAIN]["spec"]["template"]["spec"]["affinity"].is_null());
}

/// Every pod that a rendering holds.
fn pods(objects: &Objects) -> impl Iterator<Item = (&str, &Value)> {
    let pods = objects.iter().map(|(name, object)| (name.as_str(), &object["spec"]["template"]["spec"]));
    pods.filter(|(_, pod)| pod.is_object())
}

fn asks_for_no_privileges(what: &str, objects: &Objects) {
    for (name, pod) in pods(objects) {
        assert!(pod["hostIPC"].is_null(), "{what} {name}");
        let mut volumes = pod["volumes"].as_array().into_iter().flatten();
        assert!(volumes.all(|volume| volume["hostPath"]["path"] != "/"), "{what} {name}");
        let containers = ["initContainers", "containers"].iter().filter_map(|key| pod[*key].as_array()).flatten();
        for container in containers {
            let context = &container["securityContext"];
            assert!(context["privileged"] != true, "{what} {name} is privileged");
            assert_eq!(context["allowPrivilegeEscalation"], false, "{what} {name}");
            assert_eq!(context["readOnlyRootFilesystem"], true, "{what} {name}");
            let allowed =
                if name == OWN { json!({"drop": ["ALL"], "add": ["IPC_LOCK"]}) } else { json!({"drop": ["ALL"]}) };
            assert_eq!(context["capabilities"], allowed, "{what} {name}");
            for mount in container["volumeMounts"].as_array().into_iter().flatten() {
                assert_eq!(mount["readOnly"], true, "{what} {name}: {mount}");
            }
        }
    }
    assert!(pods(objects).count() >= 2, "{what}");
}

#[tokio::test]
async fn no_overlay_or_component_asks_for_privileges() {
    let folders = |of: &str| -> BTreeSet<String> {
        let entries = fs::read_dir(repository().join("manifests").join(of)).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    };
    let (overlays, components) = (folders("overlays"), folders("components"));
    assert!(overlays.len() >= 6 && components.len() >= 6, "{overlays:?} {components:?}");
    for overlay in &overlays {
        asks_for_no_privileges(overlay, &kustomize(&format!("overlays/{overlay}")).await.unwrap());
    }
    for component in &components {
        // Those of its name go with it.
        let first = if component.starts_with("selftest-") { "../components/selftest, " } else { "" };
        let text = format!("resources: [../base]\ncomponents: [{first}../components/{component}]\n");
        asks_for_no_privileges(component, &kustomize(&Mine::new(&text).await.path).await.unwrap());
    }
    let values =
        "agent: {selftest: {enabled: true, gpu: {runtimeClassName: nvidia}, ucx: {volume: {image: {reference: ucx}}}}}";
    asks_for_no_privileges("the chart", &chart(values, None).await);
}

/// The pod of an app on a node, once the controller has made one.
async fn pod_on(cluster: &Cluster, app: &str, node: &str) -> Result<Value> {
    until(format_args!("a pod of {app} for {node}"), LIMIT, || async {
        let selector = format!("app.kubernetes.io/name={app}");
        let text = cluster.kubectl(&["get", "pods", "-n", NAMESPACE, "-l", &selector, "-o", "json"]).await?;
        let pods: Value = serde_json::from_str(&text)?;
        // One that is not scheduled yet is bound to its node by its affinity.
        let affinity = "/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms/0/matchFields/0/values/0";
        let is_of = |pod: &&Value| pod.pointer(affinity).is_some_and(|name| name == node) && pod["metadata"]["deletionTimestamp"].is_null();
        let pods = pods["items"].as_array().context("items")?;
        pods.iter().find(is_of).cloned().with_context(|| format!("none among {}", pods.len()))
    })
    .await
}

/// On the real API server, with the real controllers and scheduler; the containers are not run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_node_has_the_agent_that_fits_it_and_no_worker_is_pushed_out() {
    let cluster = Cluster::start(Options::default()).await.unwrap();
    let gpu = |name: &str| NodeSpec::new(name).label("nvidia.com/gpu.present", "true").resource("rdma/hca", "8");
    for spec in [NodeSpec::new("cpu"), gpu("free"), gpu("full")] {
        cluster.add_node(spec).await.unwrap();
    }
    cluster.apply(r#"{"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": "nvidia"}, "handler": "nvidia"}"#).await.unwrap();
    until("the account of workers", LIMIT, || cluster.kubectl(&["get", "serviceaccount/default", "-n", "default"]))
        .await
        .unwrap();
    // All slots of one node are taken.
    let worker = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "worker", "namespace": "default"},
        "spec": {"nodeSelector": {"kubernetes.io/hostname": "full"},
                 "containers": [{"name": "main", "image": "x", "resources": {"limits": {"rdma/hca": "8"}}}]},
    });
    cluster.apply(&worker.to_string()).await.unwrap();
    cluster.recorded("default", "worker", "main").await.unwrap();

    let overlay = repository().join("manifests/overlays/selftest").display().to_string();
    let args = ["apply", "--server-side", "-k", &overlay];
    cluster.kubectl(&args).await.unwrap();
    let again = cluster.kubectl(&args).await.unwrap();
    assert!(again.contains("daemonset.apps/railbind-agent-selftest serverside-applied"), "{again}");

    let started = async |app: &str, node: &str| {
        let pod = pod_on(&cluster, app, node).await.unwrap();
        let record = cluster.recorded(NAMESPACE, pod["metadata"]["name"].as_str().unwrap(), "agent").await.unwrap();
        assert_eq!(record["node"], node);
        record
    };
    let capabilities = |record: &Value| record["linux"]["security_context"]["capabilities"]["add_capabilities"].clone();
    let plain = started("railbind-agent", "cpu").await;
    let on = json!("--selftest=on");
    assert!(!plain["args"].as_array().unwrap().contains(&on) && capabilities(&plain).is_null(), "{plain}");
    let own = started("railbind-agent-selftest", "free").await;
    assert!(own["args"].as_array().unwrap().contains(&on), "{own}");
    assert_eq!(capabilities(&own), json!(["IPC_LOCK"]), "{}", own["linux"]);
    assert!(own["linux"]["security_context"]["privileged"] != true, "{}", own["linux"]);
    assert_eq!(own["env"]["NVIDIA_VISIBLE_DEVICES"], "all");
    assert_eq!(own["linux"]["resources"]["memory_limit_in_bytes"], 2_u64 << 30, "{}", own["linux"]);

    // Where nothing is left the agent waits, and the worker stays.
    until("the agent without a slot to say so", LIMIT, || async {
        let pod = pod_on(&cluster, "railbind-agent-selftest", "full").await?;
        let conditions = pod["status"]["conditions"].as_array().context("no conditions yet")?;
        let message =
            conditions.iter().filter_map(|condition| condition["message"].as_str()).collect::<Vec<_>>().join("; ");
        ensure!(message.contains("Insufficient rdma/hca"), "{message}");
        ensure!(message.contains("not eligible due to preemptionPolicy=Never"), "{message}");
        Ok(())
    })
    .await
    .unwrap();
    let worker: Value =
        serde_json::from_str(&cluster.kubectl(&["get", "pod", "worker", "-o", "json"]).await.unwrap()).unwrap();
    assert!(worker["metadata"]["deletionTimestamp"].is_null() && worker["status"]["phase"] == "Running", "{worker}");

    // A node that is taken out again has the plain agent.
    cluster.kubectl(&["label", "node", "free", "nvidia.com/gpu.present-"]).await.unwrap();
    started("railbind-agent", "free").await;
    until("one node to take part, and two not", LIMIT, || async {
        let args = ["get", "daemonsets", "-n", NAMESPACE, "-o", "jsonpath={.items[*].status.desiredNumberScheduled}"];
        let desired = cluster.kubectl(&args).await?;
        ensure!(desired.trim() == "2 1", "{desired}");
        Ok(())
    })
    .await
    .unwrap();
    cluster.stop().await.unwrap();
}
