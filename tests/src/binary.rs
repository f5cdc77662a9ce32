//! Where the control plane's binary comes from.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context, Result, ensure};
use tokio::{process::Command, sync::OnceCell};

/// The binary that holds every component: `RAILBIND_KUBE`, or what `scripts/build-kube.sh` builds and keeps.
///
/// The script's progress goes to this process's stderr, because the first build takes minutes.
pub async fn kube_binary() -> Result<&'static Path> {
    static BINARY: OnceCell<PathBuf> = OnceCell::const_new();
    BINARY.get_or_try_init(find).await.map(PathBuf::as_path)
}

async fn find() -> Result<PathBuf> {
    let binary = if let Some(given) = std::env::var_os("RAILBIND_KUBE") {
        PathBuf::from(given)
    } else {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/build-kube.sh");
        let output = Command::new(&script)
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()
            .await
            .with_context(|| format!("run {}", script.display()))?;
        ensure!(output.status.success(), "{} failed: {}", script.display(), output.status);
        PathBuf::from(String::from_utf8(output.stdout)?.trim_end())
    };
    ensure!(binary.is_file(), "no control plane binary at {}", binary.display());
    Ok(binary)
}
