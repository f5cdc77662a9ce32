//! The cluster's own transport profiles as agents take them: labels and self-tests go by them, and whatever is wrong with them or with
//! the way to them, the agent goes on.

use anyhow::{Context as _, Result, ensure};
use harness::{Cluster, LIMIT, Options, railbind::Daemon, railbind::repository, until};
use serde_json::Value;

use crate::selftest::{says, tester};

const TCP: &str = include_str!("../../../policies/profiles/guide/tcp.yaml");
const NODE: &str = "own-profiles";

async fn listed(agent: &Daemon, result: &str) -> Result<f64> {
    agent.metric("railbind_agent_profile_lists", &format!("result=\"{result}\"")).await
}

/// Waits for two more answers of this kind: the first may have been on its way before.
async fn lists(agent: &Daemon, result: &str) {
    let before = listed(agent, result).await.unwrap();
    until(format_args!("lists that end with {result}"), LIMIT, || async {
        ensure!(listed(agent, result).await? >= before + 2.0, "not yet");
        Ok(())
    })
    .await
    .with_context(|| agent.process.tail(40))
    .unwrap();
}

/// What the self-test says of a profile, once it has said so.
async fn tried(cluster: &Cluster, agent: &Daemon, profile: &str, qualified: bool) -> Value {
    until(format_args!("{profile} to be tried, {qualified}"), LIMIT, || async {
        let fabric = cluster.kubectl(&["get", "nodefabric", NODE, "-o", "json"]).await?;
        let status = serde_json::from_str::<Value>(&fabric)?["status"]["selftest"].clone();
        let tried = status["profiles"].as_array().context("none tried")?;
        let found = tried.iter().find(|tried| tried["name"] == profile).with_context(|| status.to_string())?;
        ensure!(found["qualified"] == qualified, "{found}");
        Ok(found.clone())
    })
    .await
    .with_context(|| agent.process.tail(40))
    .unwrap()
}

async fn label(cluster: &Cluster) -> Result<String> {
    let label = "jsonpath={.metadata.labels.railbind\\.dev/profile}";
    cluster.kubectl(&["get", "node", NODE, "-o", label]).await
}

#[tokio::test]
async fn an_agent_is_judged_and_tested_by_the_clusters_own_profiles() {
    let cluster = Cluster::start(Options::default()).await.unwrap();
    cluster.install_identities().await.unwrap();
    let root = repository().join("tests/fixtures/tcp-only");
    let agent = tester(&cluster, NODE, &root, &["--profiles-period=1", "--selftest-recovery=3600"]).await.unwrap();

    // The kind is not there: nothing is amiss.
    lists(&agent, "no-kind").await;
    says(&cluster, &agent, NODE, &["passed", "slow"]).await.unwrap();
    let (_, ready) = agent.get("/readyz").await.unwrap();
    assert!(ready.contains("[+] profiles\n"), "{ready}");
    let crd = repository().join("manifests/base/crds/transportprofiles.yaml");
    cluster.apply(&std::fs::read_to_string(crd).unwrap()).await.unwrap();
    cluster.kubectl(&["wait", "--for=condition=Established", "crd/transportprofiles.railbind.dev"]).await.unwrap();
    lists(&agent, "listed").await;

    // A further set is tried and offered beside the others.
    let extended = TCP.replace("name: tcp\n", "name: ours-tcp\n").replace("set: guide", "set: ours");
    cluster.apply(&extended).await.unwrap();
    let found = tried(&cluster, &agent, "ours-tcp", true).await;
    assert_eq!(found["set"], "ours");

    // The default set's is overridden with a promise that this machine does not keep: the node fails, and the profile is not offered.
    assert!(TCP.contains("transports: [tcp]"));
    cluster.apply(&TCP.replace("transports: [tcp]", "transports: [rc_mlx5]")).await.unwrap();
    let found = tried(&cluster, &agent, "tcp", false).await;
    println!("{found:#}");
    assert!(found.to_string().contains("promises rc_mlx5"), "{found:#}");
    says(&cluster, &agent, NODE, &["failed"]).await.unwrap();

    // An object that the API server lets through and that makes no sense to this agent: the last good one stays, and it is said.
    let crd = "crd/transportprofiles.railbind.dev";
    let anything = r#"[{"op": "replace", "path": "/spec/versions/0/schema/openAPIV3Schema", "value":
        {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}]"#;
    cluster.kubectl(&["patch", crd, "--type=json", "-p", anything]).await.unwrap();
    until("an object of another schema to be taken", LIMIT, || async {
        cluster
            .kubectl(&["patch", "transportprofile", "tcp", "--type=merge", "-p", r#"{"spec": {"colour": "red"}}"#])
            .await?;
        let colour = cluster.kubectl(&["get", "transportprofile", "tcp", "-o", "jsonpath={.spec.colour}"]).await?;
        ensure!(colour == "red", "it was pruned");
        Ok(())
    })
    .await
    .unwrap();
    until("the bad object to be told of", LIMIT, || async {
        let (code, ready) = agent.get("/readyz").await?;
        ensure!(
            code == 200 && ready.contains("[+] profiles: tcp is not in force") && ready.contains("colour"),
            "{ready}"
        );
        ensure!(agent.metric("railbind_agent_transport_profiles", "wrong").await? > 0.0, "the metric does not");
        Ok(())
    })
    .await
    .unwrap();
    lists(&agent, "listed").await;
    let told = agent.process.tail(4000).matches("check=\"profiles\" note=\"tcp is not in force").count();
    assert_eq!(told, 1, "once:\n{}", agent.process.tail(40));
    tried(&cluster, &agent, "tcp", false).await;

    // The right is taken away: what is known stays.
    let role = cluster.kubectl(&["get", "clusterrole", "railbind-agent", "-o", "json"]).await.unwrap();
    let mut without: Value = serde_json::from_str(&role).unwrap();
    without["metadata"] = serde_json::json!({"name": "railbind-agent"});
    without["rules"].as_array_mut().unwrap().retain(|rule| rule["resources"][0] != "transportprofiles");
    cluster.apply(&without.to_string()).await.unwrap();
    lists(&agent, "forbidden").await;
    let (code, ready) = agent.get("/readyz").await.unwrap();
    assert!(code == 200 && ready.contains("apply the ClusterRole railbind-agent"), "{code} {ready}");
    tried(&cluster, &agent, "ours-tcp", true).await;
    without["rules"] = serde_json::from_str::<Value>(&role).unwrap()["rules"].clone();
    cluster.apply(&without.to_string()).await.unwrap();
    lists(&agent, "listed").await;

    // The objects are gone: the shipped profile is back, and the node is good again.
    cluster.kubectl(&["delete", "transportprofile", "tcp"]).await.unwrap();
    tried(&cluster, &agent, "tcp", true).await;
    // One of the default set with a higher priority is what the node is labelled with.
    let ours = TCP.replace("name: tcp\n", "name: tcp-ours\n").replace("priority: 100", "priority: 150");
    cluster.apply(&ours).await.unwrap();
    until("the label to name the cluster's own profile", LIMIT, || async {
        ensure!(label(&cluster).await? == "tcp-ours", "it does not");
        Ok(())
    })
    .await
    .with_context(|| agent.process.tail(40))
    .unwrap();
    tried(&cluster, &agent, "tcp-ours", true).await;
    cluster.stop().await.unwrap();
}
