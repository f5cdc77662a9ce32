//! A control plane: how it starts, what it offers, how it ends.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fmt::Write as _,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use kube::{
    Client, Config,
    api::GetParams,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::{Value, json};

use crate::{
    Authority, LIMIT, Process,
    components::{self, Setup},
    dir::Dir,
    free_port, kube_binary, pki, until,
};

/// How a cluster differs from the usual one.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Log every request but the administrator's reads, with its body: see [`Cluster::audit`].
    pub audit: bool,
    /// More flags for the API server, `--like=this`.
    pub api_server: Vec<String>,
    /// Only etcd and the API server: nobody schedules, and nobody looks after nodes and pods.
    pub bare: bool,
}

/// A running control plane. Dropping it ends it, and so does the end of this process, however it comes.
///
/// It is tied to no runtime: a static one can be shared by tests that each have their own.
#[derive(Debug)]
pub struct Cluster {
    kube: &'static Path,
    url: String,
    authority: Authority,
    kubeconfig: PathBuf,
    pub(crate) components: Mutex<Vec<Process>>,
    /// The command line of each component, to start it again.
    pub(crate) commands: Mutex<BTreeMap<String, Vec<String>>>,
    nodes: Mutex<BTreeMap<String, Process>>,
    // Last, so that it is removed after the processes that write to it have ended.
    dir: Dir,
}

impl Cluster {
    /// Starts one, and waits until it answers and every part of it runs.
    pub async fn start(options: Options) -> Result<Self> {
        // An error means that the test has installed one already.
        drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
        let kube = kube_binary().await?;
        let dir = Dir::create()?;
        dir.folder("records")?;
        let (etcd, etcd_peers, api_server) = (free_port()?, free_port()?, free_port()?);
        let url = format!("https://127.0.0.1:{api_server}");
        let authority = Authority::new("railbind test authority")?;
        let kubeconfig = write_files(&dir, &authority, &url)?;
        let cluster = Self {
            kube,
            url,
            authority,
            kubeconfig,
            components: Mutex::default(),
            commands: Mutex::default(),
            nodes: Mutex::default(),
            dir,
        };
        if let Err(err) = cluster.run(&options, etcd, etcd_peers, api_server).await {
            bail!("the cluster does not start: {err:#}\n{}", cluster.tails(20));
        }
        Ok(cluster)
    }

    async fn run(&self, options: &Options, etcd: u16, etcd_peers: u16, api_server: u16) -> Result<()> {
        let dir = self.path().to_owned();
        let setup = Setup { dir: &dir, kubeconfig: &self.kubeconfig, etcd, etcd_peers, api_server };
        self.add("etcd", &components::etcd(&setup))?;
        self.add("kube-apiserver", &components::api_server(&setup, options.audit, &options.api_server))?;
        self.answers("livez", LIMIT).await?;
        if !options.bare {
            self.add("kube-controller-manager", &components::controller_manager(&setup))?;
            self.add("kube-scheduler", &components::scheduler(&setup))?;
        }
        self.answers("readyz", LIMIT).await?;
        self.check()
    }

    /// Waits until one of the API server's own checks passes.
    pub(crate) async fn answers(&self, check: &str, limit: Duration) -> Result<()> {
        let client = self.client().await?;
        until(format_args!("the API server's /{check}"), limit, || async {
            // A server that is gone will not answer later.
            if let Err(gone) = self.check() {
                return Ok(Err(gone));
            }
            // The path of a "named object" below the root: kube offers no shorter way to a plain GET.
            let request = kube::core::Request::new("").get(check, &GetParams::default())?;
            client.request_text(request).await?;
            Ok(Ok(()))
        })
        .await?
    }

    /// A client with every right. It belongs to the calling runtime, so a shared cluster makes one for each test.
    pub async fn client(&self) -> Result<Client> {
        let kubeconfig = Kubeconfig::read_from(&self.kubeconfig)?;
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        Ok(Client::try_from(config)?)
    }

    /// The file such a client is configured with.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// The API server's address.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Who signed the API server's certificate, and will sign a webhook's.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// The folder with its logs and files, gone when the cluster is.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Runs any program, which ends with the cluster or with this process at the latest. Its output goes to
    /// `NAME.log` in the cluster's folder.
    pub fn spawn<A: AsRef<OsStr>>(
        &self,
        name: &str,
        program: impl AsRef<OsStr>,
        args: impl IntoIterator<Item = A>,
        envs: &[(&str, &str)],
    ) -> Result<Process> {
        Process::guarded(self.kube, name, program, args, envs, self.path().join(format!("{name}.log")))
    }

    /// The audit log so far, an event a line; [`Options::audit`] asks for it.
    pub fn audit(&self) -> Result<Vec<Value>> {
        let text = std::fs::read_to_string(self.path().join("audit.jsonl")).context("read the audit log")?;
        text.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
    }

    /// Fails if a component has ended.
    pub fn check(&self) -> Result<()> {
        lock(&self.components).iter_mut().try_for_each(Process::check)
    }

    /// The end of each component's log.
    pub fn tails(&self, lines: usize) -> String {
        let mut text = String::new();
        for process in lock(&self.components).iter().chain(self.nodes().values()) {
            let _ = write!(text, "── {} ──\n{}", process.name(), process.tail(lines));
        }
        text
    }

    /// Ends every process and removes the folder.
    pub async fn stop(self) -> Result<()> {
        self.release();
        let components = std::mem::take(&mut *lock(&self.components));
        let nodes = std::mem::take(&mut *self.nodes());
        for mut process in components.into_iter().chain(nodes.into_values()) {
            process.stop().await?;
        }
        Ok(())
    }

    pub(crate) fn add(&self, name: &str, args: &[String]) -> Result<()> {
        let process = self.component(name, args)?;
        lock(&self.commands).insert(name.to_owned(), args.to_vec());
        lock(&self.components).push(process);
        Ok(())
    }

    pub(crate) fn component(&self, name: &str, args: &[String]) -> Result<Process> {
        Process::component(self.kube, name, args, self.path().join(format!("{name}.log")))
    }

    pub(crate) fn nodes(&self) -> MutexGuard<'_, BTreeMap<String, Process>> {
        lock(&self.nodes)
    }

    pub(crate) fn records(&self) -> PathBuf {
        self.path().join("records")
    }

    pub(crate) fn kube(&self) -> &Path {
        self.kube
    }

    fn release(&self) {
        self.nodes().values_mut().for_each(Process::release);
        lock(&self.components).iter_mut().for_each(Process::release);
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.release();
    }
}

/// A test that panicked while it held the lock has not left a list of processes half written.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn write_files(dir: &Dir, authority: &Authority, url: &str) -> Result<PathBuf> {
    let serving = authority.serving(&["kubernetes.default.svc"])?;
    dir.file("ca.crt", authority.certificate())?;
    dir.file("apiserver.crt", &serving.certificate)?;
    dir.file("apiserver.key", &serving.key)?;
    let (private, public) = pki::token_keys()?;
    dir.file("sa.key", &private)?;
    dir.file("sa.pub", &public)?;
    dir.file("tokens.csv", "administrator,admin,1,\"system:masters\"\n")?;
    dir.file("audit-policy.yaml", components::AUDIT_POLICY)?;
    let kubeconfig = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": {
            "server": url,
            "certificate-authority": dir.path().join("ca.crt"),
        }}],
        "users": [{"name": "admin", "user": {"token": "administrator"}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "admin"}}],
        "current-context": "test",
    });
    dir.file("kubeconfig", &kubeconfig.to_string())
}
