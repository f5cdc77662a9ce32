//! Nothing a test starts outlives it, however the test's process ends.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use harness::{Cluster, LIMIT, Options, Process, kube_binary, until};

use crate::cluster;

/// Starts a child of its own, writes both ids, ignores SIGTERM if asked to.
const FAMILY: &str = r#"
if [ "$STUBBORN" ]; then trap '' TERM; fi
sleep 600 & echo $$ $! > "$PIDS.new"; mv "$PIDS.new" "$PIDS"
while true; do wait; done
"#;

/// Set, to where the process ids go, in the copy of this test's process that is to be killed.
const PARENT: &str = "RAILBIND_TEST_PARENT";

#[tokio::test]
async fn stop_is_polite_and_takes_the_whole_family() {
    let (mut process, pids) = family("polite", &[]).await;
    let status = process.stop().await.unwrap();
    assert_eq!(status.code(), Some(128 + 15), "{}", process.log());
    gone(&pids).await;
}

#[tokio::test]
async fn stop_loses_patience() {
    let (mut process, pids) = family("stubborn", &[("STUBBORN", "1")]).await;
    let status = process.stop().await.unwrap();
    assert_eq!(status.code(), Some(128 + 9), "{}", process.log());
    gone(&pids).await;
}

#[tokio::test]
async fn kill_takes_the_whole_family_at_once() {
    let (mut process, pids) = family("killed", &[("STUBBORN", "1")]).await;
    let status = process.kill().await.unwrap();
    assert_eq!(status.code(), Some(128 + 9), "{}", process.log());
    gone(&pids).await;
}

#[tokio::test]
async fn a_program_that_ends_is_reported_with_its_status() {
    let mut process = cluster().await.spawn("ends", "sh", ["-c", "echo said; exit 3"], &[]).unwrap();
    assert_eq!(process.wait(LIMIT).await.unwrap().code(), Some(3));
    assert_eq!(process.log(), "said\n");
}

/// The one that matters: SIGKILL gives a test process no chance to clean up.
#[tokio::test]
async fn a_killed_test_process_leaves_nothing_behind() {
    if let Some(file) = std::env::var_os(PARENT) {
        return parent(Path::new(&file)).await;
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pids");
    let mut parent = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "guard::a_killed_test_process_leaves_nothing_behind"])
        .env(PARENT, &file)
        // Where its cluster's folder will be, which it has no chance to remove.
        .env("TMPDIR", dir.path())
        .env("RAILBIND_KUBE", kube_binary().await.unwrap())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let pids = read(&file).await;
    parent.kill().unwrap();
    parent.wait().unwrap();
    gone(&pids).await;
}

/// What the killed process does: it holds a whole cluster and a guarded family.
async fn parent(file: &Path) {
    let cluster = Cluster::start(Options::default()).await.unwrap();
    let family = cluster.path().join("family");
    let path = family.to_str().unwrap();
    let _process = cluster.spawn("family", "sh", ["-c", FAMILY], &[("PIDS", path), ("STUBBORN", "1")]).unwrap();
    let mut pids = read(&family).await;
    pids.extend(children());
    assert_eq!(pids.len(), 2 + 5, "a shell and what it started, four components and a guard: {pids:?}");
    fs::write(&family, pids.join(" ")).unwrap();
    fs::rename(&family, file).unwrap();
    tokio::time::sleep(Duration::from_mins(10)).await;
}

async fn family(name: &str, envs: &[(&str, &str)]) -> (Process, Vec<String>) {
    let cluster = cluster().await;
    let file = cluster.path().join(format!("{name}.pids"));
    let envs = [&[("PIDS", file.to_str().unwrap())], envs].concat();
    let process = cluster.spawn(name, "sh", ["-c", FAMILY], &envs).unwrap();
    let pids = read(&file).await;
    (process, pids)
}

async fn read(file: &Path) -> Vec<String> {
    let text = until("the process ids", LIMIT, || async { Ok(fs::read_to_string(file)?) }).await.unwrap();
    text.split_whitespace().map(str::to_owned).collect()
}

/// The ids of this process's children.
fn children() -> Vec<String> {
    let me = format!("PPid:\t{}", std::process::id());
    let processes = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    processes
        .filter(|pid| fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|text| text.lines().any(|l| l == me)))
        .collect()
}

async fn gone(pids: &[String]) {
    assert!(pids.len() >= 2, "{pids:?}");
    until(format_args!("{pids:?} to be gone"), LIMIT, || async {
        let alive: Vec<_> = pids.iter().filter(|pid| alive(pid)).collect();
        anyhow::ensure!(alive.is_empty(), "{alive:?} are alive");
        Ok(())
    })
    .await
    .unwrap();
}

/// A zombie is not: whoever should reap an orphan may be slow, or missing in a container.
fn alive(pid: &str) -> bool {
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty())
}
