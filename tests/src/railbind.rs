//! Railbind's own processes on a cluster: the real binaries, each under its own service account's rights.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::{
    authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec},
    core::v1::{Node, ServiceAccount},
};
use kube::{Api, Resource, ResourceExt, api::PostParams};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{Cluster, LIMIT, Process, free_port, until};

/// Namespace of the manifests.
pub const NAMESPACE: &str = "railbind-system";

/// A process of ours with its admin server.
#[derive(Debug)]
pub struct Daemon {
    /// The process.
    pub process: Process,
    admin: SocketAddr,
}

impl Daemon {
    /// Address of its admin server.
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// Body of an admin page (`/readyz`, `/metrics`), with its status.
    pub async fn get(&self, path: &str) -> Result<(u16, String)> {
        let mut stream = TcpStream::connect(self.admin).await.context("connect to the admin server")?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok()).context("no HTTP status")?;
        let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default();
        Ok((status, body))
    }

    /// Waits until it says that it is ready.
    pub async fn ready(&mut self) -> Result<()> {
        let name = self.process.name().to_owned();
        let waited = until(format_args!("{name} to be ready"), LIMIT, || async {
            let (status, body) = self.get("/readyz").await?;
            ensure!(status == 200, "{body}");
            Ok(())
        })
        .await;
        waited.with_context(|| format!("{name} says:\n{}", self.process.tail(15)))
    }

    /// The sum of a metric's samples whose line contains `labels`.
    pub async fn metric(&self, name: &str, labels: &str) -> Result<f64> {
        let (_, text) = self.get("/metrics").await?;
        let lines = text.lines().filter(|line| line.starts_with(name) && line.contains(labels));
        Ok(lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
    }
}

impl Cluster {
    /// Service accounts, roles and policies of `manifests/base`: all of it but the workloads, which run as processes here.
    pub async fn install_identities(&self) -> Result<()> {
        let base = [
            "namespace.yaml",
            "crds/nodefabrics.yaml",
            "agent.yaml",
            "agent-fence.yaml",
            "webhook.yaml",
            "webhook-fence.yaml",
        ];
        let files = base.iter().map(|file| format!("manifests/base/{file}"));
        // Our tests run on a Kubernetes where `--binding-engine auto` means the policy.
        for file in files.chain(["manifests/overlays/policy-engine/policy-engine.yaml".into()]) {
            let path = repository().join(file);
            let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
            let workload = |document: &&str| {
                ["DaemonSet", "Deployment"].iter().any(|kind| document.contains(&format!("kind: {kind}\n")))
            };
            let documents: Vec<&str> = text.split("\n---\n").filter(|document| !workload(document)).collect();
            self.apply(&documents.join("\n---\n")).await?;
        }
        Ok(())
    }

    /// Runs `railbind-agent run` for a node, with a token that is bound to it as a pod's would be.
    pub async fn spawn_agent(&self, node: &str, root: &Path, period: &str) -> Result<Daemon> {
        let bound: Node = Api::all(self.client().await?).get(node).await?;
        let kubeconfig = self.identity("railbind-agent", Some(&bound)).await?;
        self.spawn_agent_with(&format!("agent-{node}"), node, root, period, &kubeconfig)
    }

    /// The same with more flags, as a second process of the same node would be.
    pub async fn spawn_agent_flags(&self, name: &str, node: &str, root: &Path, flags: &[&str]) -> Result<Daemon> {
        let bound: Node = Api::all(self.client().await?).get(node).await?;
        let kubeconfig = self.identity("railbind-agent", Some(&bound)).await?;
        let args = ["run", "--node-name", node, "--root", text(root)?, "--start-jitter", "0", "--probes=false"];
        self.daemon(&[], name, "railbind-agent", &[&args, flags].concat(), &kubeconfig)
    }

    /// The agent of another build, for a machine of the tests.
    pub async fn spawn_agent_of(&self, program: &Path, name: &str, node: &str, root: &Path) -> Result<Daemon> {
        let bound: Node = Api::all(self.client().await?).get(node).await?;
        let kubeconfig = self.identity("railbind-agent", Some(&bound)).await?;
        let args = ["run", "--node-name", node, "--root", text(root)?, "--period", "1", "--start-jitter", "0"];
        let mut agent = self.daemon_of(&[], name, program, &[&args[..], &["--probes=false"]].concat(), &kubeconfig)?;
        agent.ready().await?;
        Ok(agent)
    }

    /// The same with any kubeconfig.
    pub fn spawn_agent_with(
        &self,
        name: &str,
        node: &str,
        root: &Path,
        period: &str,
        kubeconfig: &Path,
    ) -> Result<Daemon> {
        // This machine's libraries say nothing about another machine's tree.
        let probes = if root == Path::new("/") { "--probes=true" } else { "--probes=false" };
        let args =
            ["run", "--node-name", node, "--root", text(root)?, "--period", period, "--start-jitter", "0", probes];
        self.daemon(&[], name, "railbind-agent", &args, kubeconfig)
    }

    /// Runs `railbind-webhook serve`, registered under its URL, and waits until it is.
    pub async fn spawn_webhook(&self, name: &str) -> Result<Daemon> {
        let listen = format!("127.0.0.1:{}", free_port()?);
        self.spawn_webhook_at(name, &listen, &format!("https://{listen}"), &["--drain-seconds", "1"]).await
    }

    /// The same at an address, registered under a URL that leads there, with more flags.
    pub async fn spawn_webhook_at(&self, name: &str, listen: &str, url: &str, more: &[&str]) -> Result<Daemon> {
        self.spawn_webhook_under(&[], name, listen, url, more).await
    }

    /// The same, started by a program such as `taskset -c 0`.
    pub async fn spawn_webhook_under(
        &self,
        starter: &[&str],
        name: &str,
        listen: &str,
        url: &str,
        more: &[&str],
    ) -> Result<Daemon> {
        let program = binary("railbind-webhook")?;
        self.spawn_webhook_of(starter, &program, name, listen, url, more).await
    }

    /// The same of another build.
    pub async fn spawn_webhook_of(
        &self,
        starter: &[&str],
        program: &Path,
        name: &str,
        listen: &str,
        url: &str,
        more: &[&str],
    ) -> Result<Daemon> {
        let kubeconfig = self.identity("railbind-webhook", None).await?;
        let args = ["serve", "--listen", listen, "--url", url, "--namespace", NAMESPACE];
        let mut webhook = self.daemon_of(starter, name, program, &[&args, more].concat(), &kubeconfig)?;
        webhook.ready().await?;
        Ok(webhook)
    }

    /// Runs one of our programs with an admin server, started by a program such as `taskset -c 0`.
    pub fn daemon(
        &self,
        starter: &[&str],
        name: &str,
        program: &str,
        args: &[&str],
        kubeconfig: &Path,
    ) -> Result<Daemon> {
        self.daemon_of(starter, name, &binary(program)?, args, kubeconfig)
    }

    fn daemon_of(
        &self,
        starter: &[&str],
        name: &str,
        program: &Path,
        args: &[&str],
        kubeconfig: &Path,
    ) -> Result<Daemon> {
        let admin: SocketAddr = format!("127.0.0.1:{}", free_port()?).parse()?;
        let listen = admin.to_string();
        let words = starter.iter().copied().chain([text(program)?]).chain(args.iter().copied());
        let words: Vec<&str> = words.chain(["--admin-listen", &listen]).collect();
        let (first, rest) = words.split_first().context("nothing to run")?;
        let process = self.spawn(name, first, rest, &[("KUBECONFIG", text(kubeconfig)?)])?;
        Ok(Daemon { process, admin })
    }

    /// A kubeconfig of one of our service accounts.
    pub async fn identity(&self, account: &str, node: Option<&Node>) -> Result<PathBuf> {
        let bound = node.map(|node| BoundObjectReference {
            api_version: Some(Node::api_version(&()).into_owned()),
            kind: Some(Node::kind(&()).into_owned()),
            name: Some(node.name_any()),
            uid: node.uid(),
        });
        let spec = TokenRequestSpec { bound_object_ref: bound, ..TokenRequestSpec::default() };
        let request = TokenRequest { spec, ..TokenRequest::default() };
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client().await?, NAMESPACE);
        let answer = accounts.create_token_request(account, &PostParams::default(), &request).await;
        let token = answer.with_context(|| format!("a token for {account}"))?.status.context("no token")?.token;
        let kubeconfig = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": {
                "server": self.url(),
                "certificate-authority": self.path().join("ca.crt"),
            }}],
            "users": [{"name": account, "user": {"token": token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": account}}],
            "current-context": "test",
        });
        let file =
            self.path().join(format!("{account}-{}.kubeconfig", node.map(ResourceExt::name_any).unwrap_or_default()));
        std::fs::write(&file, kubeconfig.to_string()).with_context(|| format!("write {}", file.display()))?;
        Ok(file)
    }
}

/// The repository's root.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("/"))
}

/// One of our binaries, beside this one or one folder up: where cargo puts both.
pub fn binary(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().context("where am I")?;
    match own.ancestors().skip(1).take(2).map(|folder| folder.join(name)).find(|path| path.is_file()) {
        Some(path) => Ok(path),
        None => bail!("no {name} near {}: run `cargo build --workspace` first", own.display()),
    }
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))
}
