//! Installed, upgraded, rolled back and taken away, on the real API server, both ways.
//!
//! The API server, the controllers and the kubelets are real; the containers are not run. So the DaemonSet's and the
//! Deployment's processes are started by the test, under the service accounts that the installation made, and what the
//! pods would have been started with is read from what the kubelets asked their runtime for.

use std::{fs, path::Path, process::Command as Std};

use anyhow::{Context as _, Result, ensure};
use harness::{
    Cluster, LIMIT, NodeSpec, Options, free_port,
    railbind::{Daemon, NAMESPACE, binary, repository},
    tool, until,
};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::trace::{everything, none_left};

const NODE: &str = "roce-1";

struct Stage {
    cluster: Cluster,
    before: std::collections::BTreeSet<String>,
    log: Vec<String>,
}

impl Stage {
    async fn new() -> Result<Self> {
        let cluster = Cluster::start(Options::default()).await?;
        cluster.add_node(NodeSpec::new(NODE).resource("nvidia.com/gpu", "8").resource("rdma/roce", "8")).await?;
        for namespace in ["default", "kube-node-lease", "kube-public", "kube-system"] {
            until(format_args!("{namespace} to be complete"), LIMIT, || async {
                cluster.kubectl(&["get", "serviceaccount/default", "configmap/kube-root-ca.crt", "-n", namespace]).await
            })
            .await?;
        }
        // The node's own objects come one after the other.
        until("the node's lease", LIMIT, || cluster.kubectl(&["get", "lease", NODE, "-n", "kube-node-lease"])).await?;
        let mut before = everything(&cluster).await?;
        let before = loop {
            tokio::time::sleep(std::time::Duration::from_secs(2)).await;
            let now = everything(&cluster).await?;
            if now == before {
                break now;
            }
            before = now;
        };
        Ok(Self { cluster, before, log: Vec::new() })
    }

    /// A step as a person would type it, and what it said.
    fn said(&mut self, step: &str, text: &str) {
        self.log.push(format!("$ {step}\n{}", text.trim_end()));
    }

    async fn kubectl(&mut self, args: &[&str]) -> Result<String> {
        let said = self.cluster.kubectl(args).await?;
        let shown = args.join(" ").replace(&repository().display().to_string(), ".");
        self.said(&format!("kubectl {shown}"), &said);
        Ok(said)
    }

    async fn helm(&mut self, args: &[&str]) -> Result<String> {
        let mut command = Command::new(tool("helm").await?);
        command.args(args).args(["--namespace", NAMESPACE]);
        command.env("KUBECONFIG", self.cluster.kubeconfig()).env("HOME", self.cluster.path());
        let output = command.output().await?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(output.status.success(), "helm {args:?}: {}{text}", String::from_utf8_lossy(&output.stderr));
        let shown = args.join(" ").replace(&repository().display().to_string(), ".");
        self.said(&format!("helm {shown} --namespace {NAMESPACE}"), text.split("\nNOTES:").next().unwrap_or_default());
        Ok(text)
    }

    /// The processes that the pods would run, with the Deployment's own flags.
    async fn webhook(&self, name: &str) -> Result<Daemon> {
        let deployment = self.get("deployment/railbind-webhook").await?;
        let args = deployment["spec"]["template"]["spec"]["containers"][0]["args"].as_array().context("args")?.clone();
        let args: Vec<&str> = args.iter().skip(1).filter_map(Value::as_str).collect();
        let listen = format!("127.0.0.1:{}", free_port()?);
        let more = [&args[..], &["--drain-seconds=1"]].concat();
        let more: Vec<&str> = more.iter().rev().fold(Vec::new(), |mut kept, arg| {
            let key = arg.split('=').next();
            if !kept.iter().any(|other: &&str| other.split('=').next() == key) {
                kept.push(arg);
            }
            kept
        });
        self.cluster.spawn_webhook_at(name, &listen, &format!("https://{listen}"), &more).await
    }

    async fn get(&self, what: &str) -> Result<Value> {
        Ok(serde_json::from_str(&self.cluster.kubectl(&["get", what, "-n", NAMESPACE, "-o", "json"]).await?)?)
    }

    /// What a kubelet asked its runtime for, for a pod with this image.
    async fn started(&self, app: &str, image: &str) -> Result<Value> {
        until(format_args!("a pod of {app} with {image}"), LIMIT, || async {
            let selector = format!("app.kubernetes.io/name={app}");
            let text = self.cluster.kubectl(&["get", "pods", "-n", NAMESPACE, "-l", &selector, "-o", "json"]).await?;
            let pods: Value = serde_json::from_str(&text)?;
            let pods = pods["items"].as_array().context("items")?;
            let with = |pod: &&Value| pod["spec"]["containers"][0]["image"] == image && pod["spec"]["nodeName"] == NODE;
            let pod = pods.iter().find(with).with_context(|| format!("none among {}", pods.len()))?;
            let name = pod["metadata"]["name"].as_str().context("name")?;
            let container = pod["spec"]["containers"][0]["name"].as_str().context("container")?;
            self.cluster.recorded(NAMESPACE, name, container).await
        })
        .await
    }

    /// A worker is patched, and gets its node's values when it is bound; the API server takes its time to see a new policy.
    async fn works(&self, name: &str) -> Result<()> {
        let tries = std::sync::atomic::AtomicUsize::new(0);
        until(format_args!("{name}: a worker with its node's values"), LIMIT, || async {
            let name = format!("{name}-{}", tries.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
            let pod = json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": name, "namespace": "serving", "labels": {"llm-d.ai/role": "decode"}},
                "spec": {"containers": [{"name": "main", "image": "vllm", "resources": {"limits": {"nvidia.com/gpu": "1"}}}]},
            });
            self.cluster.apply(&pod.to_string()).await?;
            let record = self.cluster.recorded("serving", &name, "main").await?;
            self.cluster.kubectl(&["delete", "pod", &name, "-n", "serving", "--now"]).await?;
            ensure!(record["env"]["UCX_IB_GID_INDEX"] == "3", "{}", record["env"]);
            Ok(())
        })
        .await
    }

    async fn agent(&self) -> Result<Daemon> {
        let mut agent = self.cluster.spawn_agent(NODE, &repository().join("tests/fixtures/roce-gid3"), "1").await?;
        agent.ready().await?;
        Ok(agent)
    }

    async fn serving(&self) -> Result<()> {
        self.cluster.apply(r#"{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "serving", "labels": {"railbind.dev/inject": "enabled"}}}"#).await?;
        until("its service account", LIMIT, || {
            self.cluster.kubectl(&["get", "serviceaccount/default", "-n", "serving"])
        })
        .await?;
        Ok(())
    }

    /// With an administrator's rights, after the workloads are gone.
    fn uninstall_labels(&mut self) -> Result<()> {
        let mut command = Std::new(binary("railbind-agent")?);
        let output = command.arg("uninstall").env("KUBECONFIG", self.cluster.kubeconfig()).output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        self.said("railbind-agent uninstall", &String::from_utf8_lossy(&output.stdout));
        Ok(())
    }

    async fn end(mut self) -> Result<()> {
        self.cluster.kubectl(&["delete", "namespace", "serving", "--wait=true"]).await?;
        let count = self.before.len();
        none_left(&self.cluster, &self.before).await?;
        self.said(
            "everything, before and after",
            &format!("{count} objects, labels, annotations and conditions: the same"),
        );
        println!("{}", self.log.join("\n"));
        self.cluster.stop().await
    }
}

/// A copy of the manifests with an overlay on top: another version, as a person would write it.
fn next_version(folder: &Path, base: &str) -> Result<String> {
    let status = Std::new("cp").arg("-r").arg(repository().join("manifests")).arg(folder).status()?;
    ensure!(status.success(), "cp failed");
    let next = folder.join("manifests/next");
    fs::create_dir(&next)?;
    let text = format!(
        "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources: [../{base}]\nimages:\n\
         - {{name: railbind-agent, newTag: 0.1.1}}\n- {{name: railbind-webhook, newTag: 0.1.1}}\n"
    );
    fs::write(next.join("kustomization.yaml"), text)?;
    Ok(next.display().to_string())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kustomize_installs_upgrades_rolls_back_and_leaves_no_trace() {
    let mut stage = Stage::new().await.unwrap();
    let base = repository().join("manifests/base").display().to_string();
    stage.kubectl(&["apply", "-k", &base]).await.unwrap();
    stage.serving().await.unwrap();
    let empty = stage.get("mutatingwebhookconfiguration/railbind-webhook").await.unwrap();
    assert!(empty["webhooks"].is_null(), "nothing is registered before anything can answer: {empty}");
    let agent = stage.agent().await.unwrap();
    let mut webhook = stage.webhook("webhook-old").await.unwrap();
    let old = stage.started("railbind-webhook", "railbind-webhook:0.1.0").await.unwrap();
    assert_eq!(old["args"], json!(["serve", "--binding-engine=webhook"]));
    stage.works("installed").await.unwrap();

    // Another version with another flag and a right more: the policy engine.
    let folder = tempfile::tempdir().unwrap();
    let next = next_version(folder.path(), "overlays/policy-engine").unwrap();
    let shown =
        stage.cluster.kubectl(&["diff", "-k", &next]).await.err().map(|diff| diff.to_string()).unwrap_or_default();
    assert!(shown.contains("+        image: railbind-webhook:0.1.1"), "{shown}");
    let registered = stage.get("mutatingwebhookconfiguration/railbind-webhook").await.unwrap();
    assert_eq!(registered["webhooks"].as_array().unwrap().len(), 2);
    stage.kubectl(&["apply", "-k", &next]).await.unwrap();
    let kept = stage.get("mutatingwebhookconfiguration/railbind-webhook").await.unwrap();
    assert_eq!(kept["webhooks"], registered["webhooks"], "an upgrade leaves the registration alone");
    let new = stage.started("railbind-webhook", "railbind-webhook:0.1.1").await.unwrap();
    assert_eq!(new["args"], json!(["serve", "--binding-engine=policy"]));
    let mut upgraded = stage.webhook("webhook-new").await.unwrap();
    webhook.process.stop().await.unwrap();
    until("the policy to take over", LIMIT, || stage.get("mutatingadmissionpolicy/railbind-bindings")).await.unwrap();
    stage.works("upgraded").await.unwrap();

    // And back: what the other engine made is taken away.
    stage.kubectl(&["apply", "-k", &base]).await.unwrap();
    let webhook = stage.webhook("webhook-back").await.unwrap();
    upgraded.process.stop().await.unwrap();
    stage.works("rolled-back").await.unwrap();
    until("the policy to be gone", LIMIT, || async {
        let names = stage
            .cluster
            .kubectl(&["get", "mutatingadmissionpolicies,mutatingadmissionpolicybindings", "-o", "name"])
            .await?;
        ensure!(names.is_empty(), "{names}");
        Ok(())
    })
    .await
    .unwrap();

    // Everything still runs while it is taken away.
    stage.kubectl(&["delete", "-k", &next]).await.unwrap();
    drop((webhook, agent));
    stage.uninstall_labels().unwrap();
    stage.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn helm_installs_upgrades_rolls_back_and_leaves_no_trace() {
    let mut stage = Stage::new().await.unwrap();
    let chart = repository().join("charts/railbind").display().to_string();
    let namespace = repository().join("manifests/base/namespace.yaml").display().to_string();
    stage.kubectl(&["apply", "-f", &namespace]).await.unwrap();
    stage.helm(&["install", "railbind", &chart, "--set", "bindingEngine=policy"]).await.unwrap();
    stage.serving().await.unwrap();
    let agent = stage.agent().await.unwrap();
    let webhook = stage.webhook("webhook").await.unwrap();
    until("the policy", LIMIT, || stage.get("mutatingadmissionpolicy/railbind-bindings")).await.unwrap();
    stage.works("installed").await.unwrap();
    let first = stage.get("deployment/railbind-webhook").await.unwrap();
    let registered = stage.get("mutatingwebhookconfiguration/railbind-webhook").await.unwrap();

    let set = "image.tag=0.1.1,bindingEngine=policy,webhook.extraArgs={--drain-seconds=15}";
    stage.helm(&["upgrade", "railbind", &chart, "--set", set]).await.unwrap();
    let new = stage.started("railbind-webhook", "railbind-webhook:0.1.1").await.unwrap();
    assert_eq!(new["args"], json!(["serve", "--binding-engine=policy", "--drain-seconds=15"]));
    stage.started("railbind-agent", "railbind-agent:0.1.1").await.unwrap();
    stage.works("upgraded").await.unwrap();

    stage.helm(&["rollback", "railbind", "1"]).await.unwrap();
    let back = stage.get("deployment/railbind-webhook").await.unwrap();
    assert_eq!(back["spec"], first["spec"]);
    let kept = stage.get("mutatingwebhookconfiguration/railbind-webhook").await.unwrap();
    assert_eq!(kept["webhooks"], registered["webhooks"], "upgrade and rollback leave the registration alone");
    stage.works("rolled-back").await.unwrap();
    stage.helm(&["history", "railbind"]).await.unwrap();

    // With the policy in place: the worst case of what a release does not know of.
    stage.helm(&["uninstall", "railbind", "--wait"]).await.unwrap();
    drop((webhook, agent));
    let policies = "mutatingadmissionpolicies,mutatingadmissionpolicybindings";
    stage.kubectl(&["delete", policies, "-l", "app.kubernetes.io/managed-by=railbind-webhook"]).await.unwrap();
    stage.kubectl(&["delete", "namespace", NAMESPACE]).await.unwrap();
    stage.uninstall_labels().unwrap();
    stage.end().await.unwrap();
}
