//! The webhook's CA is replaced while pods are created: no creation fails, and none goes unpatched.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use harness::{Balancer, Cluster, railbind::NAMESPACE, until, with_namespace};
use k8s_openapi::api::{
    admissionregistration::v1::MutatingWebhookConfiguration,
    core::v1::{Pod, Secret},
};
use kube::Api;
use serde_json::json;
use tokio::time::sleep;

use crate::creating::Creating;

/// A CA that is due after 30 seconds, and a grace that this cluster's one API server does with.
const LIVES: [&str; 8] =
    ["--ca-life-seconds", "45", "--certificate-life-seconds", "20", "--ca-grace-seconds", "4", "--drain-seconds", "1"];
/// Creations a second.
const RATE: u32 = 50;
/// From the start to the end of a rotation, on a slow machine.
const LIMIT: Duration = Duration::from_mins(3);

/// The certificates that the API server is told to trust, PEM each.
async fn trusted(cluster: &Cluster) -> Result<Vec<String>> {
    let configs: Api<MutatingWebhookConfiguration> = Api::all(cluster.client().await?);
    let hooks = configs.get("railbind-webhook").await?.webhooks.unwrap_or_default();
    let bundle = hooks.into_iter().next().and_then(|hook| hook.client_config.ca_bundle).context("no bundle")?;
    let text = String::from_utf8(bundle.0)?;
    Ok(text.split_inclusive("-----END CERTIFICATE-----\n").map(str::to_owned).collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ca_is_replaced_while_pods_are_created_and_a_broken_secret_heals() {
    let (_alone, cluster) = crate::cluster().await;
    let balancer = Balancer::start().await.unwrap();
    let (one, _) = cluster.spawn_replica("replica-1", &balancer, &LIVES).await.unwrap();
    let (two, _) = cluster.spawn_replica("replica-2", &balancer, &LIVES).await.unwrap();
    with_namespace(&cluster, &[("railbind.dev/inject", "enabled")], async |namespace| {
        let first = trusted(&cluster).await?;
        ensure!(first.len() == 1, "{first:?}");
        let pods: Api<Pod> = Api::namespaced(cluster.client().await?, namespace);
        let creating = Creating::start(pods, "rotation", RATE);
        let mut most = 0;
        let deadline = tokio::time::Instant::now() + LIMIT;
        let last = loop {
            let now = trusted(&cluster).await?;
            most = most.max(now.len());
            if now.len() == 1 && now != first {
                break now;
            }
            ensure!(tokio::time::Instant::now() < deadline, "{most} at most:\n{}{}", one.process.tail(20), two.process.tail(20));
            sleep(Duration::from_millis(200)).await;
        };
        ensure!(most == 2, "old and new together, and never more: {most}");

        // Someone breaks the Secret by hand: it gets back what is in use.
        let broken = json!({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
            "metadata": {"name": "railbind-webhook-ca", "namespace": NAMESPACE}, "data": {"tls.crt": "", "tls.key": ""}});
        cluster.apply(&broken.to_string()).await?;
        let secrets: Api<Secret> = Api::namespaced(cluster.client().await?, NAMESPACE);
        until("the Secret to heal", harness::LIMIT, || async {
            let data = secrets.get("railbind-webhook-ca").await?.data.unwrap_or_default();
            let text = String::from_utf8(data["tls.crt"].0.clone())?;
            ensure!(text == last[0], "{text}");
            Ok(())
        })
        .await?;
        let (created, missed) = creating.end("CA rotation").await?;
        ensure!(missed == 0, "{missed} of {created} went unpatched:\n{}{}", one.process.tail(40), two.process.tail(40));
        Ok(())
    })
    .await;
    cluster.stop().await.unwrap();
}
