//! docs/break-glass.md, command by command.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result, ensure};
use harness::{
    Cluster, LIMIT, NodeSpec, Options,
    railbind::{NAMESPACE, repository},
    until,
};
use serde_json::{Value, json};

/// The page's commands, in order.
fn commands() -> Vec<String> {
    let text = fs::read_to_string(repository().join("docs/break-glass.md")).unwrap();
    let blocks = text.split("```").skip(1).step_by(2);
    blocks.flat_map(str::lines).filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

/// Runs a command through a shell whose kubectl is the cluster's own.
async fn shell(cluster: &Cluster, command: &str) -> Result<String> {
    let kube = harness::kube_binary().await?.display().to_string();
    let script = format!("kubectl() {{ {kube} kubectl \"$@\"; }}\n{command}");
    let output = tokio::process::Command::new("sh")
        .args(["-c", &script])
        .current_dir(repository())
        .env("KUBECONFIG", cluster.kubeconfig())
        .env("KUBECACHEDIR", cluster.path().join("kubectl-cache"))
        .output()
        .await?;
    ensure!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Whether a worker that is created now is patched.
async fn patched(cluster: &Cluster) -> Result<bool> {
    patched_in(cluster, "serving").await
}

async fn patched_in(cluster: &Cluster, namespace: &str) -> Result<bool> {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "probe", "namespace": namespace, "labels": {"llm-d.ai/role": "decode"}},
        "spec": {"containers": [{"name": "main", "image": "x", "resources": {"limits": {"nvidia.com/gpu": "1"}}}]},
    });
    let args = ["create", "--dry-run=server", "-o", "json", "-f", "-"];
    let answer: Value = serde_json::from_str(&cluster.kubectl_with(&args, &pod.to_string()).await?)?;
    Ok(answer["metadata"]["annotations"]["railbind.dev/decision"].is_string())
}

async fn becomes(cluster: &Cluster, wanted: bool, why: &str) {
    until(why, LIMIT, || async {
        ensure!(patched(cluster).await? == wanted, "patched: {}", !wanted);
        Ok(())
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_command_of_the_page_does_what_it_says() {
    let cluster = Cluster::start(Options::default()).await.unwrap();
    let cluster = &cluster;
    cluster.kubectl(&["apply", "-k", &repository().join("manifests/base").display().to_string()]).await.unwrap();
    let node = NodeSpec::new("worker-1")
        .resource("nvidia.com/gpu", "8")
        .label("railbind.dev/profile", "roce-gpudirect")
        .label("railbind.dev/fabric", "roce");
    cluster.add_node(node).await.unwrap();
    let namespace = r#"{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "serving", "labels": {"railbind.dev/inject": "enabled"}}}"#;
    let engine = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "engine", "namespace": "serving"}, "spec": {
        "selector": {"matchLabels": {"app": "engine"}},
        "template": {"metadata": {"labels": {"app": "engine", "llm-d.ai/role": "decode"}},
                     "spec": {"containers": [{"name": "main", "image": "x", "resources": {"limits": {"nvidia.com/gpu": "1"}}}]}}}});
    cluster.apply(namespace).await.unwrap();
    until("the service account", LIMIT, || cluster.kubectl(&["get", "serviceaccount/default", "-n", "serving"]))
        .await
        .unwrap();
    let mut webhook = cluster.spawn_webhook("webhook").await.unwrap();
    becomes(cluster, true, "the webhook to be called").await;
    // A dependency loop that somebody asks for does not come about: our own pods never wait for us, nor do the cluster's.
    for namespace in ["kube-system", NAMESPACE] {
        cluster.kubectl(&["label", "namespace", namespace, "railbind.dev/inject=enabled"]).await.unwrap();
        assert!(!patched_in(cluster, namespace).await.unwrap(), "{namespace}");
    }
    cluster.apply(&engine.to_string()).await.unwrap();
    let newest = async || -> Result<Value> {
        let list: Value = serde_json::from_str(
            &cluster.kubectl(&["get", "pods", "-n", "serving", "-l", "app=engine", "-o", "json"]).await?,
        )?;
        let pods = list["items"].as_array().context("items")?;
        pods.iter().max_by_key(|pod| pod["metadata"]["creationTimestamp"].to_string()).cloned().context("no pod")
    };
    until("the workload's pod", LIMIT, || async { newest().await }).await.unwrap();

    let commands = commands();
    assert!(commands.len() >= 13, "{commands:#?}");
    for command in &commands {
        println!("$ {command}");
        let said = shell(cluster, command).await.unwrap();
        println!("{}", said.trim_end());
        match command.as_str() {
            "kubectl delete mutatingwebhookconfiguration railbind-webhook" => {
                becomes(cluster, false, "pods to be left alone").await;
                // It looks every half minute, and right away when its certificate changes: it must not come back.
                tokio::time::sleep(Duration::from_secs(32)).await;
                assert!(!patched(cluster).await.unwrap());
                assert!(
                    webhook.metric("railbind_webhook_registered", "").await.unwrap() < 0.5,
                    "{}",
                    webhook.process.tail(5)
                );
            }
            "kubectl apply -k manifests/base" => becomes(cluster, true, "the webhook to register again").await,
            "kubectl label namespace serving railbind.dev/inject-" => {
                becomes(cluster, false, "the namespace to be out").await;
                cluster.kubectl(&["label", "namespace", "serving", "railbind.dev/inject=enabled"]).await.unwrap();
                becomes(cluster, true, "the namespace to be in again").await;
            }
            _ if command.contains("patch deployment engine") => {
                until("a pod without a decision", LIMIT, || async {
                    let pod = newest().await?;
                    ensure!(
                        pod["metadata"]["labels"]["railbind.dev/inject"] == "disabled",
                        "{}",
                        pod["metadata"]["labels"]
                    );
                    ensure!(
                        !pod["metadata"]["annotations"]["railbind.dev/decision"]
                            .as_str()
                            .unwrap_or_default()
                            .contains("\"profile\""),
                        "{pod}"
                    );
                    Ok(())
                })
                .await
                .unwrap();
            }
            _ if command.contains("patch daemonset") => {
                until("the agents' pods to be gone", LIMIT, || async {
                    let pods = cluster
                        .kubectl(&[
                            "get",
                            "pods",
                            "-n",
                            NAMESPACE,
                            "-l",
                            "app.kubernetes.io/name=railbind-agent",
                            "-o",
                            "name",
                        ])
                        .await?;
                    ensure!(pods.is_empty(), "{pods}");
                    Ok(())
                })
                .await
                .unwrap();
            }
            _ if command.contains("get mutatingwebhookconfiguration") => {
                assert!(said.contains("pods.railbind.dev"), "{said}");
            }
            _ if command.contains("custom-columns") => assert!(said.contains("roce-gpudirect"), "{said}"),
            _ if command.contains("delete secret") => {
                webhook.process.stop().await.unwrap();
                webhook = cluster.spawn_webhook("webhook-restarted").await.unwrap();
                becomes(cluster, true, "the new CA to be trusted").await;
            }
            _ => {}
        }
    }
    drop(webhook);
}
