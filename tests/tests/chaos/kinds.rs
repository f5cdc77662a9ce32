//! Our kinds are deleted under the running programs, with all their objects, and come back. That labels are written where the kind
//! NodeFabric never was is cluster/fabric.rs.

use anyhow::{Result, ensure};
use harness::{LIMIT, railbind::repository, tree, until, with_namespace};

use crate::{
    stage::{OURS, Stage},
    steady::Steady,
};

const KINDS: [&str; 3] = ["nodefabrics", "transportprofiles", "bindingvalues"];

async fn install(stage: &Stage) -> Result<()> {
    for kind in KINDS {
        let file = repository().join(format!("manifests/base/crds/{kind}.yaml"));
        stage.cluster.apply(&std::fs::read_to_string(file)?).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn crd_missing() {
    let stage = Stage::new().await;
    install(&stage).await.unwrap();
    let mut agent = stage.agent().await;
    let mut webhook = stage.cluster.spawn_webhook("webhook").await.unwrap();
    with_namespace(&stage.cluster, &OURS, async |namespace| {
        stage.given(namespace, "3").await?;
        let steady = Steady::start(&stage, namespace).await?;
        for kind in KINDS {
            stage.cluster.kubectl(&["delete", "crd", &format!("{kind}.railbind.dev")]).await?;
        }
        // Labels follow the machine, and pods are patched.
        tree::move_gids(stage.root(), 3, 9)?;
        stage.index("9").await?;
        until("the agent to notice", LIMIT, || async {
            ensure!(agent.metric("railbind_agent_writes", "no-kind").await? >= 1.0, "not yet");
            Ok(())
        })
        .await?;
        ensure!(stage.patched(namespace).await?, "{}", webhook.process.tail(20));
        // Without the kind of its parameters the policy binds nothing: a pod has what is right on any node.
        let env = stage.env(namespace, "without-kinds").await?;
        ensure!(env["UCX_IB_GID_INDEX"] != "3", "a value of before: {env}");

        install(&stage).await?;
        until("the NodeFabric to come back", LIMIT, || stage.fabric()).await?;
        stage.given(namespace, "9").await?;
        let came = steady.end("kinds deleted").await?;
        ensure!(came.away == 0 && came.unpatched == 0, "{came:?}\n{}", webhook.process.tail(20));
        agent.process.check()?;
        webhook.process.check()
    })
    .await;
    stage.cluster.stop().await.unwrap();
}
