//! One word leads from the webhook's log to the container's pod.

use anyhow::{Context as _, Result, ensure};
use harness::{LIMIT, until, with_namespace};
use serde_json::{Value, json};

use crate::{
    cli::{run, started},
    cluster,
    stage::stage,
};

#[tokio::test]
async fn a_decisions_id_is_in_the_pod_the_log_the_event_and_the_audit_log() {
    let stage = stage().await;
    with_namespace(cluster().await, &[("railbind.dev/inject", "enabled")], async |namespace| {
        let cluster = cluster().await;
        started(cluster, namespace, "w", "roce-1").await?;
        let pod: Value =
            serde_json::from_str(&cluster.kubectl(&["get", "pod", "w", "-n", namespace, "-o", "json"]).await?)?;
        let decision = pod["metadata"]["annotations"]["railbind.dev/decision"].as_str().context("decision")?;
        let decision: Value = serde_json::from_str(decision)?;
        let id = decision["id"].as_str().context("id")?;
        ensure!(id.len() == 13 && decision["profile"] == "roce-gpudirect", "{decision}");

        let shown = run(cluster.kubeconfig(), &format!("explain pod w -n {namespace}")).await?;
        ensure!(shown.out.contains(&format!("profile roce-gpudirect, decision {id}\n")), "{shown:?}");
        let shown = run(cluster.kubeconfig(), &format!("explain pod w -n {namespace} -o json")).await?.json();
        ensure!(shown["decision"] == id, "{shown}");

        // The auditor looks every few seconds.
        until("the Event", LIMIT, || async {
            let args = ["get", "events", "-n", namespace, "-o", "json", "--field-selector", "reason=FabricBound"];
            let events: Value = serde_json::from_str(&cluster.kubectl(&args).await?)?;
            let message = events["items"][0]["message"].as_str().context("no event yet")?;
            ensure!(message.ends_with(&format!("(decision {id})")), "{message}");
            Ok(())
        })
        .await?;
        let log = stage.webhook.process.log();
        let lines =
            |kind: &str| -> Vec<&str> { log.lines().filter(|line| line.contains(id) && line.contains(kind)).collect() };
        let (admitted, bound) = (lines("outcome"), lines("FabricBound"));
        ensure!(admitted.len() == 1 && bound.len() == 1, "{admitted:?} {bound:?}");
        ensure!(bound[0].contains("roce-1"), "{bound:?}");

        let created = |event: &Value| {
            event["verb"] == "create"
                && event["objectRef"]["namespace"] == namespace
                && event["objectRef"]["name"] == "w"
        };
        let audited = cluster.audit()?;
        let noted: Vec<&Value> = audited
            .iter()
            .filter(|event| created(event))
            .filter_map(|event| event["annotations"].get("pods.railbind.dev/decision"))
            .collect();
        ensure!(noted == [&json!(id)], "{noted:?}");
        // The uid itself, of which the id is the start, is in the line of the log.
        ensure!(admitted[0].matches(id).count() == 2, "{admitted:?}");
        Result::<()>::Ok(())
    })
    .await;
}
