//! The folder one cluster lives in, and the sweeping of what earlier runs left.

use std::{
    fs::{self, File, TryLockError},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use tempfile::TempDir;

const PREFIX: &str = "railbind-tests.";
const LOCK: &str = "lock";

/// A locked temporary folder.
///
/// A cluster shared by tests is a static, which is never dropped, and a killed process drops nothing. So each folder
/// holds a lock which the kernel releases with the process, and each start removes the folders whose lock is free. The
/// last run's logs stay readable until the next one.
#[derive(Debug)]
pub(crate) struct Dir {
    path: PathBuf,
    // Removes the folder when dropped; absent when the folder is to be kept.
    _temporary: Option<TempDir>,
    _lock: File,
}

impl Dir {
    pub(crate) fn create() -> Result<Self> {
        let parent = std::env::temp_dir();
        sweep(&parent);
        let temporary = TempDir::with_prefix(PREFIX).with_context(|| format!("create in {}", parent.display()))?;
        // Under its name only once it is locked: a sweep that finds it unlocked takes the folder for an orphan.
        let unlocked = temporary.path().join("lock.new");
        let lock = File::create(&unlocked).context("create the lock")?;
        lock.try_lock().context("lock the cluster's folder")?;
        fs::rename(unlocked, temporary.path().join(LOCK)).context("name the lock")?;
        let path = temporary.path().to_owned();
        let keep = std::env::var_os("RAILBIND_KEEP").is_some();
        let temporary = if keep {
            // Without a lock file the sweep leaves it alone as well.
            fs::remove_file(path.join(LOCK)).context("remove the lock")?;
            eprintln!("RAILBIND_KEEP: the cluster's logs and data stay in {}", temporary.keep().display());
            None
        } else {
            Some(temporary)
        };
        Ok(Self { path, _temporary: temporary, _lock: lock })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A new folder in it.
    pub(crate) fn folder(&self, name: &str) -> Result<PathBuf> {
        let path = self.path.join(name);
        fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
        Ok(path)
    }

    /// A new file in it.
    pub(crate) fn file(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.path.join(name);
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        Ok(path)
    }
}

/// Removes folders nobody holds. Best effort: another process may be sweeping too, and another user's are not ours.
fn sweep(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        if !entry.file_name().to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        // A folder without a lock is one that is being created, or kept.
        let Ok(lock) = File::open(entry.path().join(LOCK)) else { continue };
        match lock.try_lock() {
            Ok(()) => drop(fs::remove_dir_all(entry.path())),
            Err(TryLockError::WouldBlock | TryLockError::Error(_)) => {}
        }
    }
}
