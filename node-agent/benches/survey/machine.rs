//! A big machine as a tree of files, made anew for each run: 8 GPUs, 18 NICs, GID tables of 256 slots.

use std::{
    fs,
    io::Result,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

/// What ConnectX adapters have, and most of the work of a survey: one file for each slot, two more for each in use.
const GIDS: usize = 256;
const GPUS: usize = 8;
const NICS: usize = 18;

/// Writes the machine below `root`, with `used` of the slots of each table in use. Two GPUs share a PCIe switch with four NICs.
pub(crate) fn write(root: &Path, used: usize) -> Result<()> {
    let tree = Tree { root };
    for gpu in 0..GPUS {
        let (switch, bus) = (gpu / 2, 0x40 + gpu);
        let path = tree.function(switch, &format!("0000:{bus:02x}:00.0"), 4 + gpu % 2, 0x10de, 0x2330, 0x03_0200)?;
        tree.link(&format!("{path}/driver"), "sys/bus/pci/drivers/nvidia")?;
    }
    for nic in 0..NICS {
        device(&tree, nic, used)?;
    }
    // Machines of this kind have hundreds of functions that are neither: bridges, NVMe drives, memory controllers.
    for other in 0..180 {
        let address = format!("0000:{:02x}:{:02x}.{}", 0xa0 + other / 32, other % 32, other % 8);
        tree.function(other % 4, &address, 8 + other % 8, 0x8086, 0x09a2, 0x08_8000)?;
    }
    for (path, text) in [
        ("proc/sys/kernel/osrelease", "6.8.0-45-generic"),
        ("proc/sys/kernel/random/boot_id", "6d1ea8a0-7f0d-4d3a-9d3e-7d2f0a1b2c3d"),
        ("proc/cmdline", "BOOT_IMAGE=/vmlinuz-6.8.0-45-generic root=/dev/sda2 ro iommu=pt"),
        (
            "proc/driver/nvidia/version",
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release Build",
        ),
        ("sys/module/ib_core/parameters/netns_mode", "Y"),
        ("sys/module/nvidia_peermem/version", "570.86.15"),
        ("sys/devices/system/node/online", "0-1"),
        ("etc/os-release", "PRETTY_NAME=\"Ubuntu 24.04.1 LTS\""),
        ("proc/net/route", "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT"),
    ] {
        tree.file(path, text)?;
    }
    // Kernel threads come first on a real machine; the runtime is somewhere behind them.
    tree.file("proc/1/task/1/children", "620 880 1100 1190 1195")?;
    for pid in 1..1200 {
        tree.file(&format!("proc/{pid}/comm"), if pid == 1100 { "containerd" } else { "kworker/0:1" })?;
    }
    tree.file("proc/1100/limits", "Limit                     Soft Limit           Hard Limit           Units\nMax locked memory         unlimited            unlimited            bytes")
}

fn device(tree: &Tree<'_>, nic: usize, used: usize) -> Result<()> {
    let (switch, bus) = (nic / 4 % 4, 0x80 + nic);
    let pci = tree.function(switch, &format!("0000:{bus:02x}:00.0"), nic % 4, 0x15b3, 0x1021, 0x02_0000)?;
    tree.link(&format!("{pci}/driver"), "sys/bus/pci/drivers/mlx5_core")?;
    tree.file(&format!("{pci}/sriov_numvfs"), "0")?;
    for (file, text) in [("operstate", "up"), ("mtu", "9000"), ("address", "a0:88:c2:00:5b:00"), ("speed", "400000")] {
        tree.file(&format!("{pci}/net/eth{nic}/{file}"), text)?;
    }
    tree.link(&format!("sys/class/net/eth{nic}"), &format!("{pci}/net/eth{nic}"))?;
    let (name, dir) = (format!("mlx5_{nic}"), format!("{pci}/infiniband/mlx5_{nic}"));
    tree.link(&format!("sys/class/infiniband/{name}"), &dir)?;
    tree.link(&format!("{dir}/device"), &pci)?;
    let verbs = format!("{pci}/infiniband_verbs/uverbs{nic}");
    tree.file(&format!("{verbs}/ibdev"), &name)?;
    tree.link(&format!("sys/class/infiniband_verbs/uverbs{nic}"), &verbs)?;
    tree.file(&format!("dev/infiniband/uverbs{nic}"), "")?;
    for (file, text) in [
        ("node_type", "1: CA"),
        ("fw_ver", "28.39.1002"),
        ("hca_type", "MT4129"),
        ("board_id", "MT_0000000838"),
        ("hw_rev", "0"),
        ("node_desc", "node"),
        ("node_guid", "a088:c203:0030:5b10"),
        ("sys_image_guid", "a088:c203:0030:5b10"),
        ("tc/1/traffic_class", ""),
        ("ports/1/state", "4: ACTIVE"),
        ("ports/1/phys_state", "5: LinkUp"),
        ("ports/1/rate", "400 Gb/sec (4X NDR)"),
        ("ports/1/link_layer", "Ethernet"),
        ("ports/1/lid", "0x0"),
        ("ports/1/sm_lid", "0x0"),
        ("ports/1/lid_mask_count", "0"),
        ("ports/1/sm_sl", "0"),
        ("ports/1/cap_mask", "0x00010000"),
        ("ports/1/pkeys/0", "0xffff"),
    ] {
        tree.file(&format!("{dir}/{file}"), text)?;
    }
    // What we never read, and peers do: on a machine these are commands to the firmware.
    for counter in
        ["port_rcv_data", "port_xmit_data", "port_rcv_errors", "symbol_error", "link_downed", "port_xmit_wait"]
    {
        tree.file(&format!("{dir}/ports/1/counters/{counter}"), "0")?;
    }
    for counter in
        ["rx_write_requests", "out_of_sequence", "np_cnp_sent", "rp_cnp_handled", "lifespan", "rx_read_requests"]
    {
        tree.file(&format!("{dir}/ports/1/hw_counters/{counter}"), "0")?;
    }
    let port = format!("{dir}/ports/1");
    for index in 0..GIDS {
        // The rest is empty, and reading its attributes fails with EINVAL, so they are not there.
        let used = index < used;
        let value = match (used, index) {
            (true, 0 | 1) => format!("fe80:0000:0000:0000:a288:c2ff:fe00:{nic:04x}"),
            (true, _) => format!("0000:0000:0000:0000:0000:ffff:0a{nic:02x}:{:04x}", index / 2),
            (false, _) => "0000:0000:0000:0000:0000:0000:0000:0000".into(),
        };
        tree.file(&format!("{port}/gids/{index}"), &value)?;
        if used {
            let kind = if index % 2 == 0 { "IB/RoCE v1" } else { "RoCE v2" };
            tree.file(&format!("{port}/gid_attrs/types/{index}"), kind)?;
            tree.file(&format!("{port}/gid_attrs/ndevs/{index}"), &format!("eth{nic}"))?;
        }
    }
    Ok(())
}

struct Tree<'a> {
    root: &'a Path,
}

impl Tree<'_> {
    fn parent(&self, path: &str) -> Result<PathBuf> {
        let path = self.root.join(path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        Ok(path)
    }

    fn file(&self, path: &str, text: &str) -> Result<()> {
        fs::write(self.parent(path)?, format!("{text}\n"))
    }

    fn link(&self, path: &str, target: &str) -> Result<()> {
        let up = "../".repeat(path.matches('/').count());
        symlink(format!("{up}{target}"), self.parent(path)?)
    }

    /// A PCI function behind a switch, as its directory and its entry on the bus.
    fn function(
        &self,
        switch: usize,
        address: &str,
        slot: usize,
        vendor: u16,
        device: u16,
        class: u32,
    ) -> Result<String> {
        let root = 0x10 + 0x10 * switch;
        let path = format!(
            "sys/devices/pci0000:{root:02x}/0000:{root:02x}:01.0/0000:{:02x}:00.0/0000:{:02x}:{slot:02x}.0/{address}",
            root + 1,
            root + 2
        );
        for (file, text) in [
            ("vendor", format!("0x{vendor:04x}")),
            ("device", format!("0x{device:04x}")),
            ("class", format!("0x{class:06x}")),
            ("numa_node", (switch / 2).to_string()),
            ("current_link_speed", "32.0 GT/s PCIe".into()),
            ("max_link_speed", "32.0 GT/s PCIe".into()),
            ("current_link_width", "16".into()),
            ("max_link_width", "16".into()),
            ("iommu_group/type", "identity".into()),
        ] {
            self.file(&format!("{path}/{file}"), &text)?;
        }
        self.link(&format!("sys/bus/pci/devices/{address}"), &path)?;
        Ok(path)
    }
}
