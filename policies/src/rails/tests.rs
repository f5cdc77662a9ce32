use proptest::prelude::*;

use super::*;
use crate::{
    fabric::{Distance, Gid, GidType, LinkLayer, NodeType, Port, PortState, RdmaDevice},
    roles,
};

fn rail(index: usize, layer: LinkLayer, gids: Vec<Gid>) -> RdmaDevice {
    let port = Port {
        number: 1,
        state: PortState::Active,
        link_layer: layer,
        gids,
        rate_gbps: Some(400.0),
        ..Port::default()
    };
    RdmaDevice {
        name: format!("mlx5_{index}"),
        node_type: NodeType::Ca,
        management: Fact::Known(false),
        ports: vec![port],
        ..RdmaDevice::default()
    }
}

fn gpu(index: usize) -> Gpu {
    Gpu { pci: format!("0000:{index:02x}:00.0"), ..Gpu::default() }
}

/// GPUs by row, NICs by column.
fn machine(devices: Vec<RdmaDevice>, levels: &[&[DistanceLevel]]) -> Facts {
    let distances = levels.iter().enumerate().flat_map(|(row, levels)| {
        levels.iter().enumerate().map(move |(column, level)| Distance {
            gpu: gpu(row).pci,
            device: format!("mlx5_{column}"),
            level: *level,
        })
    });
    Facts {
        distances: distances.collect(),
        gpus: Fact::Known((0..levels.len()).map(gpu).collect()),
        devices: Fact::Known(devices),
        topology: Topology::Ok,
        ..Facts::default()
    }
}

fn infiniband(count: usize) -> Vec<RdmaDevice> {
    (0..count).map(|index| rail(index, LinkLayer::InfiniBand, Vec::new())).collect()
}

fn roce(index: usize, address: &str, at: u32) -> RdmaDevice {
    let value = address.parse().expect("an address");
    let gid = Gid { index: at, value, kind: GidType::RoceV2, netdev: None };
    rail(index, LinkLayer::Ethernet, vec![gid])
}

fn subnet(network: &str, prefix_len: u8) -> Subnet {
    Subnet { netdev: "rdma0".into(), network: network.parse().expect("an address"), prefix_len }
}

fn rails(facts: &Facts) -> Rails {
    find(facts, &roles::assign(facts))
}

use DistanceLevel::{Node, Phb, Pix, Pxb, Sys};

#[test]
fn each_gpu_has_its_own_rail() {
    let facts = machine(infiniband(3), &[&[Pix, Node, Sys], &[Node, Pix, Sys]]);
    let found = rails(&facts);
    assert_eq!(found.net_devices.value.as_deref(), Some("mlx5_0:1,mlx5_1:1"));
    assert!(found.net_devices.reason.ends_with("within PIX; left out, nearest to none: mlx5_2:1"), "{found:?}");
    assert_eq!((found.gpus[1].level, &found.gpus[1].ports), (Some(Pix), &vec!["mlx5_1:1".to_owned()]));
}

#[test]
fn gpus_share_what_is_nearest() {
    let facts = machine(infiniband(2), &[&[Pxb, Pxb], &[Sys, Sys], &[Phb, Node]]);
    let found = rails(&facts);
    assert_eq!(found.net_devices.value.as_deref(), Some("mlx5_0:1,mlx5_1:1"));
    assert_eq!(found.gpus.iter().map(|gpu| gpu.ports.len()).collect::<Vec<_>>(), [2, 2, 1]);
}

#[test]
fn only_compute_ports_count() {
    let mut devices = infiniband(2);
    devices[0].ports[0].state = PortState::Down;
    let facts = machine(devices, &[&[Pix, Sys]]);
    assert_eq!(rails(&facts).net_devices.value.as_deref(), Some("mlx5_1:1"));
}

#[test]
fn natural_order_is_kept() {
    let levels = [Pix; 12];
    let facts = machine(infiniband(12), &[&levels]);
    let value = rails(&facts).net_devices.value.expect("a value");
    assert!(value.ends_with("mlx5_9:1,mlx5_10:1,mlx5_11:1"), "{value}");
}

#[test]
fn without_distances_all_compute_ports() {
    let mut facts = machine(infiniband(2), &[&[Pix, Sys]]);
    facts.topology = Topology::Flat;
    facts.distances.clear();
    let found = rails(&facts);
    assert_eq!((found.gpus.len(), found.net_devices.value.as_deref()), (0, Some("mlx5_0:1,mlx5_1:1")));
    assert!(found.net_devices.reason.contains("flat"));
    for gpus in [Fact::Known(Vec::new()), Fact::Unknown("no".into())] {
        let facts = Facts { gpus, topology: Topology::Unknown, ..facts.clone() };
        assert_eq!(rails(&facts).net_devices.value.as_deref(), Some("mlx5_0:1,mlx5_1:1"));
    }
    let mut facts = machine(infiniband(2), &[&[Pix, Sys], &[]]);
    facts.distances.retain(|distance| distance.gpu == gpu(0).pci);
    assert!(rails(&facts).net_devices.reason.contains(&gpu(1).pci), "a GPU without distances must not lose its NIC");
}

#[test]
fn no_value_where_it_would_be_a_guess() {
    let none = |facts: &Facts| {
        let found = rails(facts);
        assert_eq!(found.net_devices.value, None);
        found.net_devices.reason
    };
    assert_eq!(none(&machine(Vec::new(), &[&[]])), "no RDMA compute port");
    let mut devices = infiniband(2);
    devices[1].ports[0].state = PortState::Unknown;
    assert!(none(&machine(devices, &[&[Pix, Pix]])).contains("mlx5_1:1"));
    let facts = Facts { devices: Fact::Unknown("EACCES".into()), ..Facts::default() };
    assert!(none(&facts).contains("EACCES"));
    let mut devices = infiniband(1);
    devices[0].name = "mlx5,0".into();
    let facts = Facts { devices: Fact::Known(devices), ..Facts::default() };
    none(&facts);
    none(&Facts { devices: Fact::Known(infiniband(65)), ..Facts::default() });
}

#[test]
fn subnets_of_the_rails() {
    let devices = vec![
        roce(0, "::ffff:10.20.0.11", 3),
        roce(1, "::ffff:10.20.1.11", 5),
        roce(2, "::ffff:10.20.1.12", 3),
        roce(3, "fd00:20::3", 3),
    ];
    let mut facts = machine(devices, &[]);
    facts.subnets = vec![
        subnet("::ffff:10.20.0.0", 16),
        subnet("::ffff:10.20.0.0", 24),
        subnet("::ffff:10.20.1.0", 24),
        subnet("fd00:20::", 64),
        subnet("::ffff:0.0.0.0", 0),
    ];
    let found = rails(&facts).roce_subnets;
    assert_eq!(found.value.as_deref(), Some("10.20.0.0/24,10.20.1.0/24,fd00:20::/64"));
    assert!(found.reason.contains("differs"));
    facts.subnets.truncate(2);
    let found = rails(&facts).roce_subnets;
    assert_eq!(found.value.as_deref(), None, "mlx5_3 would be left without a GID");
    assert!(found.reason.contains("mlx5_3:1"), "{found:?}");
    assert_eq!(rails(&machine(infiniband(1), &[&[Pix]])).roce_subnets.value, None);
}

#[test]
fn grammars() {
    assert!(valid_net_devices("mlx5_0:1,rocep1s0f0:2"));
    assert!(valid_roce_subnets("10.20.0.0/24,fd00::/64"));
    for bad in ["", "all", "^mlx5_0:1", "mlx5_0", "mlx5_0:1,", "mlx5_[0-7]:1", "mlx5_0:1;reboot"] {
        assert!(!valid_net_devices(bad) && !valid_roce_subnets(bad), "{bad}");
    }
}

fn level() -> impl Strategy<Value = DistanceLevel> {
    prop::sample::select(vec![Pix, Pxb, Phb, Node, Sys])
}

proptest! {
    #[test]
    fn every_gpu_keeps_its_nearest(table in prop::collection::vec(prop::collection::vec(level(), 1..9), 1..9)) {
        let nics = table.iter().map(Vec::len).min().expect("a row");
        let rows: Vec<&[DistanceLevel]> = table.iter().map(|row| &row[..nics]).collect();
        let found = rails(&machine(infiniband(nics), &rows));
        let value = found.net_devices.value.expect("a value");
        prop_assert!(valid_net_devices(&value));
        let chosen: Vec<&str> = value.split(',').collect();
        for (row, gpu) in rows.iter().zip(&found.gpus) {
            prop_assert_eq!(gpu.level, row.iter().min().copied());
            for (column, level) in row.iter().enumerate() {
                let port = format!("mlx5_{column}:1");
                if Some(*level) == gpu.level {
                    prop_assert!(chosen.contains(&port.as_str()) && gpu.ports.contains(&port));
                }
            }
        }
        let mut sorted = chosen.clone();
        sorted.dedup();
        prop_assert_eq!(sorted.len(), chosen.len());
    }
}
