//! A machine's tree of files that a test may change.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result, ensure};

use crate::railbind::repository;

/// A copy of a fixture.
pub fn copy(fixture: &str) -> Result<tempfile::TempDir> {
    let folder = tempfile::tempdir()?;
    let from = repository().join("tests/fixtures").join(fixture).join(".");
    let status = Command::new("cp").arg("-a").arg(from).arg(folder.path()).status()?;
    ensure!(status.success(), "cp failed");
    Ok(folder)
}

/// Moves the RoCE v2 IPv4 GID of every port to another index, as a link flap does.
pub fn move_gids(root: &Path, from: u32, to: u32) -> Result<()> {
    for device in fs::read_dir(root.join("sys/class/infiniband")).context("the tree's RDMA devices")? {
        let port = device?.path().join("ports/1");
        for part in ["gids", "gid_attrs/types", "gid_attrs/ndevs"] {
            let folder = port.join(part);
            fs::rename(folder.join(from.to_string()), folder.join(to.to_string()))?;
        }
        fs::write(port.join("gids").join(from.to_string()), "0000:0000:0000:0000:0000:0000:0000:0000\n")?;
    }
    Ok(())
}
