//! Operating system and GPUDirect modules.

use policies::fabric::{Fact, GpuDirect};

use crate::{parse, reader::Reader};

/// `/etc/os-release` is a link to the other on most distributions, and dangles where only /etc is mounted.
const OS_RELEASE: [&str; 2] = ["etc/os-release", "usr/lib/os-release"];

pub(super) fn os(reader: &mut Reader<'_>) -> Fact<String> {
    let mut name = reader.fact(OS_RELEASE[0], parse::os_name);
    if matches!(reader.exists(OS_RELEASE[0]), Ok(false)) && reader.has(OS_RELEASE[1]) {
        name = reader.fact(OS_RELEASE[1], parse::os_name);
    }
    name
}

/// UCX decides by the presence of the very same files (src/uct/ib/base/ib_md.c).
pub(super) fn gpu_direct(reader: &mut Reader<'_>) -> GpuDirect {
    let nvidia = reader.present("sys/kernel/mm/memory_peers/nv_mem");
    let amd = reader.present("sys/kernel/mm/memory_peers/amdkfd");
    let memory_peers = match (nvidia, amd) {
        (Fact::Known(true), _) | (_, Fact::Known(true)) => Fact::Known(true),
        (Fact::Unknown(why), _) | (_, Fact::Unknown(why)) => Fact::Unknown(why),
        (Fact::Known(false), Fact::Known(false)) => Fact::Known(false),
    };
    let version = "proc/driver/nvidia/version";
    let nvidia_driver = match reader.present(version) {
        Fact::Known(false) => Fact::Known(None),
        Fact::Known(true) => match reader.fact(version, parse::nvidia_driver) {
            Fact::Known(driver) => Fact::Known(Some(driver)),
            Fact::Unknown(why) => Fact::Unknown(why),
        },
        Fact::Unknown(why) => Fact::Unknown(why),
    };
    GpuDirect {
        // Only CUDA itself can tell, and it is not asked here.
        exported: Fact::Unknown("CUDA has not been probed here".into()),
        nvidia_peermem: reader.present("sys/module/nvidia_peermem"),
        nv_peer_mem: reader.present("sys/module/nv_peer_mem"),
        efa_nv_peermem: reader.present("sys/module/efa_nv_peermem"),
        memory_peers,
        gdrdrv: reader.present("dev/gdrdrv"),
        nvidia_driver,
    }
}

/// The NVIDIA driver makes one device for each channel that was configured.
pub(super) fn imex_channels(reader: &mut Reader<'_>) -> Fact<Vec<u32>> {
    match reader.names("dev/nvidia-caps-imex-channels") {
        Ok(names) => {
            let number = |name: &String| name.strip_prefix("channel")?.parse().ok();
            Fact::Known(names.unwrap_or_default().iter().filter_map(number).collect())
        }
        Err(why) => Fact::Unknown(why),
    }
}
