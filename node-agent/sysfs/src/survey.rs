//! One pass over the machine: all facts, and all that stood in the way.

mod acs;
mod device;
mod function;
mod gpu;
mod host;
mod memlock;
mod network;
mod port;

use policies::{
    fabric::{Fact, Facts, Problem},
    names::problem,
};

use crate::{cache::Cache, distance, parse, reader::Reader, root::Root};

/// Everything that can be read about the machine below `root`, and one problem for each file that is there and could not be
/// read or makes no sense. Optional files that are absent are no problem. Counters are never read.
pub fn survey(root: &Root) -> (Facts, Vec<Problem>) {
    survey_with(root, &mut Cache::new())
}

/// [`survey`] again on the same machine: what is read seldom is taken from `cache`, and left there for the next.
pub fn survey_with(root: &Root, cache: &mut Cache) -> (Facts, Vec<Problem>) {
    let mut reader = Reader::new(root);
    let boot_id = reader.fact("proc/sys/kernel/random/boot_id", parse::boot_id);
    cache.begin(&boot_id);
    let devices = device::all(&mut reader, cache);
    let gpus = gpu::all(&mut reader);
    let (topology, distances) =
        distance::between(gpus.known().map_or(&[][..], Vec::as_slice), devices.known().map_or(&[][..], Vec::as_slice));
    let network = network::read(&mut reader);
    let acs_redirects = acs::redirects(&mut reader, devices.known(), gpus.known());
    let facts = Facts {
        kernel: reader.fact("proc/sys/kernel/osrelease", parse::kernel_release),
        os: host::os(&mut reader),
        devices,
        gpus,
        gpu_direct: host::gpu_direct(&mut reader),
        memlock: memlock::of_containers(&mut reader, cache),
        netns_mode: reader.fact("sys/module/ib_core/parameters/netns_mode", parse::netns_mode),
        numa_nodes: reader.fact("sys/devices/system/node/online", parse::cpu_list),
        subnets: network.subnets,
        default_route_netdevs: network.default_netdevs,
        distances,
        topology,
        boot_id,
        iommu_parameters: reader.fact("proc/cmdline", parse::iommu_parameters),
        acs_redirects,
        imex_channels: host::imex_channels(&mut reader),
    };
    cache.end();
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

/// Unknown, because of a failure on the way.
fn unknown<T>(why: impl Into<String>) -> Fact<T> {
    Fact::Unknown(why.into())
}
