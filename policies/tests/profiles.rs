//! The shipped profiles, and what is refused.

use policies::{
    kernel::Version,
    profile::{NodeClass, ProfileError, Profiles, TransportProfile},
    reference::Reference,
    roles::Fabric,
};
use rstest::rstest;

const TCP: &str = include_str!("../profiles/guide/tcp.yaml");

fn class(fabric: Fabric, gpu_direct: bool, kernel: (u32, u32)) -> NodeClass {
    NodeClass { fabric, gpu_direct, kernel: Some(Version::new(kernel.0, kernel.1)), drivers: vec![], soft: false }
}

#[rstest]
#[case(class(Fabric::InfiniBand, true, (6, 8)), "infiniband-gpudirect")]
#[case(class(Fabric::InfiniBand, false, (6, 8)), "rdma-host-staged")]
#[case(class(Fabric::Roce, true, (5, 15)), "roce-gpudirect")]
#[case(class(Fabric::Roce, false, (5, 15)), "rdma-host-staged")]
#[case(class(Fabric::Efa, true, (5, 15)), "efa-gpudirect")]
#[case(class(Fabric::Efa, true, (6, 7)), "efa-gpudirect")]
#[case(class(Fabric::Efa, true, (6, 8)), "efa-host-staged")]
#[case(class(Fabric::Efa, true, (6, 17)), "efa-host-staged")]
#[case(class(Fabric::Efa, false, (5, 15)), "efa-host-staged")]
#[case(class(Fabric::Tcp, false, (6, 8)), "tcp")]
#[case(NodeClass { soft: true, ..class(Fabric::Roce, true, (6, 8)) }, "tcp")]
#[case(NodeClass { kernel: None, ..class(Fabric::Efa, true, (0, 0)) }, "efa-host-staged")]
fn each_class_has_its_profile(#[case] class: NodeClass, #[case] expected: &str) {
    let profiles = Profiles::embedded().unwrap();
    let chosen = profiles.for_node("guide", &class);
    assert_eq!(chosen.profile.as_deref(), Some(expected), "{:#?}", chosen.reasons);
}

#[rstest]
#[case(class(Fabric::InfiniBand, true, (6, 8)), "nixl-infiniband")]
#[case(class(Fabric::InfiniBand, false, (6, 8)), "nixl-rdma-host-staged")]
#[case(class(Fabric::Roce, true, (6, 8)), "nixl-roce")]
#[case(class(Fabric::Roce, false, (5, 15)), "nixl-rdma-host-staged")]
#[case(class(Fabric::Efa, true, (6, 8)), "nixl-efa-libfabric")]
#[case(class(Fabric::Efa, false, (5, 10)), "nixl-efa-libfabric")]
#[case(class(Fabric::Tcp, false, (6, 8)), "nixl-tcp")]
fn the_set_nixl_covers_each_class(#[case] class: NodeClass, #[case] expected: &str) {
    let chosen = Profiles::embedded().unwrap().for_node("nixl", &class);
    assert_eq!(chosen.profile.as_deref(), Some(expected), "{:#?}", chosen.reasons);
}

#[test]
fn the_set_nixl_leaves_to_nixl_what_is_nixls() {
    for profile in Profiles::embedded().unwrap().iter().filter(|profile| profile.spec.set == "nixl") {
        for line in &profile.spec.env {
            let own = line.name == "UCX_TLS" || line.name.starts_with("UCX_RNDV_") || line.name == "UCX_IB_GID_INDEX";
            assert!(!own, "{}: {}", profile.metadata.name, line.name);
        }
    }
}

#[test]
fn every_name_of_a_profile_is_one_that_its_program_knows() {
    let known = policies::lint::known::names().unwrap();
    for profile in Profiles::embedded().unwrap().iter() {
        for line in &profile.spec.env {
            let checked = ["UCX_", "NCCL_", "FI_"].iter().any(|prefix| line.name.starts_with(prefix));
            assert!(!checked || known.contains(&line.name), "{}: {}", profile.metadata.name, line.name);
        }
    }
}

#[test]
fn every_name_of_the_guide_profiles_is_in_its_tables() {
    let reference = Reference::guide().unwrap();
    for profile in Profiles::embedded().unwrap().iter().filter(|profile| profile.spec.set == "guide") {
        for line in &profile.spec.env {
            let value = line.value.as_ref().or(line.default.as_ref()).unwrap();
            let explained = reference.explain(&line.name, value).len();
            assert_eq!(explained, value.split(',').count(), "{}: {}={value}", profile.metadata.name, line.name);
        }
    }
}

#[test]
fn a_gid_index_is_never_given_on_infiniband() {
    for profile in Profiles::embedded().unwrap().iter() {
        let when = &profile.spec.when.fabric;
        for line in profile.spec.env.iter().filter(|line| line.name == "UCX_IB_GID_INDEX") {
            assert!(line.value.is_none(), "{}: a constant index is wrong somewhere", profile.metadata.name);
            let fabrics = if line.fabric.is_empty() { when } else { &line.fabric };
            assert_eq!(fabrics, &[Fabric::Roce], "{}", profile.metadata.name);
        }
    }
}

#[rstest]
#[case("  priority: 100", "  priority: high", "priority: high", 8)]
#[case("  description:", "  colour: red\n  description:", "colour", 9)]
#[case("fabric: [tcp]", "fabric: [carrier-pigeon]", "carrier-pigeon", 11)]
fn wrong_yaml_is_refused_with_line_and_field(
    #[case] from: &str,
    #[case] to: &str,
    #[case] field: &str,
    #[case] line: usize,
) {
    let wrong = TCP.replacen(from, to, 1);
    assert_ne!(wrong, TCP);
    let error = TransportProfile::parse("tcp.yaml", &wrong).unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, ProfileError::Syntax { .. }), "{text}");
    assert!(text.contains("tcp.yaml"), "{text}");
    assert!(text.contains(&format!("line {line}")), "{text}");
    let word = field.split(':').next().unwrap();
    assert!(text.contains(word) || text.contains(field), "{text}");
}

#[rstest]
#[case("name: UCX_TLS, value", "name: ucx-tls, value", "spec.env[0]")]
#[case("value: \"tcp,cuda_copy,cuda_ipc\"", "from: gid-index", "spec.env[0]")]
#[case("kind: TransportProfile", "kind: Profile", "apiVersion/kind")]
#[case("fabric: [tcp]", "fabric: []", "spec.when.fabric")]
#[case("name: tcp\n", "name: \"a name\"\n", "metadata.name")]
fn nonsense_is_refused_with_its_field(#[case] from: &str, #[case] to: &str, #[case] field: &str) {
    let wrong = TCP.replacen(from, to, 1);
    assert_ne!(wrong, TCP);
    let error = TransportProfile::parse("tcp.yaml", &wrong).unwrap_err().to_string();
    assert!(error.contains(field), "{error}");
}
