//! Every golden pod of the webhook, through the real API server: what we make of it is a pod that it takes.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use harness::{railbind::repository, with_namespace};

use crate::{cluster, stage::stage};

#[tokio::test]
async fn every_golden_pod_is_admitted_as_we_make_it() {
    stage().await;
    with_namespace(cluster().await, &[("railbind.dev/inject", "enabled")], async |namespace| {
        let cluster = cluster().await;
        let mut files: Vec<_> = fs::read_dir(repository().join("webhook/tests/pods"))?
            .map(|entry| Ok(entry?.path()))
            .collect::<Result<_>>()?;
        files.sort();
        let mut refused = Vec::new();
        for file in &files {
            let pod = format!("apiVersion: v1\nkind: Pod\n{}", fs::read_to_string(file)?);
            let name = file.file_stem().context("name")?.to_string_lossy().into_owned();
            let args = ["create", "--dry-run=server", "-n", namespace, "-o", "name", "-f", "-"];
            match cluster.kubectl_with(&args, &pod).await {
                Ok(_) => {}
                // Those whose owners asked for it, by us and with the reason.
                Err(error) => {
                    let text = format!("{error:#}");
                    ensure!(text.contains("pods.railbind.dev\" denied the request: railbind: "), "{name}: {text}");
                    refused.push(name);
                }
            }
        }
        println!("{} golden pods, refused as their owners asked: {refused:?}", files.len());
        assert_eq!(refused, ["conflicts-deny", "no-rdma-deny"]);
        Ok(())
    })
    .await;
}
