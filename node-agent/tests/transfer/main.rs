//! Transfers between two real children over real UCX libraries, and everything that can end one: killed and hung peers, versions that
//! do not understand each other, broken libraries, too little memory. The broken libraries are compiled from `tests/ucx/fakes`.

#![expect(clippy::unwrap_used, reason = "helpers of tests: a panic here is a failed test")]

mod faults;
mod moves;

use std::{
    collections::BTreeMap,
    env, fs,
    io::{BufRead as _, BufReader},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use node_agent::selftest::child::Transfer;
use policies::selftest::{Failure, FailureKind, Limits, Memory, Op, Order, Report, Role, Said};
use tempfile::TempDir;

const SECRET: &str = "00112233445566778899aabbccddeeff";

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/ucx")
}

/// A wheel's library folder.
fn wheel(pin: &str) -> PathBuf {
    let output = Command::new(sources().join("fetch.sh")).arg(pin).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim_end().into()
}

/// The interface of [`Apart::net`] besides lo.
const INTERFACE: &str = "rb0";

/// Namespaces of their own, for as long as this is kept.
struct Apart {
    kinds: &'static [&'static str],
    holder: Child,
    folder: TempDir,
}

impl Apart {
    /// A network with one interface besides lo: versions of UCX before 1.19 and after 1.20 do not meet on lo.
    fn net() -> Self {
        // UCX looks for interfaces in /sys, which shows those of the namespace that it was mounted in.
        let set_up = "mount -t sysfs none /sys && ip link set lo up && ip link add rb0 type veth peer name rb1 && ip addr add 10.77.0.1/24 dev rb0 \
            && ip link set rb0 up && ip link set rb1 up && echo ready && exec sleep infinity";
        Self::set_up(&["--user", "--mount", "--net"], set_up, "a network namespace with a veth pair")
    }

    /// Mounts as the manifests' container has them: nothing can be written but /dev/shm, which is as small as a container runtime makes it.
    fn sealed() -> Self {
        // Flags that came with a mount must stay with it.
        let set_up = r#"while read -r _ at _ has _; do
            flags=ro
            for flag in nosuid nodev noexec noatime nodiratime relatime; do
                case ",$has," in *",$flag,"*) flags="$flags,$flag";; esac
            done
            mount -o "remount,bind,$flags" "$at" 2>/dev/null
        done < /proc/self/mounts
        mount -t tmpfs -o size=64m shm /dev/shm || exit 1
        for folder in / /tmp /var/tmp /run /root /dev "$1"; do
            test ! -d "$folder" || ! touch "$folder/written" 2>/dev/null || exit 1
        done
        touch /dev/shm/written && rm /dev/shm/written && echo ready && exec sleep infinity"#;
        Self::set_up(&["--user", "--mount"], set_up, "a mount namespace without a place to write")
    }

    /// `script` says `ready` and stays; its first argument is the folder of what is kept beside.
    fn set_up(kinds: &'static [&'static str], script: &str, what: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut holder = Command::new("unshare");
        holder.arg("--map-root-user").args(kinds).args(["sh", "-c", script, "sh"]).arg(folder.path());
        let mut holder = holder.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n", "{what}: are they allowed here?");
        Self { kinds, holder, folder }
    }

    /// A program that is the agent, in there.
    fn agent(&self) -> PathBuf {
        let (path, agent) = (self.folder.path().join("agent"), env!("CARGO_BIN_EXE_railbind-agent"));
        let (kinds, holder) = (self.kinds.join(" "), self.holder.id());
        let text = format!("#!/bin/sh\nexec nsenter {kinds} --preserve-credentials -t {holder} {agent} \"$@\"\n");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// The folder of the distribution's UCX.
fn distribution() -> PathBuf {
    let folders = ucx_sys::search::usual_folders();
    let files = ucx_sys::search::find(&folders).expect("scripts/setup.sh installs a UCX");
    files.ucp.parent().unwrap().into()
}

/// The distribution's UCX with a libucp in front that is broken in this way.
fn broken(how: &str) -> TempDir {
    let (folder, real) = (tempfile::tempdir().unwrap(), distribution());
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", "-o"]).arg(folder.path().join("libucp.so.0"));
    cc.arg(format!("-DHOW=\"{how}\"")).arg(sources().join("fakes/broken.c"));
    cc.arg("-Wl,--no-as-needed").arg(real.join("libucp.so.0")).arg(format!("-Wl,-rpath,{}", real.display()));
    assert!(cc.status().unwrap().success());
    for name in ["libucs.so.0", "libuct.so.0"] {
        std::os::unix::fs::symlink(real.join(name), folder.path().join(name)).unwrap();
    }
    folder
}

/// A library that is no UCX, and breaks in `ucp_init_version`.
fn fake(how: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let first = folder.path().join("libucp.so.0");
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", "-o"]).arg(&first).arg(format!("-DHOW=\"{how}\"")).arg(sources().join("fakes/ucx.c"));
    assert!(cc.status().unwrap().success());
    for name in ["libucs.so.0", "libuct.so.0"] {
        fs::copy(&first, folder.path().join(name)).unwrap();
    }
    folder
}

/// What both sides are ordered to do, and with what.
struct Case {
    initiator: Order,
    target: Order,
    /// Of the initiator, of the target; the loader's where there is none.
    ucx: [Vec<PathBuf>; 2],
    agent: PathBuf,
}

impl Case {
    fn new(tls: &str, ops: &[Op], sizes: &[u64]) -> Self {
        let limits = Limits {
            deadline_seconds: 60.0,
            seconds_each: 0.02,
            stall_seconds: 20.0,
            buffer_bytes: 64 << 20,
            share: 1.0,
        };
        let order = |role| Order {
            role,
            secret: SECRET.into(),
            memory: Memory::Host,
            ops: ops.to_vec(),
            sizes: sizes.to_vec(),
            env: BTreeMap::from([("UCX_TLS".into(), tls.into())]),
            limits,
        };
        Self {
            initiator: order(Role::Initiator),
            target: order(Role::Target),
            ucx: [vec![], vec![]],
            agent: env!("CARGO_BIN_EXE_railbind-agent").into(),
        }
    }

    fn all(tls: &str, sizes: &[u64]) -> Self {
        Self::new(tls, &[Op::Put, Op::Get, Op::Tag, Op::Latency], sizes)
    }

    fn limits(mut self, change: impl Fn(&mut Limits)) -> Self {
        change(&mut self.initiator.limits);
        change(&mut self.target.limits);
        self
    }

    /// Over the interface of this namespace.
    fn on(mut self, net: &Apart) -> Self {
        for order in [&mut self.initiator, &mut self.target] {
            order.env.insert("UCX_NET_DEVICES".into(), INTERFACE.into());
        }
        self.agent = net.agent();
        self
    }

    /// UCX of the initiator and of the target.
    fn with(mut self, initiator: &Path, target: &Path) -> Self {
        self.ucx = [vec![initiator.into()], vec![target.into()]];
        self
    }

    fn start(self) -> Pair {
        let (agent, [initiator, target]) = (self.agent.as_path(), self.ucx);
        Pair {
            initiator: Transfer::start_with(agent, self.initiator, &initiator),
            target: Transfer::start_with(agent, self.target, &target),
        }
    }

    /// The whole of it.
    fn run(self) -> Reports {
        self.run_with(|_, word| word, |_, _| {})
    }

    /// The same, with what is said changed on its way, and something done at each step of the initiator.
    fn run_with(self, change: impl Fn(Role, String) -> String, at: impl Fn(&Pair, u32)) -> Reports {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut pair = self.start();
            let processes = [pair.initiator.process(), pair.target.process()];
            let (begun, mut reports) = (Instant::now(), [None, None]);
            while reports.iter().any(Option::is_none) {
                let (from, said) = tokio::select! {
                    said = pair.initiator.next() => (Role::Initiator, said),
                    said = pair.target.next() => (Role::Target, said),
                };
                match (from, said) {
                    (Role::Initiator, Said::ToPeer(word)) => pair.target.say(change(from, word)).await,
                    (Role::Target, Said::ToPeer(word)) => pair.initiator.say(change(from, word)).await,
                    (Role::Initiator, Said::Progress { step, .. }) => at(&pair, step),
                    (Role::Target, Said::Progress { .. }) => {}
                    (Role::Initiator, Said::Report(report)) => reports[0] = Some((*report, begun.elapsed())),
                    (Role::Target, Said::Report(report)) => reports[1] = Some((*report, begun.elapsed())),
                }
            }
            let [Some((initiator, took)), Some((target, target_took))] = reports else { unreachable!() };
            for process in processes.into_iter().flatten() {
                assert!(!Path::new(&format!("/proc/{process}")).exists(), "{process} is still there");
            }
            Reports { initiator, target, took, target_took }
        })
    }
}

struct Pair {
    initiator: Transfer,
    target: Transfer,
}

#[derive(Debug)]
struct Reports {
    initiator: Report,
    target: Report,
    /// Until the initiator's was there.
    took: Duration,
    target_took: Duration,
}

impl Reports {
    /// Why the initiator failed.
    fn failure(&self) -> &Failure {
        self.initiator.failure.as_ref().unwrap_or_else(|| panic!("no failure: {self:#?}"))
    }

    fn failed(&self, kind: FailureKind, message: &str) {
        let failure = self.failure();
        assert!(failure.kind == kind && failure.message.contains(message), "{kind:?} {message}: {self:#?}");
        assert!(!failure.remedy.is_empty() && self.target.failure.is_some(), "{self:#?}");
    }
}
