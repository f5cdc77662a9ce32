//! `railbind-agent probe` on real UCX libraries (the distribution's and a Python wheel's), without one, and on fakes that crash, hang
//! and talk nonsense. The fakes are compiled from `tests/ucx/fakes` and say in their first line that they are fakes.

#![expect(clippy::unwrap_used, reason = "helpers of tests: a panic here is a failed test")]

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::{Duration, Instant},
};

use policies::{
    fabric::{Fact, Problem},
    probe::{CudaFacts, Registration, UcxFacts, problem},
    selftest::{GpuUse, NvmlFacts},
};
use serde::Deserialize;
use tempfile::TempDir;

#[derive(Debug, Deserialize)]
struct Probed<T> {
    facts: T,
    problems: Vec<Problem>,
}

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/ucx")
}

/// The agent with an environment that says nothing about UCX, CUDA or us.
fn agent(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_railbind-agent"));
    let speaks = |name: &str| ["UCX_", "FAKE_", "RAILBIND_", "CUDA_"].iter().any(|prefix| name.starts_with(prefix));
    for (name, _) in env::vars_os().filter(|(name, _)| name.to_str().is_some_and(speaks)) {
        command.env_remove(name);
    }
    command.env_remove("LD_LIBRARY_PATH").arg("probe").args(args);
    command
}

fn text(command: &mut Command) -> String {
    let output = succeeded(command);
    String::from_utf8(output.stdout).unwrap()
}

fn json<T: for<'a> Deserialize<'a>>(command: &mut Command) -> Probed<T> {
    let output = succeeded(command.arg("--json"));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A probe succeeds whatever its library does.
fn succeeded(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

fn ucx_in(folder: &Path) -> Command {
    let mut command = agent(&["ucx", "--lib"]);
    command.arg(folder);
    command
}

fn compile(fake: &str, into: &Path) {
    let source = sources().join("fakes").join(fake);
    let output = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(into).arg(&source).output().unwrap();
    assert!(output.status.success(), "cc {}: {}", source.display(), String::from_utf8_lossy(&output.stderr));
}

/// A folder with the fake UCX.
fn fake_ucx() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let first = folder.path().join("libucp.so.0");
    compile("ucx.c", &first);
    for name in ["libucs.so.0", "libuct.so.0"] {
        fs::copy(&first, folder.path().join(name)).unwrap();
    }
    folder
}

/// The wheel's library folder.
fn wheel() -> PathBuf {
    let output = Command::new(sources().join("fetch.sh")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim_end().into()
}

fn codes(problems: &[Problem]) -> Vec<&str> {
    problems.iter().map(|problem| problem.code.as_str()).collect()
}

/// What every UCX must say on any Linux: it can talk to itself, over TCP and shared memory, with host memory.
fn is_whole(facts: &UcxFacts) {
    assert_eq!(facts.missing, Vec::<String>::new());
    assert!(facts.memory_types.known().unwrap().contains(&"host".into()), "{facts:?}");
    let in_use = facts.in_use.known().unwrap();
    for transport in ["self/", "tcp/", "posix/", "sysv/"] {
        assert!(in_use.iter().any(|pair| pair.starts_with(transport)), "no {transport} in {in_use:?}");
    }
    let domains = facts.domains.known().unwrap();
    let pairs = domains.iter().flat_map(|domain| &domain.transports);
    let pairs: Vec<String> = pairs.map(|transport| format!("{}/{}", transport.name, transport.device)).collect();
    assert!(in_use.iter().all(|pair| pairs.contains(pair)), "{in_use:?} is not within {pairs:?}");
    let tcp = domains.iter().find(|domain| domain.component == "tcp").unwrap();
    assert!(tcp.transports.iter().all(|transport| transport.kind == "network"), "{tcp:?}");
}

/// Settings and mistakes in the environment are seen by the UCX of this folder.
fn sees_the_environment(folder: Option<&Path>) {
    let command = || folder.map_or_else(|| agent(&["ucx"]), ucx_in);
    let changed: Probed<UcxFacts> =
        json(command().env("UCX_TLS", "tcp,self").env("UCX_TLZ", "x").env("UCX_RNDV_THRESH", "64k"));
    let settings = changed.facts.settings.known().unwrap();
    let value = |name: &str| settings.iter().find(|setting| setting.name == name).map(|setting| setting.value.as_str());
    assert_eq!((value("UCX_TLS"), value("UCX_LOG_LEVEL")), (Some("tcp,self"), None), "{settings:?}");
    assert!(value("UCX_RNDV_THRESH").is_some_and(|value| value.to_lowercase().contains("64k")), "{settings:?}");
    let unknown = changed.facts.unknown_variables.known().unwrap();
    assert_eq!(unknown.iter().map(|variable| variable.name.as_str()).collect::<Vec<_>>(), ["UCX_TLZ"]);
    assert!(
        changed.facts.in_use.known().unwrap().iter().all(|pair| pair.starts_with("tcp/") || pair.starts_with("self/"))
    );
    assert_eq!(codes(&changed.problems), [problem::UCX_UNKNOWN_VARIABLE]);

    let wrong: Probed<UcxFacts> = json(command().env("UCX_TLS", "bogus"));
    assert_eq!(codes(&wrong.problems), [problem::UCX_UNUSABLE]);
    assert!(matches!(wrong.facts.in_use, Fact::Unknown(_)) && wrong.facts.domains.known().is_some(), "{wrong:?}");
    let fallback: Probed<UcxFacts> = json(command().env("UCX_TLS", "rc_x,tcp"));
    assert_eq!(codes(&fallback.problems), [problem::UCX_FALLS_BACK], "this test is for machines without RDMA devices");
}

#[test]
fn lists_the_transports_of_the_distributions_ucx() {
    let found: Probed<UcxFacts> = json(&mut agent(&["ucx"]));
    let Fact::Known(Some(library)) = &found.facts.library else { panic!("scripts/setup.sh installs a UCX: {found:?}") };
    assert!(library.version.starts_with("1."), "{library:?}");
    assert_eq!(found.problems, []);
    is_whole(&found.facts);
    sees_the_environment(None);
}

#[test]
fn lists_the_transports_of_a_wheels_ucx() {
    let folder = wheel();
    let found: Probed<UcxFacts> = json(&mut ucx_in(&folder));
    let Fact::Known(Some(library)) = &found.facts.library else { panic!("{found:?}") };
    assert_eq!(library.version, "1.22.0");
    assert!(library.files.iter().all(|file| Path::new(file).starts_with(&folder)), "mixed: {:?}", library.files);
    assert_eq!(found.problems, []);
    is_whole(&found.facts);
    sees_the_environment(Some(&folder));
    let people = text(&mut ucx_in(&folder));
    assert!(people.starts_with("UCX 1.22.0 in ") && people.contains("\n* self/memory "), "{people}");
}

#[test]
fn says_that_there_is_no_ucx() {
    let empty = tempfile::tempdir().unwrap();
    let found: Probed<UcxFacts> = json(&mut ucx_in(empty.path()));
    assert_eq!((found.facts.library, found.problems), (Fact::Known(None), vec![]));
    assert!(text(&mut ucx_in(empty.path())).starts_with("no UCX in "));
    let by_variable = text(agent(&["ucx"]).env("RAILBIND_UCX_LIB", empty.path()));
    assert!(by_variable.starts_with("no UCX in "), "{by_variable}");
}

#[test]
fn files_that_are_no_library_are_a_problem() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["libucs.so.0", "libuct.so.0", "libucp.so.0"] {
        fs::write(folder.path().join(name), "not a library").unwrap();
    }
    let found: Probed<UcxFacts> = json(&mut ucx_in(folder.path()));
    assert!(matches!(found.facts.library, Fact::Unknown(_)));
    assert_eq!(codes(&found.problems), [problem::UCX_UNLOADABLE]);
}

#[test]
fn a_ucx_that_breaks_ends_its_child_and_no_more() {
    let fake = fake_ucx();
    let cases = [
        ("abort", "died of SIGABRT while making a context (ucp_init); its last words: Assertion"),
        ("segv", "died of SIGSEGV while making a context (ucp_init)"),
        ("hang", "was killed after 1s while making a context (ucp_init)"),
        ("chatter", "was killed after 1s while making a context (ucp_init)"),
        ("garbage", "ended without an answer while making a context (ucp_init)"),
        ("exit", "ended with status 3 while making a context (ucp_init)"),
    ];
    for (how, expected) in cases {
        let started = Instant::now();
        let found: Probed<UcxFacts> = json(ucx_in(fake.path()).args(["--deadline", "1"]).env("FAKE_UCX", how));
        assert!(started.elapsed() < Duration::from_secs(5), "{how} took {:?}", started.elapsed());
        assert_eq!(codes(&found.problems), [problem::PROBE_DIED], "{how}");
        let problem = &found.problems[0];
        assert!(problem.message.contains(expected) && !problem.remedy.is_empty(), "{how}: {problem:?}");
        // What was known before is kept.
        let library = found.facts.library.known().and_then(Option::as_ref);
        assert_eq!(library.map(|library| library.version.as_str()), Some("1.22.0"), "{how}");
        assert!(found.facts.missing.contains(&"uct_md_open".into()), "{how}: {:?}", found.facts.missing);
    }
}

/// `probe cuda` with these fakes in the loader's path.
fn cuda_with(fakes: &[(&str, &str)]) -> (TempDir, Command) {
    let folder = tempfile::tempdir().unwrap();
    for (source, name) in fakes {
        compile(source, &folder.path().join(name));
    }
    let mut command = agent(&["cuda"]);
    command.env("LD_LIBRARY_PATH", folder.path());
    (folder, command)
}

const CUDA: (&str, &str) = ("cuda.c", "libcuda.so.1");

#[test]
fn a_driver_is_there_where_the_loader_knows_one_and_no_problem_where_not() {
    let found: Probed<CudaFacts> = json(&mut agent(&["cuda"]));
    let cache = Command::new("/sbin/ldconfig").arg("-p").output().unwrap();
    if String::from_utf8_lossy(&cache.stdout).contains("libcuda.so") {
        assert!(matches!(found.facts.driver, Fact::Known(Some(_))), "{found:?}");
    } else {
        assert_eq!((found.facts.driver, found.problems), (Fact::Known(None), vec![]));
        assert!(text(&mut agent(&["cuda"])).starts_with("no NVIDIA driver"));
    }
}

#[test]
fn asks_a_driver_for_its_gpus_and_moves_memory_to_nics() {
    let (folder, mut command) = cuda_with(&[CUDA, ("verbs.c", "libibverbs.so.1")]);
    let found: Probed<CudaFacts> = json(&mut command);
    let driver = found.facts.driver.known().and_then(Option::as_ref).unwrap();
    assert_eq!(driver.cuda, Fact::Known("13.0".into()));
    assert_eq!(
        driver.path.as_deref().map(Path::new),
        Some(folder.path().canonicalize().unwrap().join(CUDA.1).as_path())
    );
    let gpus = found.facts.gpus.known().unwrap();
    assert_eq!(gpus.len(), 2);
    let gpu = &gpus[1];
    assert_eq!((&gpu.pci, &gpu.name), (&Fact::Known("0000:1c:00.0".into()), &Fact::Known("FAKE GPU 1".into())));
    assert_eq!((&gpu.gpu_direct_rdma, &gpu.gpu_direct_rdma_vmm), (&Fact::Known(true), &Fact::Known(false)));
    assert!(matches!(&gpu.fabric_handle, Fact::Unknown(why) if why.contains("does not know")), "{gpu:?}");
    assert_eq!(gpu.exported, Fact::Known(true));
    let [taken, refused] = gpu.registered.known().unwrap().as_slice() else { panic!("{gpu:?}") };
    assert_eq!(taken, &Registration { device: "mlx5_0".into(), error: None });
    assert!(refused.error.as_ref().is_some_and(|error| error.contains("not supported")), "{refused:?}");
    assert_eq!(codes(&found.problems), [problem::GPU_MEMORY_REFUSED; 2]);
}

#[test]
fn statuses_of_a_driver_are_told_and_unknown_ones_survived() {
    let (_folder, mut command) = cuda_with(&[CUDA]);
    let stub: Probed<CudaFacts> = json(command.env("FAKE_CUDA_INIT", "34"));
    assert_eq!(stub.facts.gpus, Fact::Unknown("cuInit: CUDA_ERROR_STUB_LIBRARY (34)".into()));
    assert_eq!(codes(&stub.problems), [problem::CUDA_UNUSABLE]);
    // A status that no enumeration of today has.
    let (_folder, mut command) = cuda_with(&[CUDA]);
    let newer: Probed<CudaFacts> = json(command.env("FAKE_CUDA_INIT", "9999"));
    assert_eq!(newer.facts.gpus, Fact::Unknown("cuInit: unknown status (9999)".into()));
    let (_folder, mut command) = cuda_with(&[CUDA]);
    let none: Probed<CudaFacts> = json(command.env("FAKE_CUDA_INIT", "100"));
    assert_eq!((none.facts.gpus, none.problems), (Fact::Known(vec![]), vec![]));
}

#[test]
fn a_refused_export_is_known_and_a_problem_where_dma_buf_was_promised() {
    let (_folder, mut command) = cuda_with(&[CUDA]);
    let found: Probed<CudaFacts> = json(command.env("FAKE_CUDA_EXPORT", "801"));
    let gpu = &found.facts.gpus.known().unwrap()[0];
    assert_eq!(gpu.exported, Fact::Known(false));
    assert!(matches!(&gpu.registered, Fact::Unknown(_)));
    assert_eq!(codes(&found.problems), [problem::DMA_BUF_BROKEN; 2]);
}

#[test]
fn a_driver_that_hangs_ends_its_child_and_no_more() {
    let (_folder, mut command) = cuda_with(&[CUDA]);
    let found: Probed<CudaFacts> = json(command.args(["--deadline", "0.5"]).env("FAKE_CUDA_HANG", "1"));
    assert_eq!(codes(&found.problems), [problem::PROBE_DIED]);
    assert!(found.problems[0].message.contains("while starting the driver (cuInit)"), "{:?}", found.problems);
    assert!(found.facts.driver.known().is_some_and(Option::is_some));
}

/// `probe gpus` with the fake NVML.
fn gpus_with(variables: &[(&str, &str)]) -> (TempDir, Command) {
    let folder = tempfile::tempdir().unwrap();
    compile("nvml.c", &folder.path().join("libnvidia-ml.so.1"));
    let mut command = agent(&["gpus"]);
    command.env("LD_LIBRARY_PATH", folder.path()).envs(variables.iter().copied());
    (folder, command)
}

#[test]
fn nvml_says_who_computes() {
    let (_folder, mut command) = gpus_with(&[]);
    let idle: Probed<NvmlFacts> = json(&mut command);
    assert_eq!(idle.facts.driver, Fact::Known(Some("FAKE 1.0".into())));
    assert_eq!((idle.facts.in_use(0), idle.problems), (GpuUse::Idle, vec![]));
    let (_folder, mut command) = gpus_with(&[("FAKE_NVML", "2,87,71680")]);
    assert_eq!(text(&mut command), "busy: GPU 1: 2 compute processes, 87 %, 71680 MiB\n\nNo problems found.\n");
    let (_folder, mut command) = gpus_with(&[("FAKE_NVML_BLIND", "1")]);
    let blind: Probed<NvmlFacts> = json(&mut command);
    assert!(matches!(blind.facts.in_use(0), GpuUse::Unknown(why) if why.starts_with("GPU 0: NVML: ")));
    let (_folder, mut command) = gpus_with(&[("FAKE_NVML_BLIND", "1"), ("FAKE_NVML", "0,87,3")]);
    let blind: Probed<NvmlFacts> = json(&mut command);
    assert_eq!(blind.facts.in_use(0), GpuUse::Busy("GPU 1: 87 %, 3 MiB".into()));
}

#[test]
fn an_nvml_that_breaks_is_unknown_and_ends_its_child_only() {
    // 9: NVML_ERROR_DRIVER_NOT_LOADED; 9999: of no driver of today.
    for status in ["9", "9999"] {
        let (_folder, mut command) = gpus_with(&[("FAKE_NVML_INIT", status)]);
        let found: Probed<NvmlFacts> = json(&mut command);
        assert!(matches!(found.facts.in_use(0), GpuUse::Unknown(why) if why.starts_with("NVML: ")), "{status}");
    }
    let (_folder, mut command) = gpus_with(&[("FAKE_NVML_HANG", "1")]);
    let hung: Probed<NvmlFacts> = json(command.args(["--deadline", "0.5"]));
    let (_folder, mut command) = gpus_with(&[("FAKE_NVML_ABORT", "1")]);
    let dead: Probed<NvmlFacts> = json(&mut command);
    for (found, how) in [(hung, "was killed after 500ms"), (dead, "died of SIGABRT")] {
        assert_eq!(codes(&found.problems), [problem::PROBE_DIED]);
        assert!(matches!(found.facts.in_use(0), GpuUse::Unknown(why) if why.contains(how)), "{how}");
    }
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("libnvidia-ml.so.1"), "not a library").unwrap();
    let broken: Probed<NvmlFacts> = json(agent(&["gpus"]).env("LD_LIBRARY_PATH", folder.path()));
    assert!(matches!(broken.facts.in_use(0), GpuUse::Unknown(why) if why.starts_with("NVML: ")));
    assert_eq!(broken.facts.driver, Fact::default(), "it is there");
}

#[test]
fn a_node_without_nvml_says_so() {
    let cache = Command::new("/sbin/ldconfig").arg("-p").output().unwrap();
    if !String::from_utf8_lossy(&cache.stdout).contains("libnvidia-ml.so.1") {
        let found: Probed<NvmlFacts> = json(&mut agent(&["gpus"]));
        assert_eq!((&found.facts.driver, found.problems.as_slice()), (&Fact::Known(None), &[][..]));
        assert!(matches!(found.facts.in_use(0), GpuUse::Unknown(why) if why.contains("no libnvidia-ml.so.1")));
    }
}
