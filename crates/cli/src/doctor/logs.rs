//! A container's log: its first MiB, where engines say what they found, and its end, where they fail.

use kube::api::LogParams;
use policies::doctor::logs::LogScene;

use crate::cluster::{Cluster, Trouble};

/// Bytes of the log's beginning.
const HEAD: usize = 1 << 20;
/// Lines of its end: the API takes lines, and no bytes from the end.
const TAIL_LINES: i64 = 50_000;

/// Reads it, within bounds whatever its size.
pub(super) async fn read(
    cluster: &Cluster,
    namespace: &str,
    pod: &str,
    container: &str,
    restarted: bool,
    mib: u32,
) -> Result<LogScene, Trouble> {
    let of = |head: bool, previous: bool, limit: usize| LogParams {
        container: Some(container.into()),
        limit_bytes: i64::try_from(limit).ok(),
        tail_lines: (!head).then_some(TAIL_LINES),
        previous,
        ..LogParams::default()
    };
    let limit = (mib as usize) << 20;
    let mut scene = LogScene::default();
    let (head, cut) = cluster.log(namespace, pod, &of(true, false, HEAD), HEAD).await?;
    take(&mut scene, &head);
    if cut || head.len() >= HEAD {
        // What is in both is counted twice, which says no more than once.
        let (tail, cut) = cluster.log(namespace, pod, &of(false, false, limit), limit).await?;
        take(&mut scene, &tail);
        scene.cut = cut || tail.len() >= limit || head.len() >= HEAD;
    }
    if restarted {
        // How the last one ended is what a person wants to know; it may be gone.
        if let Ok((last, _)) = cluster.log(namespace, pod, &of(false, true, limit), limit).await {
            take(&mut scene, &last);
        }
    }
    Ok(scene)
}

fn take(scene: &mut LogScene, text: &[u8]) {
    for line in text.split(|byte| *byte == b'\n') {
        if !line.is_empty() {
            // One line may be the whole log.
            scene.take(&String::from_utf8_lossy(&line[..line.len().min(8192)]));
        }
    }
}
