use super::*;

fn loaded(files: &[&str]) -> UcxFacts {
    let files = files.iter().map(|file| (*file).into()).collect();
    let library = UcxLibrary { version: "1.22.0".into(), folder: "/opt/ucx/lib".into(), files };
    let in_use = Fact::Known(vec!["tcp/eth0".into()]);
    UcxFacts { library: Fact::Known(Some(library)), in_use, ..UcxFacts::default() }
}

fn codes(problems: &[Problem]) -> Vec<&str> {
    problems.iter().map(|problem| problem.code.as_str()).collect()
}

#[test]
fn no_library_is_no_problem() {
    let ucx = UcxFacts { library: Fact::Known(None), ..UcxFacts::default() };
    assert_eq!(ucx.problems(), []);
    let cuda = CudaFacts { driver: Fact::Known(None), gpus: Fact::default() };
    assert_eq!(cuda.problems(), []);
}

#[test]
fn modules_belong_to_their_installation_and_others_do_not() {
    let one = loaded(&["/opt/ucx/lib/libucp.so.0", "/opt/ucx/lib/ucx/libuct_ib.so.0"]);
    assert_eq!(one.problems(), []);
    let two = loaded(&["/opt/ucx/lib/libucp.so.0", "/usr/lib/libucm.so.0"]);
    assert_eq!(codes(&two.problems()), [problem::UCX_MIXED]);
}

#[test]
fn a_context_that_fails_is_told_with_ucxs_words() {
    let mut facts = loaded(&[]);
    facts.in_use = Fact::Unknown("ucp_init: No such device (-14)".into());
    facts.messages = vec!["WARN transport 'bogus' is not available".into()];
    let problems = facts.problems();
    assert_eq!(codes(&problems), [problem::UCX_UNUSABLE]);
    assert!(problems[0].message.contains("No such device") && problems[0].message.contains("bogus"), "{problems:?}");
}

#[test]
fn unknown_variables_and_broken_domains_are_problems() {
    let mut facts = loaded(&[]);
    let variable = UcxUnknownVariable { name: "UCX_TLZ".into(), meant: Some("UCX_TLS".into()) };
    facts.unknown_variables = Fact::Known(vec![variable]);
    let broken =
        UcxDomain { component: "ib".into(), name: "mlx5_0".into(), error: Some("busy".into()), ..UcxDomain::default() };
    facts.domains = Fact::Known(vec![broken]);
    assert_eq!(codes(&facts.problems()), [problem::UCX_UNKNOWN_VARIABLE, problem::UCX_DEVICE_BROKEN]);
}

#[test]
fn gpu_memory_counts_on_networks_only() {
    let domain = |kind: &str| UcxDomain {
        registers: vec!["host".into(), "cuda".into()],
        transports: vec![UcxTransport { name: "x".into(), device: "y".into(), kind: kind.into() }],
        ..UcxDomain::default()
    };
    let mut facts = loaded(&[]);
    assert!(matches!(facts.network_registers("cuda"), Fact::Unknown(_)));
    facts.domains = Fact::Known(vec![domain("accelerator")]);
    assert_eq!(facts.network_registers("cuda"), Fact::Known(false));
    facts.domains = Fact::Known(vec![domain("accelerator"), domain("network")]);
    assert_eq!(facts.network_registers("cuda"), Fact::Known(true));
    assert_eq!(facts.network_registers("rocm"), Fact::Known(false));
}

#[test]
fn a_gpu_that_promises_and_refuses_is_a_problem() {
    let refused = Registration { device: "mlx5_0".into(), error: Some("Bad address".into()) };
    let gpu = CudaGpu {
        pci: Fact::Known("0000:1b:00.0".into()),
        dma_buf: Fact::Known(true),
        exported: Fact::Known(false),
        registered: Fact::Known(vec![refused]),
        ..CudaGpu::default()
    };
    let driver = Fact::Known(Some(CudaDriver::default()));
    let facts = CudaFacts { driver: driver.clone(), gpus: Fact::Known(vec![gpu]) };
    assert_eq!(codes(&facts.problems()), [problem::DMA_BUF_BROKEN, problem::GPU_MEMORY_REFUSED]);
    let silent = CudaFacts { driver, gpus: Fact::Unknown("cuInit: CUDA_ERROR_STUB_LIBRARY (34)".into()) };
    assert_eq!(codes(&silent.problems()), [problem::CUDA_UNUSABLE]);
}

#[test]
fn facts_survive_the_wire() {
    let facts = loaded(&["/opt/ucx/lib/libucp.so.0"]);
    let text = serde_json::to_string(&facts).unwrap();
    assert_eq!(serde_json::from_str::<UcxFacts>(&text).unwrap(), facts);
}

#[test]
fn a_silent_fallback_is_a_problem() {
    let with = |tls: &str, in_use: &str| {
        let mut facts = loaded(&[]);
        let setting = UcxSetting { name: "UCX_TLS".into(), value: tls.into(), default: "all".into() };
        facts.settings = Fact::Known(vec![setting]);
        facts.in_use = Fact::Known(vec![in_use.into()]);
        !facts.problems().is_empty()
    };
    assert!(with("rc_x,tcp", "tcp/eth0"));
    assert!(with("srd,cuda_copy,tcp", "tcp/eth0"));
    assert!(!with("tcp,cuda_copy", "tcp/eth0"));
    assert!(!with("^ib", "tcp/eth0"));
    assert!(!with("rc,tcp", "rc_mlx5/mlx5_0:1"));
    assert!(!with("rdmacm_like", "tcp/eth0"));
}

#[test]
fn what_was_not_asked_is_no_problem_of_its_own() {
    let mut facts = loaded(&[]);
    facts.in_use = Fact::default();
    assert_eq!(facts.problems(), []);
    assert_eq!(UcxFacts::default().problems(), []);
    let broken = UcxFacts { library: Fact::Unknown("undefined symbol".into()), ..UcxFacts::default() };
    assert_eq!(codes(&broken.problems()), [problem::UCX_UNLOADABLE]);
}
