//! Trees that no kernel makes: the survey returns, quickly, with what is readable and a problem for what is not.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use policies::fabric::{Fact, Facts, LinkLayer, PortState, Problem};
use sysfs::{Cache, Content, Listing, Root, Trouble, survey, survey_with};

fn write(root: &Path, path: &str, text: impl AsRef<[u8]>) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().expect("a parent")).expect("directories");
    fs::write(path, text).expect("a file");
}

fn link(root: &Path, path: &str, target: &str) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().expect("a parent")).expect("directories");
    symlink(target, path).expect("a link");
}

fn fifo(root: &Path, path: &str) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().expect("a parent")).expect("directories");
    let kind = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, &path, kind, rustix::fs::Mode::RUSR, 0).expect("a FIFO");
}

/// One good InfiniBand device, in a tree that a test then breaks.
fn tree() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    device(dir.path(), "mlx5_0");
    write(dir.path(), "proc/sys/kernel/osrelease", "6.8.0\n");
    dir
}

fn device(root: &Path, name: &str) {
    let base = format!("sys/class/infiniband/{name}");
    for (file, text) in [
        ("node_type", "1: CA"),
        ("ports/1/state", "4: ACTIVE"),
        ("ports/1/link_layer", "InfiniBand"),
        ("ports/1/rate", "400 Gb/sec (4X NDR)"),
        ("ports/1/gids/0", "fe80:0000:0000:0000:0000:0000:0000:0001"),
    ] {
        write(root, &format!("{base}/{file}"), text);
    }
}

/// Both ways of resolving paths, each within a time that no bounded survey needs.
fn survey_both(root: &Path) -> (Facts, Vec<Problem>) {
    let start = Instant::now();
    let found = survey(&Root::open(root).expect("a root"));
    let by_hand = survey(&Root::open(root).expect("a root").without_openat2());
    assert!(start.elapsed() < Duration::from_secs(20), "took {:?}", start.elapsed());
    assert_eq!(found, by_hand, "openat2 and the fallback disagree");
    found
}

fn subjects(problems: &[Problem]) -> Vec<&str> {
    problems.iter().map(|problem| problem.subject.as_str()).collect()
}

fn port_state(facts: &Facts) -> &PortState {
    &facts.devices.known().expect("devices")[0].ports[0].state
}

const STATE: &str = "sys/class/infiniband/mlx5_0/ports/1/state";

#[test]
fn an_empty_root_says_so() {
    let dir = tempfile::tempdir().expect("a directory");
    let (facts, problems) = survey_both(dir.path());
    assert_eq!(facts.devices, Fact::Known(vec![]));
    assert_eq!(subjects(&problems), ["/sys"]);
    assert!(Root::open(dir.path().join("absent")).is_err());
}

#[test]
fn binary_empty_and_huge_files() {
    for (content, state) in [
        (vec![0xff_u8; 64], PortState::Unknown),
        (Vec::new(), PortState::Unknown),
        (b" \n".to_vec(), PortState::Unknown),
        (vec![b'4'; 10 * 1024 * 1024], PortState::Unknown),
        (b"7: MAYBE\n".to_vec(), PortState::Other("7: MAYBE".into())),
    ] {
        let dir = tree();
        write(dir.path(), STATE, content);
        let (facts, problems) = survey_both(dir.path());
        assert_eq!(port_state(&facts), &state);
        assert_eq!(problems.is_empty(), state != PortState::Unknown, "{problems:?}");
        for problem in &problems {
            assert_eq!(
                (problem.code.as_str(), problem.subject.as_str()),
                ("Garbled", "/sys/class/infiniband/mlx5_0/ports/1/state")
            );
            assert!(problem.message.len() < 200, "the message repeats the file");
        }
    }
}

#[test]
fn a_huge_file_is_read_in_part() {
    let dir = tempfile::tempdir().expect("a directory");
    write(dir.path(), "sys/huge", vec![b'x'; 10 * 1024 * 1024]);
    let root = Root::open(dir.path()).expect("a root");
    assert!(matches!(root.read("sys/huge"), Content::Text(text) if text.len() == 64 * 1024));
    assert_eq!(root.read_bytes("sys/huge", 100).map(|bytes| bytes.len()), Ok(100));
    assert_eq!(root.read_bytes("/sys/huge", 5000).map(|bytes| bytes.len()), Ok(5000));
}

#[test]
fn files_for_directories_and_directories_for_files() {
    let dir = tree();
    fs::remove_file(dir.path().join(STATE)).expect("removed");
    write(dir.path(), &format!("{STATE}/inside"), "4: ACTIVE");
    write(dir.path(), "sys/class/infiniband/mlx5_1", "a file");
    write(dir.path(), "sys/bus/pci/devices", "a file");
    write(dir.path(), "proc/net/route/inside", "");
    let (facts, problems) = survey_both(dir.path());
    assert_eq!(port_state(&facts), &PortState::Unknown);
    assert!(matches!(&facts.gpus, Fact::Unknown(why) if why.contains("/sys/bus/pci/devices")), "{:?}", facts.gpus);
    assert_eq!(
        subjects(&problems),
        [
            "/sys/class/infiniband/mlx5_1",
            "/proc/net/route",
            "/sys/bus/pci/devices",
            "/sys/class/infiniband/mlx5_0/ports/1/state",
        ]
    );
}

#[test]
fn a_class_that_is_a_file_is_unknown_and_not_empty() {
    let dir = tempfile::tempdir().expect("a directory");
    write(dir.path(), "sys/class/infiniband", "");
    let (facts, _) = survey_both(dir.path());
    assert!(matches!(facts.devices, Fact::Unknown(_)));
}

#[test]
fn devices_that_all_point_nowhere_are_unknown_and_not_absent() {
    let dir = tempfile::tempdir().expect("a directory");
    link(dir.path(), "sys/class/infiniband/mlx5_0", "../../devices/pci0000:00/0000:00:01.0/infiniband/mlx5_0");
    let (facts, problems) = survey_both(dir.path());
    assert!(matches!(facts.devices, Fact::Unknown(_)), "a node with RDMA hardware must not become a TCP node");
    assert_eq!(subjects(&problems), ["/sys/class/infiniband/mlx5_0"]);
}

#[test]
fn fifos_and_loops_do_not_hang() {
    let dir = tree();
    fs::remove_file(dir.path().join(STATE)).expect("removed");
    fifo(dir.path(), STATE);
    fifo(dir.path(), "sys/class/infiniband/mlx5_0/ports/1/gids/1");
    fifo(dir.path(), "proc/42/comm");
    fifo(dir.path(), "sys/class/infiniband/fifo");
    link(dir.path(), "sys/class/infiniband/loop", "loop");
    link(dir.path(), "sys/class/infiniband/ping", "pong");
    link(dir.path(), "sys/class/infiniband/pong", "ping");
    link(dir.path(), "sys/class/infiniband/mlx5_0/ports/2", "../ports");
    let (facts, problems) = survey_both(dir.path());
    assert_eq!(port_state(&facts), &PortState::Unknown);
    assert_eq!(facts.devices.known().map(Vec::len), Some(1));
    assert_eq!(problems.len(), 6, "{problems:#?}");
}

#[test]
fn no_link_leaves_the_root() {
    let outside = tempfile::tempdir().expect("a directory");
    write(outside.path(), "state", "4: ACTIVE");
    let dir = tree();
    fs::remove_file(dir.path().join(STATE)).expect("removed");
    link(dir.path(), STATE, outside.path().join("state").to_str().expect("UTF-8"));
    let up = "../".repeat(64) + outside.path().join("state").to_str().expect("UTF-8").trim_start_matches('/');
    link(dir.path(), "sys/class/infiniband/mlx5_0/fw_ver", &up);
    link(
        dir.path(),
        "sys/class/infiniband/mlx5_0/ports/1/gids/1",
        outside.path().join("state").to_str().expect("UTF-8"),
    );
    let (facts, problems) = survey_both(dir.path());
    assert_eq!(port_state(&facts), &PortState::Unknown);
    assert_eq!(facts.devices.known().and_then(|devices| devices[0].firmware.clone()), None);
    assert!(problems.is_empty(), "nothing is there, inside: {problems:?}");
}

#[test]
fn absolute_links_start_at_the_root() {
    let dir = tree();
    link(dir.path(), "sys/class/infiniband/mlx5_1", "/sys/class/infiniband/mlx5_0");
    link(dir.path(), "sys/class/infiniband/mlx5_0/device", "/../../sys/devices/pci0000:00/0000:00:01.0");
    write(dir.path(), "sys/devices/pci0000:00/0000:00:01.0/vendor", "0x15b3");
    let (facts, problems) = survey_both(dir.path());
    let devices = facts.devices.known().expect("devices");
    assert_eq!(devices.iter().map(|device| device.name.as_str()).collect::<Vec<_>>(), ["mlx5_0", "mlx5_1"]);
    assert!(
        devices.iter().all(|device| device.pci.as_deref() == Some("0000:00:01.0") && device.vendor == Some(0x15b3))
    );
    assert!(problems.is_empty(), "{problems:?}");
}

#[test]
fn permission_denied_is_unknown_with_a_problem() {
    // In a thread that may not read everything: root, as which CI often runs, may. The thread's ids end with it.
    let body = || {
        if rustix::process::geteuid().is_root() {
            rustix::thread::set_thread_uid(rustix::process::Uid::from_raw(65534)).expect("root may become nobody");
        }
        permission_denied();
    };
    std::thread::scope(|scope| scope.spawn(body).join()).expect("the thread's assertions hold");
}

fn permission_denied() {
    let dir = tree();
    let lock =
        |path: &str| fs::set_permissions(dir.path().join(path), fs::Permissions::from_mode(0o000)).expect("locked");
    write(dir.path(), "sys/class/infiniband/mlx5_0/device/vpd", "SMDL=SW_MNG");
    lock("sys/class/infiniband/mlx5_0/device/vpd");
    lock(STATE);
    let (facts, problems) = survey_both(dir.path());
    assert_eq!(port_state(&facts), &PortState::Unknown);
    assert!(matches!(facts.devices.known().expect("devices")[0].management, Fact::Unknown(_)));
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(problems.iter().all(|problem| problem.code == "Unreadable"));
    lock("sys/class/infiniband");
    let (facts, _) = survey_both(dir.path());
    assert!(matches!(facts.devices, Fact::Unknown(_)));
    fs::set_permissions(dir.path().join("sys/class/infiniband"), fs::Permissions::from_mode(0o755)).expect("unlocked");
}

#[test]
fn a_directory_with_too_many_entries_is_cut() {
    let dir = tempfile::tempdir().expect("a directory");
    for index in 0..4200 {
        write(dir.path(), &format!("many/{index}"), "");
    }
    let root = Root::open(dir.path()).expect("a root");
    let Listing::Entries { names, truncated } = root.list("many") else { panic!("not listed") };
    assert_eq!((names.len(), truncated), (4096, true));
    assert_eq!(root.list("absent"), Listing::Absent);
    assert_eq!(root.list("many/0"), Listing::Unreadable(Trouble::NotADirectory));
}

#[test]
fn problems_are_bounded() {
    let dir = tree();
    for index in 0..300 {
        write(dir.path(), &format!("sys/class/infiniband/mlx5_0/ports/1/gids/{index}"), "nonsense");
    }
    let (_, problems) = survey_both(dir.path());
    assert_eq!(problems.len(), 201);
    assert!(problems.last().is_some_and(|last| last.message.starts_with("100 further")), "{:?}", problems.last());
}

#[test]
fn a_tree_that_vanishes_meanwhile() {
    let dir = tree();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let _ = fs::remove_dir_all(dir.path().join("sys/class/infiniband/mlx5_1"));
                device(dir.path(), "mlx5_1");
            }
        });
        for _ in 0..200 {
            let (facts, _) = survey(&Root::open(dir.path()).expect("a root"));
            let devices = facts.devices.known().expect("the other device is always there");
            assert_eq!(devices[0].ports[0].link_layer, LinkLayer::InfiniBand);
        }
        stop.store(true, Ordering::Relaxed);
    });
}

#[test]
fn nonsense_in_what_is_seldom_there() {
    let dir = tree();
    let device = "sys/devices/pci0000:00/0000:00:01.0/0000:01:00.0/0000:02:00.0/0000:03:00.0";
    let gpu = "sys/devices/pci0000:00/0000:00:01.0/0000:01:00.0/0000:02:01.0/0000:04:00.0";
    link(dir.path(), "sys/class/infiniband/mlx5_0/device", &format!("../../../../{device}"));
    link(dir.path(), "sys/bus/pci/devices/0000:04:00.0", &format!("../../../../{gpu}"));
    link(dir.path(), "sys/bus/pci/devices/0000:01:00.0", "../../../devices/pci0000:00/0000:00:01.0/0000:01:00.0");
    for (path, text) in [
        ("proc/sys/kernel/random/boot_id", "yes\n".to_owned()),
        ("proc/cmdline", "iommu=\u{1}\n".into()),
        ("sys/class/infiniband/mlx5_0/tc/1/traffic_class", "Global tclass=many".into()),
        (&format!("{device}/sriov_numvfs"), "-1".into()),
        (&format!("{device}/current_link_speed"), "fast".into()),
        (&format!("{device}/max_link_width"), "x16".into()),
        (&format!("{device}/iommu_group/type"), "\u{0}".into()),
        (&format!("{gpu}/class"), "0x030200".into()),
        (&format!("{gpu}/vendor"), "0x10de".into()),
        ("sys/bus/pci/devices/0000:01:00.0/config", "\u{ff}".repeat(4096)),
        ("dev/nvidia-caps-imex-channels/channel-1", String::new()),
        ("dev/nvidia-caps-imex-channels/channel99999999999", String::new()),
    ] {
        write(dir.path(), path, text);
    }
    let (facts, problems) = survey_both(dir.path());
    let device = &facts.devices.known().expect("devices")[0];
    assert_eq!((device.pcie, device.virtual_functions, device.ports[0].traffic_class), (None, None, None));
    // A directory where the link to the group belongs is no group.
    assert_eq!(device.iommu, Fact::Known(None));
    assert_eq!(facts.imex_channels, Fact::Known(vec![]));
    assert!(matches!(facts.acs_redirects, Fact::Unknown(_)), "{:?}", facts.acs_redirects);
    assert!(matches!(facts.boot_id, Fact::Unknown(_)) && matches!(facts.iommu_parameters, Fact::Unknown(_)));
    assert_eq!(problems.iter().filter(|problem| problem.code == "Garbled").count(), 6, "{problems:#?}");
}

#[test]
fn what_is_cached_is_that_of_this_boot_and_this_card() {
    let dir = tree();
    let vpd = "sys/class/infiniband/mlx5_0/device/vpd";
    let boot = "proc/sys/kernel/random/boot_id";
    write(dir.path(), boot, "6d1ea8a0-7f0d-4d3a-9d3e-7d2f0a1b2c3d\n");
    write(dir.path(), vpd, "SMDL=SW_MNG");
    let root = Root::open(dir.path()).expect("a root");
    let mut cache = Cache::new();
    let mut management = || {
        let (facts, _) = survey_with(&root, &mut cache);
        facts.devices.known().expect("devices")[0].management.is_yes()
    };
    assert!(management());
    write(dir.path(), vpd, "nothing");
    assert!(management(), "read once");
    write(dir.path(), "sys/class/infiniband/mlx5_0/board_id", "MT_0000000891\n");
    assert!(!management(), "another card");
    write(dir.path(), vpd, "SMDL=SW_MNG");
    assert!(!management());
    write(dir.path(), boot, "00000000-7f0d-4d3a-9d3e-7d2f0a1b2c3d\n");
    assert!(management(), "another boot");
}

#[test]
fn the_runtime_is_looked_for_among_the_children_of_init() {
    let dir = tree();
    let limits = |bytes: &str| format!("Max locked memory         {bytes}            {bytes}            bytes\n");
    // Of another machine's runtime in a container, which started later and has a lower number.
    write(dir.path(), "proc/40/comm", "containerd\n");
    write(dir.path(), "proc/40/limits", limits("65536"));
    write(dir.path(), "proc/90/comm", "containerd\n");
    write(dir.path(), "proc/90/limits", limits("unlimited"));
    write(dir.path(), "proc/80/comm", "sshd\n");
    write(dir.path(), "proc/1/task/1/children", "80 90 nonsense");
    let root = Root::open(dir.path()).expect("a root");
    let mut cache = Cache::new();
    assert_eq!(survey_with(&root, &mut cache).0.memlock, Fact::Known(policies::fabric::Memlock::Unlimited));
    fs::remove_dir_all(dir.path().join("proc/90")).expect("gone");
    assert_eq!(survey_with(&root, &mut cache).0.memlock, Fact::Known(policies::fabric::Memlock::Limited(65_536)));
}
