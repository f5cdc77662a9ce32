//! Whether this agent's own container can open what a test opens. A container opens a device of `/dev/infiniband` only where a device
//! plugin allocated it: without that, what UCX says is about the container, and nothing about the node.

use std::{
    fs,
    os::unix::fs::FileTypeExt as _,
    path::{Path, PathBuf},
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

    /// Why this container cannot open a device that the node's compute fabric is on; `None` where it can.
    pub(super) fn shut_out(&self, survey: &Survey) -> Option<String> {
        let devices = survey.facts.devices.known()?;
        let compute = |name: &str| survey.verdict.compute_ports().any(|port| port.device == name);
        devices
            .iter()
            .filter(|device| !device.software && compute(&device.name))
            .find_map(|device| self.closed(device.uverbs.as_deref()?))
    }

    fn closed(&self, uverbs: &str) -> Option<String> {
        // Files of another kind are those of a fixture, which nobody could open as a device.
        if !fs::metadata(self.node.join(uverbs)).is_ok_and(|found| found.file_type().is_char_device()) {
            return None;
        }
        let own = self.own.join(uverbs);
        let error = fs::File::options().read(true).write(true).open(&own).err()?;
        Some(format!(
            "this agent cannot open {} ({error}): its container needs the RDMA resource that workers get (docs/selftest.md)",
            own.display()
        ))
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink, path::Path};

    use super::Devices;

    #[test]
    fn a_device_that_the_node_has_and_the_container_has_not() {
        let folder = tempfile::tempdir().unwrap();
        let devices = Devices { node: folder.path().join("node"), own: folder.path().join("own") };
        for part in [&devices.node, &devices.own] {
            fs::create_dir(part).unwrap();
        }
        assert_eq!(devices.closed("uverbs0"), None, "the node has none either");
        fs::write(devices.node.join("uverbs0"), "").unwrap();
        assert_eq!(devices.closed("uverbs0"), None, "no device");
        symlink("/dev/null", devices.node.join("uverbs1")).unwrap();
        let why = devices.closed("uverbs1").unwrap();
        assert!(why.contains("own/uverbs1 (No such file or directory"), "{why}");
        symlink("/dev/null", devices.own.join("uverbs1")).unwrap();
        assert_eq!(devices.closed("uverbs1"), None);
    }

    #[test]
    fn the_container_s_are_where_ucx_looks() {
        let devices = Devices::of(Path::new("/host"));
        assert_eq!(devices.node, Path::new("/host/dev/infiniband"));
        assert_eq!(devices.own, Path::new("/dev/infiniband"));
    }
}
