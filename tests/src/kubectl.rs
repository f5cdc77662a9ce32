//! kubectl, of the same binary and version as the cluster.

use std::process::Stdio;

use anyhow::{Context, Result, bail};
use tokio::{io::AsyncWriteExt as _, process::Command};

use crate::Cluster;

impl Cluster {
    /// Runs kubectl as the administrator and returns what it prints.
    pub async fn kubectl(&self, args: &[&str]) -> Result<String> {
        self.kubectl_with(args, "").await
    }

    /// Runs `kubectl apply` on a manifest: YAML or JSON, several documents if need be.
    pub async fn apply(&self, manifest: &str) -> Result<String> {
        self.kubectl_with(&["apply", "-f", "-"], manifest).await
    }

    /// Runs kubectl with something to read.
    pub async fn kubectl_with(&self, args: &[&str], input: &str) -> Result<String> {
        let said = || format!("kubectl {}", args.join(" "));
        let mut child = Command::new(self.kube())
            .arg("kubectl")
            .args(args)
            .env("KUBECONFIG", self.kubeconfig())
            // Its cache of the API's groups: the user's own must neither be read nor grow.
            .env("KUBECACHEDIR", self.path().join("kubectl-cache"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(said)?;
        if let Some(mut stdin) = child.stdin.take() {
            // An error means that it did not read to the end; its status says why.
            drop(stdin.write_all(input.as_bytes()).await);
        }
        let output = child.wait_with_output().await.with_context(said)?;
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        if !output.status.success() {
            bail!("{} failed ({}): {}{}", said(), output.status, err, out);
        }
        Ok(out.into_owned())
    }
}
