//! The linter: each rule with a setting that breaks it and one that does not.

use policies::{
    intent::{ContainerIntent, PodIntent},
    lint::{Finding, lint},
    profile::Profiles,
    roles::Fabric,
};
use rstest::rstest;

fn found(profile: &str, fabric: Fabric, env: &[(&str, &str)], ucx: Option<&str>) -> Vec<Finding> {
    let container = ContainerIntent {
        name: "main".into(),
        gpus: 1,
        env: env.iter().map(|(name, value)| ((*name).into(), Some((*value).into()))).collect(),
        resources: [("nvidia.com/gpu".to_owned(), 1)].into(),
        ..ContainerIntent::default()
    };
    let intent = PodIntent {
        containers: vec![container],
        ucx: ucx.map(|version| version.parse().expect("a version")),
        ..PodIntent::default()
    };
    let profiles = Profiles::embedded().expect("the shipped profiles");
    lint(profiles.get(profile).expect("profile"), fabric, &intent)
}

#[rstest]
#[case("efa-host-staged", Fabric::Efa, &[("UCX_RNDV_SCHEME", "get_zcopy")], "UCX_RNDV_SCHEME", "auto")]
#[case("efa-host-staged", Fabric::Efa, &[("UCX_RNDV_THRESH", "0")], "UCX_RNDV_THRESH", "8192")]
#[case("infiniband-gpudirect", Fabric::InfiniBand, &[("UCX_TLS", "rc,ud,tcp")], "UCX_TLS", "rc_x,rc,dc_x,dc,cuda_copy,cuda_ipc")]
#[case("infiniband-gpudirect", Fabric::InfiniBand, &[("UCX_IB_GID_INDEX", "3")], "UCX_IB_GID_INDEX", "auto")]
#[case("roce-gpudirect", Fabric::Roce, &[("UCX_IB_GID_INDEX", "3"), ("UCX_IB_ROCE_SUBNETS", "10.0.0.0/8")], "UCX_IB_GID_INDEX", "auto")]
fn fatal(
    #[case] profile: &str,
    #[case] fabric: Fabric,
    #[case] env: &[(&str, &str)],
    #[case] variable: &str,
    #[case] remedy: &str,
) {
    let found = found(profile, fabric, env, None);
    let [finding] = found.as_slice() else { panic!("{found:#?}") };
    assert_eq!((finding.variable.as_str(), finding.remedy.as_deref()), (variable, Some(remedy)));
}

#[rstest]
#[case("efa-gpudirect", Fabric::Efa, &[("UCX_RNDV_SCHEME", "get_zcopy"), ("UCX_RNDV_THRESH", "0")])]
#[case("efa-host-staged", Fabric::Efa, &[("UCX_RNDV_SCHEME", "auto"), ("UCX_RNDV_THRESH", "8192")])]
#[case("infiniband-gpudirect", Fabric::InfiniBand, &[("UCX_TLS", "rc,cuda_copy"), ("UCX_IB_GID_INDEX", "auto")])]
#[case("infiniband-gpudirect", Fabric::InfiniBand, &[("UCX_TLS", "^cuda_ipc")])]
#[case("infiniband-gpudirect", Fabric::InfiniBand, &[("UCX_TLS", "all")])]
#[case("roce-gpudirect", Fabric::Roce, &[("UCX_IB_GID_INDEX", "3"), ("UCX_IB_ROCE_SUBNETS", "all")])]
#[case("roce-gpudirect", Fabric::Roce, &[("PATH", "/bin"), ("UCXTLS", "x"), ("NIXL_LOG_LEVEL", "INFO")])]
fn fine(#[case] profile: &str, #[case] fabric: Fabric, #[case] env: &[(&str, &str)]) {
    assert_eq!(found(profile, fabric, env, None), []);
}

#[test]
fn names_that_do_nothing_and_names_that_nobody_knows() {
    let env = [("UCX_IB_REG_METHODS", "odp,rcache"), ("UCX_IB_ADDR_TYPE", "eth"), ("UCX_NET_DEVICE", "mlx5_0:1")];
    let texts: Vec<String> = found("roce-gpudirect", Fabric::Roce, &env, None).into_iter().map(|f| f.text).collect();
    assert_eq!(
        texts,
        [
            "UCX_IB_ADDR_TYPE in container main does nothing: UCX 1.16 and later ignore it; set UCX_IB_IS_GLOBAL",
            "UCX_IB_REG_METHODS in container main does nothing: UCX dropped it in 1.16",
            "UCX_NET_DEVICE in container main is not known; did you mean UCX_NET_DEVICES?",
        ]
    );
    let old = found("roce-gpudirect", Fabric::Roce, &env, Some("1.15"));
    assert_eq!(old.len(), 1, "UCX 1.15 knows the first two: {old:#?}");
}

#[test]
fn what_breaks_a_worker_comes_first() {
    let env = [("NCCL_IB_HAC", "mlx5"), ("UCX_TLS", "tcp")];
    let found = found("roce-gpudirect", Fabric::Roce, &env, None);
    assert!(found[0].is_fatal() && !found[1].is_fatal(), "{found:#?}");
}
