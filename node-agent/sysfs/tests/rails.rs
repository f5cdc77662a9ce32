//! What the machines of `tests/fixtures` would be told about devices and subnets.

use std::path::PathBuf;

use policies::{rails, roles};
use rstest::rstest;
use sysfs::{Root, survey};

fn find(machine: &str) -> rails::Rails {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures").join(machine);
    let (facts, _) = survey(&Root::open(path).expect("the fixture is there"));
    rails::find(&facts, &roles::assign(&facts))
}

#[rstest]
// Eight rails of nine devices: the ninth is the Ethernet front end.
#[case("ib-ndr-gdr", Some("mlx5_0:1,mlx5_1:1,mlx5_2:1,mlx5_3:1,mlx5_4:1,mlx5_5:1,mlx5_6:1,mlx5_7:1"), None)]
#[case(
    "roce-gid3",
    Some("mlx5_0:1,mlx5_1:1,mlx5_2:1,mlx5_3:1,mlx5_4:1,mlx5_5:1,mlx5_6:1,mlx5_7:1"),
    Some("10.20.0.0/24,10.20.1.0/24,10.20.2.0/24,10.20.3.0/24,10.20.4.0/24,10.20.5.0/24,10.20.6.0/24,10.20.7.0/24")
)]
#[case(
    "roce-mixed-index",
    Some("mlx5_0:1,mlx5_1:1,mlx5_2:1,mlx5_3:1"),
    Some("10.20.0.0/24,10.20.1.0/24,10.20.2.0/24,10.20.3.0/24")
)]
#[case("bnxt-ipv6-only", Some("bnxt_re0:1,bnxt_re1:1"), Some("fd00:20::/64,fd00:20:0:1::/64"))]
#[case("bond", Some("mlx5_bond_0:1"), Some("10.20.0.0/24"))]
#[case("efa-k68", Some("rdmap79s0:1,rdmap96s0:1,rdmap145s0:1,rdmap162s0:1"), None)]
// Without the functions that manage NVLink switches.
#[case("p6-b200", Some("rdmap79s0:1,rdmap145s0:1"), None)]
#[case("vm-flat", Some("mlx5_0:1,mlx5_1:1"), Some("10.20.0.0/24,10.20.1.0/24"))]
#[case("azure-ib-an", Some("mlx5_0:1,mlx5_1:1,mlx5_2:1,mlx5_3:1"), None)]
#[case("cpu-only-ib", Some("mlx5_0:1,mlx5_1:1"), None)]
#[case("ib-port-down", Some("mlx5_0:1,mlx5_1:1,mlx5_3:1"), None)]
// One of 129 functions carries an address.
#[case("sriov-128vf", Some("mlx5_0:1"), Some("10.20.0.0/24"))]
#[case("soft-roce", Some("rxe0:1"), Some("10.0.0.0/24"))]
#[case("roce-linklocal-only", None, None)]
#[case("tcp-only", None, None)]
#[case("opa-hfi1", None, None)]
fn recommended(#[case] machine: &str, #[case] devices: Option<&str>, #[case] subnets: Option<&str>) {
    let found = find(machine);
    assert_eq!(found.net_devices.value.as_deref(), devices, "{}", found.net_devices.reason);
    assert_eq!(found.roce_subnets.value.as_deref(), subnets, "{}", found.roce_subnets.reason);
    assert!(devices.is_none_or(rails::valid_net_devices) && subnets.is_none_or(rails::valid_roce_subnets));
    assert!(!found.net_devices.reason.is_empty() && !found.roce_subnets.reason.is_empty());
}

#[test]
fn each_gpu_of_an_hgx_board_has_its_own_rail() {
    let found = find("ib-ndr-gdr");
    let ports: Vec<&str> = found.gpus.iter().map(|gpu| gpu.ports[0].as_str()).collect();
    assert_eq!(ports, ["mlx5_0:1", "mlx5_1:1", "mlx5_2:1", "mlx5_3:1", "mlx5_4:1", "mlx5_5:1", "mlx5_6:1", "mlx5_7:1"]);
    assert!(found.net_devices.reason.contains("within PIX"), "{}", found.net_devices.reason);
    assert!(find("vm-flat").gpus.is_empty());
    assert!(find("vm-flat").net_devices.reason.contains("flat"));
    assert!(find("roce-mixed-index").roce_subnets.reason.contains("differs"));
    // Two GPUs behind each EFA device's switch.
    assert!(find("efa-k68").gpus.chunks(2).all(|pair| pair[0].ports == pair[1].ports && pair[0].ports.len() == 1));
}
