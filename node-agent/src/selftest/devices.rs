//! Whether this agent's own container can open what a test opens, and lock what it registers. A container opens a device of
//! `/dev/infiniband` only where a device plugin allocated it, and locks memory up to RLIMIT_MEMLOCK unless it has IPC_LOCK: without
//! these, what UCX says is about the container, and nothing about the node.

use std::{
    fs,
    os::unix::fs::FileTypeExt as _,
    path::{Path, PathBuf},
};

use rustix::{
    process::{Resource, getrlimit},
    thread::{CapabilitySet, capabilities},
};

use crate::survey::Survey;

/// Where devices are, below a root.
const DEVICES: &str = "dev/infiniband";

/// The node's devices, and this container's.
#[derive(Debug, Clone)]
pub struct Devices {
    node: PathBuf,
    own: PathBuf,
}

impl Devices {
    /// `root`: the tree that surveys read.
    pub fn of(root: &Path) -> Self {
        Self { node: root.join(DEVICES), own: Path::new("/").join(DEVICES) }
    }

    /// Why a test in this container would fail on any node: it cannot open a device that the node's compute fabric is on, or may not
    /// lock `locks` bytes, which the test registers with it. `None` where it would not.
    pub(super) fn shut_out(&self, survey: &Survey, locks: u64) -> Option<String> {
        let devices = survey.facts.devices.known()?;
        let compute = |name: &str| survey.verdict.compute_ports().any(|port| port.device == name);
        let hardware = devices.iter().filter(|device| !device.software && compute(&device.name));
        let uverbs: Vec<&str> =
            hardware.filter_map(|device| device.uverbs.as_deref()).filter(|uverbs| self.is_device(uverbs)).collect();
        let closed = uverbs.iter().find_map(|uverbs| self.closed(uverbs));
        closed.or_else(|| if uverbs.is_empty() { None } else { unlocked(locks, may_lock()) })
    }

    /// Files of another kind are those of a fixture, which nobody could open as a device.
    fn is_device(&self, uverbs: &str) -> bool {
        fs::metadata(self.node.join(uverbs)).is_ok_and(|found| found.file_type().is_char_device())
    }

    fn closed(&self, uverbs: &str) -> Option<String> {
        let own = self.own.join(uverbs);
        let error = fs::File::options().read(true).write(true).open(&own).err()?;
        Some(format!(
            "this agent cannot open {} ({error}): its container needs the RDMA resource that workers get (docs/selftest.md)",
            own.display()
        ))
    }
}

/// Bytes that this process may lock for a NIC; `None`: any number. The kernel counts each process's own, and none of one that is
/// capable of IPC_LOCK (ib_umem_get).
fn may_lock() -> Option<u64> {
    let capable = capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::IPC_LOCK));
    if capable { None } else { getrlimit(Resource::Memlock).current }
}

fn unlocked(locks: u64, may: Option<u64>) -> Option<String> {
    let may = may.filter(|may| *may < locks)?;
    Some(format!(
        "this agent may lock {may} bytes of memory and a test registers {locks}: its container needs the capability IPC_LOCK, or the \
         container runtime LimitMEMLOCK=infinity (docs/selftest.md)"
    ))
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink, path::Path};

    use super::{Devices, unlocked};

    #[test]
    fn a_device_that_the_node_has_and_the_container_has_not() {
        let folder = tempfile::tempdir().unwrap();
        let devices = Devices { node: folder.path().join("node"), own: folder.path().join("own") };
        for part in [&devices.node, &devices.own] {
            fs::create_dir(part).unwrap();
        }
        assert!(!devices.is_device("uverbs0"), "the node has none either");
        fs::write(devices.node.join("uverbs0"), "").unwrap();
        assert!(!devices.is_device("uverbs0"), "a file");
        symlink("/dev/null", devices.node.join("uverbs1")).unwrap();
        assert!(devices.is_device("uverbs1"));
        let why = devices.closed("uverbs1").unwrap();
        assert!(why.contains("own/uverbs1 (No such file or directory"), "{why}");
        symlink("/dev/null", devices.own.join("uverbs1")).unwrap();
        assert_eq!(devices.closed("uverbs1"), None);
    }

    #[test]
    fn memory_that_may_not_be_locked() {
        assert_eq!(unlocked(128 << 20, None), None, "IPC_LOCK, or no limit");
        assert_eq!(unlocked(128 << 20, Some(128 << 20)), None);
        assert_eq!(unlocked(0, Some(0)), None, "nothing of the host's is registered");
        let why = unlocked(128 << 20, Some(8 << 20)).unwrap();
        assert!(
            why.starts_with("this agent may lock 8388608 bytes of memory and a test registers 134217728: "),
            "{why}"
        );
    }

    #[test]
    fn the_container_s_are_where_ucx_looks() {
        let devices = Devices::of(Path::new("/host"));
        assert_eq!(devices.node, Path::new("/host/dev/infiniband"));
        assert_eq!(devices.own, Path::new("/dev/infiniband"));
    }
}
