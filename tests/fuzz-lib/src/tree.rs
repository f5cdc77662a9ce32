//! A tree of files from arbitrary bytes: mostly paths and texts that a kernel could make, in combinations that none does.

use std::{fs, os::unix::fs::symlink, path::Path};

use arbitrary::Arbitrary;

/// A machine: one of a few sound devices to start from, and what is then done to it.
#[derive(Debug, Arbitrary)]
pub struct Machine {
    base: [Kind; 2],
    steps: Vec<Step>,
}

#[derive(Debug, Clone, Copy, Arbitrary)]
enum Kind {
    Nothing,
    InfiniBand,
    Roce,
    Efa,
    Soft,
}

#[derive(Debug, Arbitrary)]
enum Step {
    Write(Spot, Text),
    WriteRaw(Spot, Vec<u8>),
    Repeat(Spot, Text, u8),
    Link(Spot, Spot),
    LinkUp(Spot, u8, Spot),
    LinkAbsolute(Spot, Spot),
    Directory(Spot),
    Fifo(Spot),
    Remove(Spot),
}

/// A path: one of the patterns below with its placeholders filled.
#[derive(Debug, Arbitrary)]
struct Spot {
    pattern: u8,
    device: u8,
    address: u8,
    number: u8,
    child: Option<u8>,
}

/// One of the texts below, or two joined.
#[derive(Debug, Arbitrary)]
struct Text {
    first: u8,
    second: Option<u8>,
    newline: bool,
}

/// `{d}` is a device, `{a}` a PCI address, `{n}` a number.
const PATTERNS: &[&str] = &[
    "sys",
    "proc",
    "dev",
    "etc/os-release",
    "usr/lib/os-release",
    "sys/class/infiniband",
    "sys/class/infiniband/{d}",
    "sys/class/infiniband/{d}/node_type",
    "sys/class/infiniband/{d}/node_desc",
    "sys/class/infiniband/{d}/parent",
    "sys/class/infiniband/{d}/fw_ver",
    "sys/class/infiniband/{d}/board_id",
    "sys/class/infiniband/{d}/device",
    "sys/class/infiniband/{d}/device/uevent",
    "sys/class/infiniband/{d}/device/vendor",
    "sys/class/infiniband/{d}/device/device",
    "sys/class/infiniband/{d}/device/driver",
    "sys/class/infiniband/{d}/device/physfn",
    "sys/class/infiniband/{d}/device/vpd",
    "sys/class/infiniband/{d}/device/net/eth{n}",
    "sys/class/infiniband/{d}/device/net/eth{n}/mtu",
    "sys/class/infiniband/{d}/hw_counters/rdma_read_bytes",
    "sys/class/infiniband/{d}/ports",
    "sys/class/infiniband/{d}/ports/{n}",
    "sys/class/infiniband/{d}/ports/{n}/state",
    "sys/class/infiniband/{d}/ports/{n}/phys_state",
    "sys/class/infiniband/{d}/ports/{n}/link_layer",
    "sys/class/infiniband/{d}/ports/{n}/rate",
    "sys/class/infiniband/{d}/ports/{n}/lid",
    "sys/class/infiniband/{d}/ports/{n}/sm_lid",
    "sys/class/infiniband/{d}/ports/1/gids",
    "sys/class/infiniband/{d}/ports/1/gids/{n}",
    "sys/class/infiniband/{d}/ports/1/gid_attrs/types/{n}",
    "sys/class/infiniband/{d}/ports/1/gid_attrs/ndevs/{n}",
    "sys/class/infiniband/{d}/ports/1/pkeys/{n}",
    "sys/class/infiniband/{d}/tc/{n}/traffic_class",
    "sys/class/infiniband_verbs/uverbs{n}/ibdev",
    "dev/infiniband/uverbs{n}",
    "dev/gdrdrv",
    "dev/nvidia-caps-imex-channels/channel{n}",
    "sys/class/net/eth{n}",
    "sys/class/net/eth{n}/master",
    "sys/class/net/eth{n}/device/driver",
    "sys/class/net/eth{n}/operstate",
    "sys/bus/pci/devices",
    "sys/bus/pci/devices/{a}",
    "sys/bus/pci/devices/{a}/class",
    "sys/bus/pci/devices/{a}/vendor",
    "sys/bus/pci/devices/{a}/device",
    "sys/bus/pci/devices/{a}/numa_node",
    "sys/bus/pci/devices/{a}/driver",
    "sys/bus/pci/devices/{a}/config",
    "sys/bus/pci/devices/{a}/iommu_group",
    "sys/bus/pci/devices/{a}/iommu_group/type",
    "sys/bus/pci/devices/{a}/current_link_speed",
    "sys/bus/pci/devices/{a}/max_link_width",
    "sys/devices/pci0000:00/0000:00:01.0/{a}",
    "sys/devices/pci0000:00/0000:00:01.0/0000:01:00.0/{a}",
    "sys/devices/pci0000:00/0000:00:01.0/0000:01:00.0/{a}/infiniband/{d}",
    "sys/devices/virtual/infiniband/{d}",
    "sys/devices/system/node/online",
    "sys/module/ib_core/parameters/netns_mode",
    "sys/module/nvidia_peermem",
    "sys/module/efa_nv_peermem",
    "sys/module/mlx5_core/version",
    "sys/kernel/mm/memory_peers/nv_mem",
    "proc/sys/kernel/osrelease",
    "proc/sys/kernel/random/boot_id",
    "proc/cmdline",
    "proc/driver/nvidia/version",
    "proc/net/route",
    "proc/net/if_inet6",
    "proc/net/ipv6_route",
    "proc/1/net/route",
    "proc/1/task/1/children",
    "proc/{n}/comm",
    "proc/{n}/limits",
];

const DEVICES: &[&str] = &[
    "mlx5_0",
    "mlx5_1",
    "mlx5_10",
    "rxe0",
    "rdmap79s0",
    "siw0",
    "name with blanks",
    "Ünïcode,:=^",
    "-.-",
    "\u{1b}[31m",
];

const ADDRESSES: &[&str] = &[
    "0000:02:00.0",
    "0000:03:00.0",
    "10000:04:00.0",
    "0000:01:00.0",
    "0000:00:01.0",
    "not an address",
    "0000:02:00.9",
];

const TEXTS: &[&str] = &[
    "",
    "0",
    "1",
    "-1",
    "16",
    "4294967296",
    "1: CA",
    "4: RNIC",
    "7: unspecified",
    "6: usNIC UDP",
    "2: switch",
    "4: ACTIVE",
    "1: DOWN",
    "2: INIT",
    "9: CONFUSED",
    "5: LinkUp",
    "InfiniBand",
    "Ethernet",
    "Unknown",
    "Pigeon",
    "400 Gb/sec (4X NDR)",
    "2.5 Gb/sec (1X SDR)",
    "1e300 Gb/sec",
    "IB/RoCE v1",
    "RoCE v2",
    "fe80:0000:0000:0000:a088:c2ff:fe30:5b10",
    "0000:0000:0000:0000:0000:ffff:0a14:000b",
    "0000:0000:0000:0000:0000:ffff:0a14:010c",
    "fd00:0020:0000:0000:0000:0000:0000:0014",
    "0000:0000:0000:0000:0000:0000:0000:0000",
    "0x15b3",
    "0x1021",
    "0x101e",
    "0x1d0f",
    "0xefa2",
    "0x10de",
    "0x1002",
    "0x2330",
    "0x030200",
    "0x120000",
    "0x020700",
    "0xffff",
    "0x8005",
    "0x7fff",
    "eth0",
    "eth1",
    "mlx5_0",
    "rdmap79s0",
    "rxe",
    "DRIVER=mlx5_core\nPCI_ID=15B3:1021\nPCI_SLOT_NAME=0000:02:00.0",
    "DRIVER=efa\nPCI_SLOT_NAME=0000:03:00.0",
    "SMDL=SW_MNG",
    "0-1",
    "0-4294967295",
    "Y",
    "N",
    "6.8.0-45-generic",
    "5.4.0",
    "6.8",
    "6d1ea8a0-7f0d-4d3a-9d3e-7d2f0a1b2c3d",
    "ro iommu=pt password=secret",
    "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release Build",
    "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Wed",
    "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\neth0\t00000000\t0100000A\t0003\t0\t0\t0\t00000000\t0\t0\t0\neth1\t0000140A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0",
    "fd002000000000000000000000000014 02 40 00 80     eth1",
    "00000000000000000000000000000000 00 00000000000000000000000000000000 00 fe800000000000000000000000000001 00000400 00000002 00000000 00450003     eth0",
    "containerd",
    "dockerd",
    "Max locked memory         unlimited            unlimited            bytes",
    "Max locked memory         8388608              8388608              bytes",
    "PRETTY_NAME=\"Ubuntu 24.04.1 LTS\"",
    "identity",
    "DMA-FQ",
    "32.0 GT/s PCIe",
    "Unknown speed",
    "Global tclass=106",
    "mtu",
    "9000",
    "1 2 3 40",
    "\u{fffd}\u{1b}[31m",
];

fn pick<'a>(list: &[&'a str], index: u8) -> &'a str {
    list[usize::from(index) % list.len()]
}

impl Spot {
    fn path(&self) -> String {
        let mut path = pick(PATTERNS, self.pattern)
            .replace("{d}", pick(DEVICES, self.device))
            .replace("{a}", pick(ADDRESSES, self.address))
            .replace("{n}", &(self.number % 12).to_string());
        if let Some(child) = self.child {
            path.push('/');
            path.push_str(pick(TEXTS, child).split('/').next().unwrap_or_default());
        }
        path
    }
}

impl Text {
    fn text(&self) -> String {
        let mut text = pick(TEXTS, self.first).to_owned();
        if let Some(second) = self.second {
            text.push_str(pick(TEXTS, second));
        }
        if self.newline {
            text.push('\n');
        }
        text
    }
}

impl Machine {
    /// Writes it below `root`. What cannot be written, because a file is in the way or the name is none, is left out.
    pub fn write(&self, root: &Path) {
        for (index, kind) in self.base.into_iter().enumerate() {
            base(root, kind, index);
        }
        for step in self.steps.iter().take(64) {
            step.apply(root);
        }
    }
}

impl Step {
    fn apply(&self, root: &Path) {
        match self {
            Self::Write(spot, text) => put(root, &spot.path(), text.text().as_bytes()),
            Self::WriteRaw(spot, bytes) => put(root, &spot.path(), bytes),
            Self::Repeat(spot, text, times) => {
                put(root, &spot.path(), text.text().repeat(usize::from(*times) * 64).as_bytes());
            }
            Self::Link(spot, target) => {
                let spot = spot.path();
                let up = "../".repeat(spot.matches('/').count());
                link(root, &spot, &format!("{up}{}", target.path()));
            }
            Self::LinkUp(spot, levels, target) => {
                link(root, &spot.path(), &format!("{}{}", "../".repeat(usize::from(*levels)), target.path()));
            }
            Self::LinkAbsolute(spot, target) => link(root, &spot.path(), &format!("/{}", target.path())),
            Self::Directory(spot) => {
                if let Some(path) = inside(root, &spot.path()) {
                    let _ = fs::create_dir_all(path);
                }
            }
            Self::Fifo(spot) => {
                if let Some(path) = inside(root, &spot.path()) {
                    let (kind, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR);
                    let _ = rustix::fs::mknodat(rustix::fs::CWD, path, kind, mode, 0);
                }
            }
            Self::Remove(spot) => {
                if let Some(path) = inside(root, &spot.path()) {
                    let _ = fs::remove_file(&path).or_else(|_| fs::remove_dir_all(&path));
                }
            }
        }
    }
}

/// The path below `root`, its directories made, unless a link on the way leads out: the fuzzer must not write there.
fn inside(root: &Path, path: &str) -> Option<std::path::PathBuf> {
    let full = root.join(path);
    let mut here = root.to_owned();
    for part in Path::new(path).parent()?.components() {
        here.push(part);
        let link = fs::symlink_metadata(&here).is_ok_and(|found| found.is_symlink());
        if link && !fs::canonicalize(&here).is_ok_and(|real| real.starts_with(root)) {
            return None;
        }
        if !here.exists() {
            fs::create_dir(&here).ok()?;
        }
    }
    Some(full)
}

fn put(root: &Path, path: &str, text: &[u8]) {
    let Some(path) = inside(root, path) else { return };
    // Not through a link, and not into a FIFO, which would wait for a reader.
    if fs::symlink_metadata(&path).is_ok_and(|found| !found.is_file()) {
        return;
    }
    let _ = fs::write(path, text);
}

fn link(root: &Path, path: &str, target: &str) {
    if let Some(path) = inside(root, path) {
        let _ = fs::remove_file(&path);
        let _ = symlink(target, path);
    }
}

fn base(root: &Path, kind: Kind, index: usize) {
    let (name, layer, node_type, vendor, device) = match kind {
        Kind::Nothing => return,
        Kind::InfiniBand => (["mlx5_0", "mlx5_1"][index], "InfiniBand", "1: CA", "0x15b3", "0x1021"),
        Kind::Roce => (["mlx5_0", "mlx5_1"][index], "Ethernet", "1: CA", "0x15b3", "0x1021"),
        Kind::Efa => (["rdmap79s0", "mlx5_10"][index], "Unknown", "7: unspecified", "0x1d0f", "0xefa2"),
        Kind::Soft => (["rxe0", "siw0"][index], "Ethernet", "1: CA", "", ""),
    };
    let address = ADDRESSES[index];
    let gpu = ADDRESSES[2 - index * 2];
    let switch = "sys/devices/pci0000:00/0000:00:01.0/0000:01:00.0";
    let (pci, hardware) = (format!("{switch}/{address}"), !vendor.is_empty());
    let dir =
        if hardware { format!("{pci}/infiniband/{name}") } else { format!("sys/devices/virtual/infiniband/{name}") };
    for (path, text) in [
        (format!("{dir}/node_type"), node_type),
        (format!("{dir}/fw_ver"), "28.39.1002"),
        (format!("{dir}/ports/1/state"), "4: ACTIVE"),
        (format!("{dir}/ports/1/link_layer"), layer),
        (format!("{dir}/ports/1/rate"), "400 Gb/sec (4X NDR)"),
        (format!("{dir}/ports/1/gids/0"), "fe80:0000:0000:0000:a088:c2ff:fe30:5b10"),
        (format!("{dir}/ports/1/gids/3"), "0000:0000:0000:0000:0000:ffff:0a14:000b"),
        (format!("{dir}/ports/1/gid_attrs/types/3"), "RoCE v2"),
        (format!("{switch}/{gpu}/class"), "0x030200"),
        (format!("{switch}/{gpu}/vendor"), "0x10de"),
        ("proc/sys/kernel/osrelease".into(), "6.8.0-45-generic"),
    ] {
        put(root, &path, text.as_bytes());
    }
    link(root, &format!("sys/class/infiniband/{name}"), &format!("../../../{dir}"));
    link(root, &format!("sys/bus/pci/devices/{gpu}"), &format!("../../../../{switch}/{gpu}"));
    if hardware {
        put(root, &format!("{pci}/vendor"), vendor.as_bytes());
        put(root, &format!("{pci}/device"), device.as_bytes());
        link(root, &format!("{dir}/device"), "../..");
        link(root, &format!("sys/bus/pci/devices/{address}"), &format!("../../../../{pci}"));
    }
}
