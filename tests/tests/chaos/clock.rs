//! The webhook's clock is set: ahead by days and by more than a year, back, and to long ago. The API server's stays right.
//!
//! There is no namespace for this clock (a time namespace has only those that count on), so the program is started with a library that
//! adds an offset to it: clock.c. The agent has nothing that goes by this clock but the times that it writes.

use std::{os::unix::fs::FileExt as _, process::Command, time::Duration};

use anyhow::{Result, ensure};
use harness::{free_port, railbind::repository, with_namespace};
use tokio::time::sleep;

use crate::{
    stage::{OURS, Stage},
    steady::Steady,
};

const DAY: i64 = 24 * 60 * 60;

/// The library, compiled.
fn library(folder: &std::path::Path) -> String {
    let into = folder.join("clock.so");
    let source = repository().join("tests/tests/chaos/clock.c");
    let output = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&into).arg(source).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    into.display().to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clock_jump() {
    let stage = Stage::new().await;
    let _agent = stage.agent().await;
    let path = stage.cluster.path().join("clock");
    std::fs::write(&path, 0_i64.to_ne_bytes()).unwrap();
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    let set = |seconds: i64| file.write_all_at(&seconds.to_ne_bytes(), 0).unwrap();
    let preload = format!("LD_PRELOAD={}", library(stage.cluster.path()));
    let clock = format!("RAILBIND_TEST_CLOCK={}", path.display());
    let listen = format!("127.0.0.1:{}", free_port().unwrap());
    let url = format!("https://{listen}");
    let kubeconfig = stage.cluster.identity("railbind-webhook", None).await.unwrap();
    // It looks at its certificate every second.
    let often = ["--ca-grace-seconds", "4"];
    let starter = ["env", &preload, &clock];
    let mut webhook = stage.webhook(&starter, [&listen, &url], &often, &kubeconfig).await.unwrap();
    let expiry =
        async |webhook: &harness::railbind::Daemon| webhook.metric("railbind_webhook_ca_expiry_seconds", "").await;
    let first = expiry(&webhook).await.unwrap();
    with_namespace(&stage.cluster, &OURS, async |namespace| -> Result<()> {
        stage.given(namespace, "3").await?;
        let steady = Steady::start(&stage, namespace).await?;
        // A serving certificate lives a week, the CA a year.
        for days in [5, 0, 400, 0, -400, 0] {
            set(days * DAY);
            sleep(Duration::from_secs(4)).await;
            ensure!(stage.patched(namespace).await?, "{days} days\n{}", webhook.process.tail(20));
        }
        // The library works: the webhook has noticed.
        let log = webhook.process.log();
        for what in ["our clock is ahead of the API server's", "our clock is behind", "our clock agrees"] {
            ensure!(log.contains(what), "no line about {what:?}");
        }
        let came = steady.end("clock jumps").await?;
        ensure!(came.away == 0 && came.unpatched == 0, "{came:?}\n{}", webhook.process.tail(40));
        ensure!((expiry(&webhook).await? - first).abs() < 1.0, "the CA was replaced:\n{}", webhook.process.tail(40));
        webhook.process.check()
    })
    .await;
    stage.cluster.stop().await.unwrap();
}
