//! The machines of `tests/fixtures`: what each was made to show, read back.

use std::{path::PathBuf, process::Command};

use policies::fabric::{
    DistanceLevel, Fact, Facts, Function, GidType, GpuVendor, LinkLayer, Memlock, NetnsMode, NodeType, PcieLink, Port,
    PortState, Problem, RdmaDevice, Topology,
};
use rstest::rstest;
use sysfs::{Cache, Root, survey, survey_with};

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures")
}

fn read(machine: &str) -> (Facts, Vec<Problem>) {
    let path = folder().join(machine);
    let found = survey(&Root::open(&path).expect("the fixture is there"));
    let by_hand = survey(&Root::open(&path).expect("the fixture is there").without_openat2());
    assert_eq!(found, by_hand, "openat2 and the fallback disagree on {machine}");
    let (root, mut cache) = (Root::open(&path).expect("the fixture is there"), Cache::new());
    for _ in 0..2 {
        assert_eq!(survey_with(&root, &mut cache), found, "the cache changes what is found on {machine}");
    }
    found
}

/// A machine on which nothing is broken.
fn sound(machine: &str) -> Facts {
    let (facts, problems) = read(machine);
    assert_eq!(problems, [], "{machine}");
    facts
}

fn devices(facts: &Facts) -> &[RdmaDevice] {
    facts.devices.known().expect("the devices are readable")
}

fn device<'a>(facts: &'a Facts, name: &str) -> &'a RdmaDevice {
    devices(facts).iter().find(|device| device.name == name).expect("the device is there")
}

fn port<'a>(facts: &'a Facts, name: &str) -> &'a Port {
    &device(facts, name).ports[0]
}

/// Index of the first RoCE v2 entry of an IPv4 address.
fn v2_ipv4(port: &Port) -> Option<u32> {
    let mut gids = port.gids.iter();
    gids.find(|gid| gid.kind == GidType::RoceV2 && gid.value.to_ipv4_mapped().is_some()).map(|gid| gid.index)
}

fn nearest(facts: &Facts) -> Vec<DistanceLevel> {
    let gpus = facts.gpus.known().expect("the GPUs are readable").iter();
    gpus.filter_map(|gpu| {
        let of_gpu = facts.distances.iter().filter(|distance| distance.gpu == gpu.pci);
        of_gpu.map(|distance| distance.level).min()
    })
    .collect()
}

/// Devices, GPUs, ACTIVE ports, topology, for every machine; each without a problem unless it was made to have them.
#[rstest]
#[case("amd-ionic", 2, 2, 2, Topology::Ok)]
#[case("azure-an-only", 1, 1, 1, Topology::Flat)]
#[case("azure-ib-an", 5, 4, 5, Topology::Flat)]
#[case("bnxt-ipv6-only", 2, 2, 2, Topology::Ok)]
#[case("bond", 1, 1, 1, Topology::Ok)]
#[case("cpu-only-ib", 2, 0, 2, Topology::Unknown)]
#[case("efa-k515", 4, 8, 4, Topology::Ok)]
#[case("efa-k617", 4, 8, 4, Topology::Ok)]
#[case("efa-k68", 4, 8, 4, Topology::Ok)]
#[case("ib-and-dark-ethernet", 2, 2, 1, Topology::Ok)]
#[case("ib-hdr-multiport", 2, 2, 2, Topology::Ok)]
#[case("ib-memlock-limited", 4, 4, 4, Topology::Ok)]
#[case("ib-ndr-gdr", 9, 8, 9, Topology::Ok)]
#[case("ib-no-gpudirect", 4, 4, 4, Topology::Ok)]
#[case("ib-no-sm", 4, 4, 0, Topology::Ok)]
#[case("ib-pkey", 2, 2, 2, Topology::Ok)]
#[case("ib-port-down", 4, 4, 3, Topology::Ok)]
#[case("ib-xdr-gb300", 3, 3, 3, Topology::Ok)]
#[case("infiniband-empty-dir", 0, 2, 0, Topology::Unknown)]
#[case("iwarp-irdma", 1, 1, 1, Topology::Ok)]
#[case("oke-ra-routes", 2, 2, 2, Topology::Ok)]
#[case("opa-hfi1", 1, 1, 1, Topology::Ok)]
#[case("p6-b200", 4, 2, 4, Topology::Ok)]
#[case("real-dirs", 1, 1, 1, Topology::Unknown)]
#[case("roce-down", 2, 2, 0, Topology::Ok)]
#[case("roce-gid3", 8, 8, 8, Topology::Ok)]
#[case("roce-gid5", 8, 8, 8, Topology::Ok)]
#[case("roce-irdma", 1, 1, 1, Topology::Ok)]
#[case("roce-linklocal-only", 2, 2, 2, Topology::Ok)]
#[case("roce-mixed-index", 4, 4, 4, Topology::Ok)]
#[case("roce-no-gid-attrs", 2, 2, 2, Topology::Ok)]
#[case("siw", 1, 2, 1, Topology::Unknown)]
#[case("soft-roce", 1, 2, 1, Topology::Unknown)]
#[case("soft-roce-old", 1, 0, 1, Topology::Unknown)]
#[case("sriov-128vf", 129, 1, 129, Topology::Ok)]
#[case("tcp-only", 0, 2, 0, Topology::Unknown)]
#[case("usnic", 1, 1, 1, Topology::Ok)]
#[case("vm-flat", 2, 2, 2, Topology::Flat)]
fn counts(
    #[case] machine: &str,
    #[case] nics: usize,
    #[case] gpus: usize,
    #[case] active: usize,
    #[case] topology: Topology,
) {
    let facts = sound(machine);
    assert_eq!(devices(&facts).len(), nics, "devices");
    assert_eq!(facts.gpus.known().map(Vec::len), Some(gpus), "GPUs");
    let ports = devices(&facts).iter().flat_map(|device| &device.ports);
    assert_eq!(ports.filter(|port| port.state == PortState::Active).count(), active, "ACTIVE ports");
    assert_eq!(facts.topology, topology);
    assert_eq!(facts.distances.is_empty(), topology != Topology::Ok, "distances are for trees that can be trusted");
}

#[test]
fn no_machine_is_forgotten() {
    let source = include_str!("fixtures.rs");
    for entry in std::fs::read_dir(folder()).expect("the folder is there") {
        let entry = entry.expect("an entry");
        let name = entry.file_name().into_string().expect("UTF-8");
        if entry.path().is_dir() && !name.starts_with("__") {
            assert!(source.contains(&format!("(\"{name}\"")), "{name} has no test here");
        }
    }
}

#[test]
fn the_trees_are_what_the_script_makes() {
    let output = Command::new("python3").arg(folder().join("make.py")).arg("--check").output();
    let output = output.expect("python3 is there after `make setup`");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn ib_ndr_gdr() {
    let facts = sound("ib-ndr-gdr");
    let rail = device(&facts, "mlx5_7");
    assert_eq!(rail.driver.as_deref(), Some("mlx5_core"));
    assert_eq!(rail.driver_version.as_deref(), Some("24.10-1.1.4"));
    assert_eq!(rail.pci.as_deref(), Some("0000:dc:00.0"));
    assert_eq!(rail.pci_path, ["pci0000:d9", "0000:d9:01.0", "0000:da:00.0", "0000:db:00.0"]);
    assert_eq!((rail.vendor, rail.device, rail.numa), (Some(0x15b3), Some(0x1021), Some(1)));
    assert_eq!((&rail.node_type, rail.function, rail.software), (&NodeType::Ca, Function::Physical, false));
    assert_eq!((rail.hca_type.as_deref(), rail.uverbs.as_deref()), (Some("MT4129"), Some("uverbs7")));
    assert_eq!(rail.management, Fact::Known(false));
    let port = &rail.ports[0];
    assert_eq!((&port.link_layer, port.rate_gbps), (&LinkLayer::InfiniBand, Some(400.0)));
    assert_eq!((port.lid, port.sm_lid, port.pkeys.as_slice()), (Some(0x48), Some(1), &[0xffff][..]));
    assert_eq!(port.gids[0].value.segments()[0], 0xfe80);
    assert_eq!(nearest(&facts), [DistanceLevel::Pix; 8]);
    assert_eq!(facts.memlock, Fact::Known(Memlock::Unlimited));
    assert!(
        facts.gpu_direct.nvidia_peermem.is_yes()
            && facts.gpu_direct.memory_peers.is_yes()
            && facts.gpu_direct.gdrdrv.is_yes()
    );
    assert_eq!(facts.gpu_direct.efa_nv_peermem, Fact::Known(false));
    assert_eq!(facts.default_route_netdevs, ["eno1"]);
    let management = device(&facts, "mlx5_8");
    assert_eq!((management.netdevs[0].name.as_str(), v2_ipv4(&management.ports[0])), ("eno1", Some(3)));
}

#[test]
fn gid_indexes() {
    let index =
        |machine: &str| devices(&sound(machine)).iter().map(|device| v2_ipv4(&device.ports[0])).collect::<Vec<_>>();
    assert_eq!(index("roce-gid3"), [Some(3); 8]);
    assert_eq!(index("roce-gid5"), [Some(5); 8]);
    assert_eq!(index("roce-mixed-index"), [Some(3), Some(3), Some(3), Some(5)]);
    for machine in ["bnxt-ipv6-only", "roce-linklocal-only", "roce-no-gid-attrs"] {
        assert!(index(machine).iter().all(Option::is_none), "{machine}");
    }
    let subnets = |machine: &str| sound(machine).subnets;
    let rails = |machine: &str| {
        subnets(machine).into_iter().filter(|subnet| subnet.netdev.starts_with("rdma")).collect::<Vec<_>>()
    };
    assert_eq!(rails("roce-gid3"), rails("roce-gid5"), "one fabric");
    let global = sound("bnxt-ipv6-only");
    assert_eq!(port(&global, "bnxt_re1").gids[3].value.to_string(), "fd00:20:0:1::14");
    assert_eq!(global.subnets.iter().filter(|subnet| subnet.prefix_len == 64).count(), 2);
}

#[test]
fn efa() {
    for (machine, kernel, peermem, open) in [
        ("efa-k515", "5.15.0-1072-aws", true, false),
        ("efa-k68", "6.8.0-1024-aws", false, true),
        ("efa-k617", "6.17.0-1004-aws", false, true),
    ] {
        let facts = sound(machine);
        assert_eq!(facts.kernel, Fact::Known(kernel.into()));
        for device in devices(&facts) {
            assert_eq!(
                (device.driver.as_deref(), device.vendor, device.device),
                (Some("efa"), Some(0x1d0f), Some(0xefa2))
            );
            assert_eq!(
                (&device.node_type, &device.ports[0].link_layer),
                (&NodeType::Unspecified, &LinkLayer::Unspecified)
            );
        }
        assert_eq!(facts.gpu_direct.efa_nv_peermem, Fact::Known(peermem));
        let driver = facts.gpu_direct.nvidia_driver.known().and_then(Option::as_ref).expect("a driver");
        assert_eq!(driver.open, open);
        assert_eq!(nearest(&facts), [DistanceLevel::Pix; 8]);
    }
}

#[test]
fn management_functions() {
    let facts = sound("p6-b200");
    let management: Vec<&str> =
        devices(&facts).iter().filter(|device| device.management.is_yes()).map(|device| device.name.as_str()).collect();
    assert_eq!(management, ["ibp37s0f0", "ibp37s0f1"]);
}

#[test]
fn azure() {
    let facts = sound("azure-ib-an");
    let front = device(&facts, "mlx5_an0");
    assert_eq!(
        (front.netdevs[0].master.as_deref(), front.netdevs[0].master_driver.as_deref()),
        (Some("eth0"), Some("hv_netvsc"))
    );
    assert_eq!(front.function, Function::Virtual, "by its device id: a guest sees no physfn");
    assert_eq!(device(&facts, "mlx5_3").pci.as_deref(), Some("0104:00:00.0"));
    assert_eq!(port(&facts, "mlx5_3").pkeys, [0x8029, 0x7fff]);
}

#[test]
fn other_kinds() {
    let kind = |machine: &str| devices(&sound(machine))[0].node_type.clone();
    assert_eq!(kind("iwarp-irdma"), NodeType::Rnic);
    assert_eq!(kind("roce-irdma"), NodeType::Ca);
    assert_eq!(kind("usnic"), NodeType::UsNicUdp);
    let facts = sound("opa-hfi1");
    assert_eq!((devices(&facts)[0].driver.as_deref(), port(&facts, "hfi1_0").lid), (Some("hfi1"), None), "32-bit LID");
    let facts = sound("amd-ionic");
    let gpus = facts.gpus.known().expect("GPUs");
    assert!(gpus.iter().all(|gpu| gpu.vendor == GpuVendor::Amd && gpu.driver.as_deref() == Some("amdgpu")));
    assert!(facts.gpu_direct.memory_peers.is_yes());
    assert_eq!(facts.gpu_direct.nvidia_driver, Fact::Known(None));
}

#[rstest]
#[case("soft-roce", true)]
#[case("soft-roce-old", true)]
#[case("siw", true)]
#[case("iwarp-irdma", false)]
#[case("roce-gid3", false)]
#[case("real-dirs", false)]
fn software_devices(#[case] machine: &str, #[case] software: bool) {
    let facts = sound(machine);
    assert!(devices(&facts).iter().all(|device| device.software == software));
    if software {
        let device = &devices(&facts)[0];
        assert_eq!((&device.driver, &device.pci, device.netdevs[0].name.as_str()), (&None, &None, "eth0"));
        assert_eq!(device.uverbs.as_deref(), Some("uverbs0"));
    }
}

#[test]
fn other_shapes() {
    let facts = sound("bond");
    assert_eq!(device(&facts, "mlx5_bond_0").netdevs[0].master.as_deref(), Some("bond0"));
    assert_eq!(port(&facts, "mlx5_bond_0").gids[3].netdev.as_deref(), Some("bond0"));

    let facts = sound("sriov-128vf");
    assert_eq!(devices(&facts).iter().filter(|device| device.function == Function::Virtual).count(), 128);
    assert_eq!(devices(&facts)[10].name, "mlx5_10", "natural order");

    let facts = sound("ib-hdr-multiport");
    let ports: Vec<_> =
        device(&facts, "mlx5_0").ports.iter().map(|port| (port.number, port.link_layer.clone())).collect();
    assert_eq!(ports, [(1, LinkLayer::InfiniBand), (2, LinkLayer::Ethernet)]);

    assert_eq!(port(&sound("ib-pkey"), "mlx5_0").pkeys, [0x7fff, 0x8005, 0x8010], "a hole does not end the table");

    let facts = sound("ib-xdr-gb300");
    assert_eq!(device(&facts, "mlx5_2").pci.as_deref(), Some("10000:03:00.0"));
    assert_eq!((port(&facts, "mlx5_2").rate_gbps, facts.netns_mode), (Some(800.0), Fact::Known(NetnsMode::Exclusive)));

    let facts = sound("oke-ra-routes");
    assert_eq!(facts.default_route_netdevs, ["eth0"], "IPv6 default routes by router advertisement say nothing");
}

#[test]
fn faults() {
    let facts = sound("ib-port-down");
    assert_eq!(
        (&port(&facts, "mlx5_2").state, port(&facts, "mlx5_2").phys_state.as_deref()),
        (&PortState::Down, Some("Polling"))
    );
    let facts = sound("ib-no-sm");
    assert_eq!((&port(&facts, "mlx5_0").state, port(&facts, "mlx5_0").sm_lid), (&PortState::Init, Some(0)));
    let driver = sound("ib-no-gpudirect").gpu_direct;
    assert_eq!(driver.nvidia_driver.known().and_then(Option::as_ref).map(|driver| driver.open), Some(false));
    assert_eq!(driver.nvidia_peermem, Fact::Known(false));
    assert_eq!(sound("ib-memlock-limited").memlock, Fact::Known(Memlock::Limited(8_388_608)));
    let plain = sound("real-dirs");
    assert_eq!(
        (devices(&plain)[0].driver.as_deref(), devices(&plain)[0].pci.as_deref()),
        (Some("mlx5_core"), Some("0000:18:00.0"))
    );
    assert!(matches!(plain.memlock, Fact::Unknown(_)), "no container runtime");
}

#[test]
fn garbled() {
    let (facts, problems) = read("garbled");
    assert_eq!(port(&facts, "mlx5_0").state, PortState::Active, "the good device is as good as ever");
    let bad = device(&facts, "mlx5_1");
    assert_eq!((bad.vendor, bad.numa, &bad.node_type, &bad.firmware), (None, None, &NodeType::Unknown, &None));
    assert_eq!(bad.ports[0].state, PortState::Other("9: CONFUSED".into()), "an unknown word is kept");
    assert_eq!(bad.ports[0].link_layer, LinkLayer::Other("Pigeon".into()));
    assert_eq!(bad.ports[0].gids.len(), 1);
    assert_eq!(bad.ports[0].gids[0].kind, GidType::Other("RoCE v9".into()));
    assert!(matches!(facts.kernel, Fact::Unknown(_)));
    assert!(matches!(facts.memlock, Fact::Unknown(_)));
    assert!(matches!(facts.numa_nodes, Fact::Unknown(_)));
    assert!(matches!(facts.netns_mode, Fact::Unknown(_)));
    assert!(matches!(facts.gpu_direct.nvidia_driver, Fact::Unknown(_)));
    let code = |code: &str| problems.iter().filter(|problem| problem.code == code).count();
    assert_eq!((code("Garbled"), code("Unreadable")), (15, 1), "{problems:#?}");
    assert!(problems.iter().all(|problem| problem.subject.starts_with('/') && !problem.remedy.is_empty()));
}

#[test]
fn pcie_links() {
    let facts = sound("ib-ndr-gdr");
    let full = PcieLink { speed_gts: Some(32.0), max_speed_gts: Some(32.0), width: Some(16), max_width: Some(16) };
    assert_eq!(device(&facts, "mlx5_0").pcie, Some(full));
    let gpu = facts.gpus.known().expect("GPUs")[0].pcie.expect("a link");
    assert!(gpu.is_slow() && !gpu.is_narrow(), "an idle GPU");
    assert_eq!(device(&facts, "mlx5_8").pcie, None, "no files, no problem");
    let facts = sound("ib-port-down");
    let narrow: Vec<&str> = devices(&facts)
        .iter()
        .filter(|device| device.pcie.is_some_and(|link| link.is_narrow() && link.is_slow()))
        .map(|device| device.name.as_str())
        .collect();
    assert_eq!(narrow, ["mlx5_3"]);
}

#[test]
fn iommu_and_acs() {
    let facts = sound("ib-ndr-gdr");
    let identity = Fact::Known(Some("identity".to_owned()));
    assert_eq!((&device(&facts, "mlx5_0").iommu, &facts.gpus.known().expect("GPUs")[7].iommu), (&identity, &identity));
    assert_eq!(device(&facts, "mlx5_8").iommu, Fact::Known(None), "in no group");
    assert_eq!(facts.iommu_parameters, Fact::Known(vec!["intel_iommu=on".into(), "iommu=pt".into()]));
    assert!(matches!(&facts.acs_redirects, Fact::Unknown(why) if why.contains("config")), "{:?}", facts.acs_redirects);
    let facts = sound("bond");
    assert_eq!(facts.acs_redirects, Fact::Known(vec!["0000:17:00.0".into()]));
    assert_eq!(facts.iommu_parameters, Fact::Known(vec![]));
    assert_eq!(sound("cpu-only-ib").acs_redirects, Fact::Known(vec![]), "no GPU");
    let facts = sound("ib-xdr-gb300");
    assert_eq!(facts.gpus.known().expect("GPUs")[0].iommu, Fact::Known(Some("DMA-FQ".into())));
}

#[test]
fn what_drivers_add() {
    assert_eq!(sound("ib-xdr-gb300").imex_channels, Fact::Known(vec![0, 1, 10]));
    assert_eq!(sound("ib-ndr-gdr").imex_channels, Fact::Known(vec![]));
    let facts = sound("sriov-128vf");
    let functions: Vec<Option<u32>> = devices(&facts).iter().map(|device| device.virtual_functions).collect();
    assert_eq!((functions[0], functions.iter().flatten().count()), (Some(128), 1));
    let facts = sound("roce-gid3");
    let class: Vec<Option<u8>> = devices(&facts).iter().map(|device| device.ports[0].traffic_class).collect();
    assert_eq!(class, [Some(106), None, None, None, None, None, None, None]);
    let boots: Vec<Fact<String>> = ["roce-gid3", "roce-gid5"].map(|machine| sound(machine).boot_id).into();
    assert!(boots[0].known().is_some() && boots[0] != boots[1]);

    let facts = sound("efa-k68");
    let efa = device(&facts, "rdmap79s0").efa.as_ref().expect("an EFA device");
    assert_eq!(efa.generation.as_deref(), Some("efa2"));
    assert!(efa.counts_reads.is_yes() && efa.counts_writes.is_yes());
    assert!(matches!(&efa.rdma_read, Fact::Unknown(why) if why.contains("efadv_query_device")));
    assert_eq!(device(&facts, "rdmap79s0").driver_version.as_deref(), Some("2.13.0"));
    let facts = sound("p6-b200");
    let generations: Vec<Option<&str>> =
        devices(&facts).iter().map(|device| device.efa.as_ref().and_then(|efa| efa.generation.as_deref())).collect();
    assert_eq!(generations, [None, None, Some("efa3"), Some("efa3")]);
}
