//! The webhook's certificates have really expired: while it stood still, and while it was gone. Rotation in time is
//! tests/load/certificates.rs.

use std::time::{Duration, SystemTime};

use anyhow::{Result, ensure};
use harness::{free_port, outage::signal, railbind::Daemon, with_namespace};
use tokio::time::sleep;

use crate::{
    stage::{OURS, Stage},
    steady::Steady,
};

/// Lives that are over soon: the CA's, and with it those of all that it signed.
const LIVES: [&str; 6] = ["--ca-life-seconds", "20", "--certificate-life-seconds", "10", "--ca-grace-seconds", "4"];

/// Waits until the CA that the webhook last spoke of has ended.
async fn expire(expiry: f64) {
    let now = || SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
    while now() < expiry + 1.0 {
        sleep(Duration::from_millis(200)).await;
    }
}

async fn expiry(webhook: &Daemon) -> Result<f64> {
    webhook.metric("railbind_webhook_ca_expiry_seconds", "").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn expired_certificate() {
    let stage = Stage::new().await;
    let _agent = stage.agent().await;
    let listen = format!("127.0.0.1:{}", free_port().unwrap());
    let url = format!("https://{listen}");
    let kubeconfig = stage.cluster.identity("railbind-webhook", None).await.unwrap();
    let mut webhook = stage.webhook(&[], [&listen, &url], &LIVES, &kubeconfig).await.unwrap();
    with_namespace(&stage.cluster, &OURS, async |namespace| {
        stage.becomes_patched(namespace).await?;
        let steady = Steady::start(&stage, namespace).await?;

        // Stopped in its tracks, as a machine that is suspended: it wakes up with what has expired.
        signal(webhook.process.id()?, "STOP")?;
        // It cannot be asked now; it said so at the latest when it was ready.
        sleep(Duration::from_secs(22)).await;
        signal(webhook.process.id()?, "CONT")?;
        stage.becomes_patched(namespace).await?;

        // Gone for longer than the CA in the Secret lived.
        let ends = expiry(&webhook).await?;
        webhook.process.kill().await?;
        expire(ends).await;
        ensure!(!stage.patched(namespace).await?, "who patches?");
        let webhook = stage.webhook(&[], [&listen, &url], &LIVES, &kubeconfig).await?;
        stage.becomes_patched(namespace).await?;
        ensure!(expiry(&webhook).await? > ends + 1.0, "the CA is still the expired one");

        let came = steady.end("expired certificate").await?;
        ensure!(came.away == 0 && came.unpatched > 0, "{came:?}");
        stage.given(namespace, "3").await
    })
    .await;
    stage.cluster.stop().await.unwrap();
}
