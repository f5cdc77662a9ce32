//! The webhook's page through the API server's service proxy: what arrives is what was sent, and shows this cluster.

use anyhow::ensure;
use harness::{LIMIT, page, until};
use serde_json::Value;

use crate::{cluster, stage::stage};

#[tokio::test]
async fn the_page_shows_the_cluster_through_the_api_server() {
    let stage = stage().await;
    let cluster = cluster().await;
    let _balancer = cluster.publish_page(&stage.webhook).await.unwrap();

    let html =
        until("the proxy to reach the page", LIMIT, || cluster.kubectl(&["get", "--raw", page::PATH])).await.unwrap();
    // The proxy writes HTML anew where a link is absolute: ours are relative, and the only script is a file.
    assert!(html.contains(r#"<script src="page.js" defer"#) && html.contains(r#"href="page.css""#), "{html}");
    let script = cluster.kubectl(&["get", "--raw", &format!("{}page.js", page::PATH)]).await.unwrap();
    assert!(script.starts_with("// What a cluster says is only ever shown as text"), "{script}");

    until("the map to know a RoCE node", LIMIT, || async {
        let data = cluster.kubectl(&["get", "--raw", &format!("{}data.json", page::PATH)]).await?;
        let data: Value = serde_json::from_str(&data)?;
        let nodes = data["nodes"].as_array().cloned().unwrap_or_default();
        let node = nodes.iter().find(|node| node["name"] == "roce-2").cloned().unwrap_or_default();
        ensure!(node["labels"]["fabric"] == "roce" && node["values"]["UCX_IB_GID_INDEX"] == "5", "{node}");
        Ok(())
    })
    .await
    .unwrap();
}
