//! Where the control plane's binary and the guests' image come from.

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
    let found = BINARY.get_or_try_init(async || {
        let binary = given_or_built("RAILBIND_KUBE", "scripts/build-kube.sh").await?;
        ensure!(binary.is_file(), "no control plane binary at {}", binary.display());
        Ok(binary)
    });
    found.await.map(PathBuf::as_path)
}

/// The folder with what guests boot: `RAILBIND_GUEST`, or what `tests/roce/build.sh` builds and keeps.
pub(crate) async fn guest_image() -> Result<PathBuf> {
    given_or_built("RAILBIND_GUEST", "tests/roce/build.sh").await
}

/// `helm` or `promtool`: of the folder `RAILBIND_TOOLS`, or of what `scripts/build-tools.sh` builds and keeps.
pub async fn tool(name: &str) -> Result<PathBuf> {
    static FOLDER: OnceCell<PathBuf> = OnceCell::const_new();
    let folder = FOLDER.get_or_try_init(|| given_or_built("RAILBIND_TOOLS", "scripts/build-tools.sh")).await?;
    let path = folder.join(name);
    ensure!(path.is_file(), "no {name} in {}", folder.display());
    Ok(path)
}

async fn given_or_built(variable: &str, script: &str) -> Result<PathBuf> {
    if let Some(given) = std::env::var_os(variable) {
        return Ok(PathBuf::from(given));
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(script);
    let output = Command::new(&script)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .await
        .with_context(|| format!("run {}", script.display()))?;
    ensure!(output.status.success(), "{} failed: {}", script.display(), output.status);
    Ok(PathBuf::from(String::from_utf8(output.stdout)?.trim_end()))
}
