//! The webhook's page through the API server's service proxy, and to a person by `kubectl railbind ui`: what arrives is what was
//! sent, shows this cluster, and goes to nobody else.

use std::{
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use harness::{Cluster, LIMIT, page, railbind::binary, until};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
    process::Child,
};

use crate::{
    cli::{limited, run},
    cluster,
    stage::stage,
};

const DOCUMENT: &str = include_str!("../../../docs/page.md");

#[tokio::test]
async fn the_page_shows_the_cluster_through_the_api_server_and_to_one_person() {
    let stage = stage().await;
    let cluster = cluster().await;

    // A program that serves no page: an older webhook would answer so.
    let older = cluster.publish_page().await.unwrap();
    older.add(stage.agents["roce-2"].admin());
    let older = until("the Service to lead somewhere", LIMIT, || async {
        let shown = run(cluster.kubeconfig(), "ui").await?;
        ensure!(shown.code != 7, "{shown:?}");
        Ok(shown)
    })
    .await
    .unwrap();
    assert!(older.code == 6 && older.err.contains("serves no page"), "{older:?}");

    // Another address: the API server keeps its connections.
    let balancer = cluster.publish_page().await.unwrap();
    balancer.add(stage.webhook.admin());

    let html =
        until("the proxy to reach the page", LIMIT, || cluster.kubectl(&["get", "--raw", page::PATH])).await.unwrap();
    // The proxy writes HTML anew where a link is absolute: ours are relative, and the only script is a file.
    assert!(html.contains(r#"<script src="page.js" defer"#) && html.contains(r#"href="page.css""#), "{html}");
    let script = cluster.kubectl(&["get", "--raw", &format!("{}page.js", page::PATH)]).await.unwrap();
    assert!(script.starts_with("// What a cluster says is only ever shown as text"), "{script}");

    until("the map to know a RoCE node", LIMIT, || async {
        let data = cluster.kubectl(&["get", "--raw", &format!("{}data.json", page::PATH)]).await?;
        knows_roce(&data)
    })
    .await
    .unwrap();

    opened(cluster, &html).await.unwrap();
    refused(cluster).await.unwrap();
    taken(cluster).await.unwrap();
}

fn knows_roce(data: &str) -> Result<()> {
    let data: Value = serde_json::from_str(data)?;
    let nodes = data["nodes"].as_array().cloned().unwrap_or_default();
    let node = nodes.iter().find(|node| node["name"] == "roce-2").cloned().unwrap_or_default();
    ensure!(node["labels"]["fabric"] == "roce" && node["values"]["UCX_IB_GID_INDEX"] == "5", "{node}");
    Ok(())
}

/// With the rights that the documentation gives, and no more: what comes through, and what does not.
async fn opened(cluster: &Cluster, html: &str) -> Result<()> {
    let viewer = viewer(cluster).await?;
    let mut ui = Ui::start(&viewer, &["ui"], None).await?;
    let home = ui.get("/", &[]).await?;
    ensure!(home.code == 303, "{home:?}");
    let place = home.header("location").context("it leads nowhere")?;
    let secret = format!("/{}", ui.secret);
    ensure!(place == format!("{secret}{}", page::PATH), "{place}");

    let shown = ui.ask("GET", place, &[]).await?;
    ensure!(shown.code == 200 && shown.body == html, "{shown:?}");
    let policy = shown.header("content-security-policy").unwrap_or_default();
    ensure!(policy.contains("default-src 'none'") && shown.header("cache-control") == Some("no-store"), "{shown:?}");
    knows_roce(&ui.ask("GET", &format!("{place}data.json"), &[]).await?.body)?;
    // Where the page's script asks for it, with the viewer's rights.
    let fabric = ui.get("/apis/railbind.dev/v1alpha1/nodefabrics/roce-2", &[]).await?;
    let fabric: Value = serde_json::from_str(&fabric.body).with_context(|| format!("{fabric:?}"))?;
    ensure!(fabric["status"]["fabric"] == "roce", "{fabric}");

    for path in ["/api/v1/nodes", "/apis/railbind.dev/v1alpha1/nodefabrics", "/version"] {
        let closed = ui.get(path, &[]).await?;
        ensure!(closed.code == 404, "{path}: {closed:?}");
    }
    let guessed = ui.ask("GET", &place.replacen(&ui.secret, &"0".repeat(32), 1), &[]).await?;
    ensure!(guessed.code == 404, "{guessed:?}");
    let written = ui.ask("POST", place, &[]).await?;
    ensure!(written.code == 405, "{written:?}");
    let rebound = ui.ask("GET", place, &[("Host", "evil.example")]).await?;
    ensure!(rebound.code == 421, "{rebound:?}");
    ui.interrupted().await
}

/// The role and the cluster role of `docs/page.md`, given to an account.
async fn viewer(cluster: &Cluster) -> Result<std::path::PathBuf> {
    let account = limited(cluster, "page-viewer", json!([])).await?;
    let yaml = DOCUMENT.split("```yaml\n").nth(1).and_then(|rest| rest.split("```").next()).context("no role")?;
    cluster.apply(yaml).await?;
    for (kind, role) in [("rolebinding", "--role"), ("clusterrolebinding", "--clusterrole")] {
        let role = format!("{role}=railbind-page");
        let args = [
            "create",
            kind,
            "page-viewer-page",
            &role,
            "--serviceaccount=railbind-system:page-viewer",
            "-n",
            "railbind-system",
        ];
        cluster.kubectl(&args[..if kind == "rolebinding" { 7 } else { 5 }]).await?;
    }
    until("the roles to count", LIMIT, || async {
        let can = ["auth", "can-i", "get", "nodefabrics", "--as=system:serviceaccount:railbind-system:page-viewer"];
        cluster.kubectl(&can).await
    })
    .await?;
    Ok(account)
}

async fn refused(cluster: &Cluster) -> Result<()> {
    let none = limited(cluster, "page-none", json!([])).await?;
    let shown = run(&none, "ui").await?;
    ensure!(shown.code == 4 && shown.err.contains("get services/proxy of http:railbind-webhook:admin"), "{shown:?}");
    let elsewhere = run(cluster.kubeconfig(), "ui --railbind-namespace default").await?;
    ensure!(elsewhere.code == 5 && elsewhere.err.contains("not installed in namespace default"), "{elsewhere:?}");
    Ok(())
}

/// A port that is taken is said; a browser, here a **fake** one that only writes down what it was given, opens a link that works once.
async fn taken(cluster: &Cluster) -> Result<()> {
    let folder = cluster.path().join("browser");
    std::fs::create_dir_all(&folder)?;
    let (browser, told) = (folder.join("xdg-open"), folder.join("told"));
    std::fs::write(&browser, format!("#!/bin/sh\necho \"$1\" > '{0}.part' && mv '{0}.part' '{0}'\n", told.display()))?;
    std::fs::set_permissions(&browser, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let mut ui = Ui::start(cluster.kubeconfig(), &["ui", "--open"], Some(&folder)).await?;
    let link = until("the browser to be started", LIMIT, || async { Ok(std::fs::read_to_string(&told)?) }).await?;
    ensure!(!link.contains(&ui.secret), "the secret is on a command line");
    let ticket = link.trim().split_once(&ui.address).context("another address")?.1;
    let first = ui.ask("GET", ticket, &[]).await?;
    ensure!(first.code == 303 && first.header("location").is_some_and(|place| place.contains(&ui.secret)), "{first:?}");
    let second = ui.ask("GET", ticket, &[]).await?;
    ensure!(second.code == 403 && second.body.contains("opens once"), "{second:?}");

    let port = ui.address.rsplit(':').next().unwrap_or_default();
    let same = run(cluster.kubeconfig(), &format!("ui --port {port}")).await?;
    ensure!(same.code == 2 && same.err.contains("without --port a free port is taken"), "{same:?}");
    ui.interrupted().await
}

/// The command at work.
struct Ui {
    child: Child,
    address: String,
    secret: String,
}

#[derive(Debug)]
struct Shown {
    code: u16,
    head: String,
    body: String,
}

impl Shown {
    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

impl Ui {
    async fn start(kubeconfig: &Path, args: &[&str], path: Option<&Path>) -> Result<Self> {
        let mut command = Command::new(binary("kubectl-railbind")?);
        command.args(args).env("KUBECONFIG", kubeconfig).stdin(Stdio::null()).stdout(Stdio::piped());
        if let Some(first) = path {
            let rest = std::env::var("PATH").unwrap_or_default();
            command.env("PATH", format!("{}:{rest}", first.display()));
        }
        let mut child = tokio::process::Command::from(command).kill_on_drop(true).spawn()?;
        let mut lines = BufReader::new(child.stdout.take().context("no output")?).lines();
        let line = tokio::time::timeout(LIMIT, lines.next_line()).await.context("it says nothing")??;
        let line = line.context("it ended")?;
        let (address, secret) = line
            .strip_prefix("http://")
            .and_then(|rest| rest.strip_suffix('/')?.split_once('/'))
            .with_context(|| line.clone())?;
        Ok(Self { child, address: address.to_owned(), secret: secret.to_owned() })
    }

    /// Below the secret.
    async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Result<Shown> {
        self.ask("GET", &format!("/{}{path}", self.secret), headers).await
    }

    async fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Result<Shown> {
        let mut stream = TcpStream::connect(&self.address).await?;
        let host = headers.iter().find(|(name, _)| *name == "Host").map_or(self.address.as_str(), |(_, host)| host);
        // HTTP/1.0: the body comes as it is.
        let request = format!("{method} {path} HTTP/1.0\r\nHost: {host}\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        let (head, body) = answer.split_once("\r\n\r\n").with_context(|| answer.clone())?;
        let code = head.split(' ').nth(1).and_then(|code| code.parse().ok()).context("no status")?;
        Ok(Shown { code, head: head.replace("\r\n", "\n"), body: body.to_owned() })
    }

    /// As Ctrl-C does it.
    async fn interrupted(&mut self) -> Result<()> {
        let id = self.child.id().context("it has ended")?.to_string();
        ensure!(Command::new("kill").args(["-INT", &id]).status()?.success(), "kill");
        let ended = tokio::time::timeout(Duration::from_secs(20), self.child.wait()).await.context("it goes on")??;
        ensure!(ended.code() == Some(0), "{ended}");
        Ok(())
    }
}
