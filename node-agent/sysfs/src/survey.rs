//! One pass over the machine: all facts, and all that stood in the way.

mod device;
mod gpu;
mod host;
mod memlock;
mod network;
mod port;

use policies::{
    fabric::{Fact, Facts, Problem},
    names::problem,
};

use crate::{distance, parse, reader::Reader, root::Root};

/// Everything that can be read about the machine below `root`, and one problem for each file that is there and could not be
/// read or makes no sense. Optional files that are absent are no problem. Counters are never read.
pub fn survey(root: &Root) -> (Facts, Vec<Problem>) {
    let mut reader = Reader::new(root);
    let devices = device::all(&mut reader);
    let gpus = gpu::all(&mut reader);
    let (topology, distances) =
        distance::between(gpus.known().map_or(&[][..], Vec::as_slice), devices.known().map_or(&[][..], Vec::as_slice));
    let network = network::read(&mut reader);
    let facts = Facts {
        kernel: reader.fact("proc/sys/kernel/osrelease", parse::kernel_release),
        os: host::os(&mut reader),
        devices,
        gpus,
        gpu_direct: host::gpu_direct(&mut reader),
        memlock: memlock::of_containers(&mut reader),
        netns_mode: reader.fact("sys/module/ib_core/parameters/netns_mode", parse::netns_mode),
        numa_nodes: reader.fact("sys/devices/system/node/online", parse::cpu_list),
        subnets: network.subnets,
        default_route_netdevs: network.default_netdevs,
        distances,
        topology,
    };
    let mut problems = reader.into_problems();
    // Nothing that follows from an absent /sys is wrong by itself, and all of it is wrong where the mount was forgotten.
    if matches!(root.exists("sys"), Ok(false)) {
        problems.push(Problem::new(
            problem::UNREADABLE,
            "/sys",
            "is absent: no hardware can be seen",
            "mount the host's /sys below the agent's root",
        ));
    }
    (facts, problems)
}

/// `-1` and nothing both mean that the node is not known.
fn numa(reader: &mut Reader<'_>, device_dir: &str) -> Option<u32> {
    reader.value(&format!("{device_dir}/numa_node"), parse::numa_node)?.try_into().ok()
}

/// Unknown, because of a failure on the way.
fn unknown<T>(why: impl Into<String>) -> Fact<T> {
    Fact::Unknown(why.into())
}
