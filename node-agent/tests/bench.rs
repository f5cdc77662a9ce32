//! `railbind-agent bench server` and `client` as people and programs use them, and as strangers would.

#![expect(clippy::unwrap_used, reason = "helpers of tests: a panic here is a failed test")]

use std::{
    env, fs,
    io::{BufRead, BufReader, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

/// How long the server may take to say something.
const PATIENCE: Duration = Duration::from_secs(30);

fn agent(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_railbind-agent"));
    for (name, _) in env::vars().filter(|(name, _)| name.starts_with("UCX_") || name.starts_with("RAILBIND_")) {
        command.env_remove(name);
    }
    command.arg("bench").args(args);
    command
}

struct Server {
    child: Child,
    address: String,
    log: Receiver<String>,
}

impl Server {
    fn start(args: &[&str]) -> Self {
        Self::start_with(args, |_| {})
    }

    fn start_with(args: &[&str], change: impl Fn(&mut Command)) -> Self {
        let mut command = agent(&["server", "--listen", "127.0.0.1:0"]);
        command.args(args).env("UCX_TLS", "tcp").stderr(Stdio::piped());
        change(&mut command);
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let (sender, log) = channel();
        thread::spawn(move || lines.map_while(Result::ok).all(|line| sender.send(line).is_ok()));
        let line = log.recv_timeout(PATIENCE).unwrap();
        let address = line.strip_prefix("listening on ").and_then(|rest| rest.split(';').next());
        Self { address: address.unwrap_or_else(|| panic!("{line}")).into(), child, log }
    }

    /// The next line of its log that has this in it.
    fn says(&self, what: &str) -> String {
        loop {
            let line = self.log.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("the server never said {what}"));
            if line.contains(what) {
                return line;
            }
        }
    }

    fn client(&self, args: &[&str]) -> Command {
        let mut command = agent(&["client", &self.address]);
        for (name, value) in [("--sizes", "4KiB"), ("--seconds", "0.02")] {
            if !args.contains(&name) {
                command.args([name, value]);
            }
        }
        command.args(args).env("UCX_TLS", "tcp");
        command
    }

    fn connect(&self) -> TcpStream {
        TcpStream::connect(&self.address).unwrap()
    }

    /// A whole session works: whatever happened before left nothing behind.
    fn serves(&self) {
        let (status, report) = json(&mut self.client(&["--op", "put"]));
        assert!(status && report["integrity"] == "ok", "{report:#}");
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn json(command: &mut Command) -> (bool, Value) {
    let output = command.arg("--json").output().unwrap();
    let report = serde_json::from_slice(&output.stdout);
    (output.status.success(), report.unwrap_or_else(|error| panic!("{error}: {output:?}")))
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Both the JSON and the exit status say that it failed, and how.
fn refused(command: &mut Command, kind: &str, message: &str) {
    let (status, report) = json(command);
    let failure = &report["failure"];
    assert!(!status && failure["kind"] == kind, "{report:#}");
    assert!(failure["message"].as_str().unwrap().contains(message), "{report:#}");
    assert!(report["integrity"] == "unchecked" && report["sizes"] == json!([]), "{report:#}");
}

/// Processes whose parent is this one.
fn children(of: u32) -> Vec<String> {
    let all = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().into_string().ok());
    let parent = |process: &String| -> Option<String> {
        let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
        stat.rsplit(") ").next()?.split(' ').nth(1).map(Into::into)
    };
    all.filter(|process| parent(process).as_deref() == Some(&of.to_string())).collect()
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < end, "{what}");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn prints_the_contract_and_a_table() {
    let server = Server::start(&[]);
    let (status, report) = json(&mut server.client(&[]));
    assert!(status, "{report:#}");
    assert_eq!(report["memory"], json!({"local": "host", "remote": "host"}));
    assert_eq!((&report["integrity"], &report["transport"]), (&json!("ok"), &json!("tcp/lo")));
    assert_eq!(report["ucx"]["config"]["UCX_TLS"], "tcp");
    let sizes = report["sizes"].as_array().unwrap();
    let told: Vec<_> =
        sizes.iter().map(|size| (size["op"].as_str().unwrap(), size["bytes"].as_u64().unwrap())).collect();
    assert_eq!(told, [("put", 4096), ("get", 4096), ("tag", 4096), ("latency", 8)]);
    for size in sizes {
        let bandwidth = size["gbytes_per_s"].as_f64().unwrap();
        assert!(size["usec"].as_f64().unwrap() > 0.0 && (bandwidth > 0.0) == (size["op"] != "latency"), "{size}");
    }
    assert!(server.says("session with").contains("127.0.0.1"));
    let people = server.client(&["--op", "put"]).output().unwrap();
    let table = text(&people);
    assert!(people.status.success() && table.contains("Transport  tcp/lo\n"), "{table}");
    assert!(table.contains("\nput          4 KiB ") && table.contains("Integrity  ok"), "{table}");
    assert!(people.stderr.is_empty(), "progress is for terminals only: {table}");
    until("a process is left", || children(server.child.id()).is_empty());
}

#[test]
fn once_ends_with_the_sessions_success() {
    let mut server = Server::start(&["--once"]);
    server.serves();
    assert!(server.child.wait().unwrap().success());
    let mut server = Server::start(&["--once"]);
    let (status, report) = json(server.client(&["--op", "put"]).env("UCX_TLS", "bogus"));
    assert!(!status && report["failure"]["kind"] == "no-transport", "{report:#}");
    assert!(!server.child.wait().unwrap().success());
    // Its address is free again.
    TcpListener::bind(&server.address).unwrap();
}

#[test]
fn a_secret_keeps_strangers_out() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, secret: &str| {
        let path = folder.path().join(name);
        fs::write(&path, secret).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (right, wrong) = (file("right", "0123456789abcdef"), file("wrong", "0123456789abcdeX"));
    let server = Server::start(&["--secret-file", &right]);
    refused(&mut server.client(&["--secret-file", &wrong]), "protocol", "the client has another secret");
    assert!(server.says("refused").contains("another secret"));
    refused(&mut server.client(&[]), "protocol", "the server wants a secret");
    let (status, report) = json(&mut server.client(&["--op", "put", "--secret-file", &right]));
    assert!(status, "{report:#}");
    // A client that insists on a secret is not content with a server that has none.
    refused(&mut Server::start(&[]).client(&["--secret-file", &right]), "protocol", "the server has no secret");
    let short = file("short", "short");
    let output = agent(&["server", "--listen", "127.0.0.1:0", "--secret-file", &short]).output().unwrap();
    assert!(!output.status.success() && text(&output).contains("has 5 bytes: give 16 to 4096"), "{output:?}");
}

#[test]
fn a_replayed_secret_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("secret");
    fs::write(&path, "0123456789abcdef").unwrap();
    let secret = path.to_str().unwrap();
    let server = Server::start(&["--secret-file", secret]);

    // Somebody between the two records what the client says.
    let between = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = between.local_addr().unwrap().to_string();
    let mut client = agent(&["client", &address, "--secret-file", secret, "--op", "put", "--sizes", "4KiB"]);
    let mut client = client.env("UCX_TLS", "tcp").stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let (to_client, _) = between.accept().unwrap();
    let to_server = server.connect();
    let mut greeting = String::new();
    BufReader::new(&to_server).read_line(&mut greeting).unwrap();
    (&to_client).write_all(greeting.as_bytes()).unwrap();
    let mut ask = String::new();
    BufReader::new(&to_client).read_line(&mut ask).unwrap();
    (&to_server).write_all(ask.as_bytes()).unwrap();
    let mut answer = String::new();
    BufReader::new(&to_server).read_line(&mut answer).unwrap();
    assert!(answer.contains("accepted"), "{answer}");
    drop((to_client, to_server));
    client.wait().unwrap();
    server.says("failed: the other side closed the control connection");

    // The same words again are no proof, and neither is a changed order.
    let again = server.connect();
    let mut reader = BufReader::new(&again);
    reader.read_line(&mut greeting).unwrap();
    (&again).write_all(ask.as_bytes()).unwrap();
    answer.clear();
    reader.read_line(&mut answer).unwrap();
    assert!(answer.contains("refused") && answer.contains("another secret"), "{answer}");
}

#[test]
fn a_strangers_bytes_are_refused_and_the_server_goes_on() {
    let server = Server::start(&[]);
    let zeros = vec![0; 20_000];
    let newer = br#"{"ask":{"protocol":2,"agent":"9","nonce":"","order":{"secret":"","ops":[],"sizes":[],"limits":{"deadlineSeconds":1,"secondsEach":1,"stallSeconds":1,"bufferBytes":1,"share":1},"memory":null},"proof":null}}
"#;
    let cases: [(&[u8], &str); 5] = [
        (b"GET / HTTP/1.1\r\n\r\n", "does not speak `railbind-agent bench`"),
        (&zeros, "a line of more than 8192 bytes"),
        (b"{\"beat\":7}\n", "does not speak"),
        (b"\"beat\"\n", "did not ask for anything"),
        (newer, "speaks version 2 of the bench protocol, this one 1"),
    ];
    for (bytes, expected) in cases {
        let mut stranger = server.connect();
        // The server may be gone before it has taken all of it.
        let _ = stranger.write_all(bytes);
        assert!(server.says("refused").contains(expected), "{expected}");
        let mut rest = Vec::new();
        let _ = stranger.read_to_end(&mut rest);
    }
    let silent = server.connect();
    silent.shutdown(Shutdown::Write).unwrap();
    assert!(server.says("refused").contains("closed the control connection"));
    server.serves();
}

#[test]
fn a_slow_stranger_keeps_nobody_out_and_is_let_go() {
    let server = Server::start(&[]);
    let mut slow = server.connect();
    let begun = Instant::now();
    server.serves();
    // A byte a quarter of a second, for as long as it is taken.
    while slow.write_all(b" ").is_ok() && begun.elapsed() < Duration::from_secs(30) {
        thread::sleep(Duration::from_millis(250));
    }
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    assert!(server.says("refused").contains("did not answer within 5s"));
}

#[test]
fn orders_beyond_the_servers_bounds_are_refused() {
    let server = Server::start(&["--max-size", "1MiB", "--memory", "host"]);
    refused(&mut server.client(&["--sizes", "2MiB"]), "memory", "2 MiB are more than the 1 MiB");
    refused(&mut server.client(&["--seconds", "61"]), "protocol", "more than 60 s each");
    refused(&mut server.client(&["--deadline", "4000"]), "protocol", "3600 s in all");
    refused(&mut server.client(&["--remote-memory", "cuda:0"]), "memory", "lends memory of host, not of cuda:0");
    server.serves();
    let output = agent(&["client", "127.0.0.1:1", "--sizes", "2GiB"]).output().unwrap();
    assert!(!output.status.success() && text(&output).contains("from 1 byte to 1 GiB"), "{output:?}");
}

#[test]
fn a_busy_server_says_so_and_a_lost_client_frees_it() {
    let server = Server::start(&[]);
    let mut long = server.client(&["--seconds", "20", "--op", "put"]);
    let mut long = long.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    server.says("session with");
    refused(&mut server.client(&[]), "peer", "the server is busy with another session");
    long.kill().unwrap();
    long.wait().unwrap();
    server.says("failed: ");
    until("the child of the lost session is there", || children(server.child.id()).is_empty());
    server.serves();
}

#[test]
fn a_black_holed_server_ends_the_client_in_time() {
    let server = Server::start(&[]);
    // Its own child would notice as well, after its stall time.
    let mut client = server.client(&["--seconds", "30", "--stall", "40", "--op", "put", "--json"]);
    let client = client.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    server.says("session with");
    thread::sleep(Duration::from_millis(500));
    // Its child lives on: the connection is open, and nobody speaks.
    server.signal(Signal::STOP);
    let begun = Instant::now();
    let output = client.wait_with_output().unwrap();
    server.signal(Signal::CONT);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(!output.status.success() && report["failure"]["kind"] == "peer", "{report:#}");
    assert!(report["failure"]["message"].as_str().unwrap().contains("did not answer within 10s"), "{report:#}");
    assert!(begun.elapsed() < Duration::from_secs(20));
    server.serves();
}

#[test]
fn no_child_outlives_its_server() {
    let mut server = Server::start(&[]);
    let mut client = server.client(&["--seconds", "30", "--op", "put"]);
    let mut client = client.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    server.says("session with");
    until("no child", || !children(server.child.id()).is_empty());
    let processes = children(server.child.id());
    server.child.kill().unwrap();
    server.child.wait().unwrap();
    assert!(!client.wait().unwrap().success());
    until("an orphan", || processes.iter().all(|process| !Path::new(&format!("/proc/{process}")).exists()));
}

#[test]
fn too_little_memory_and_no_locked_memory() {
    let server = Server::start(&[]);
    let limited = |limit: &str, size: &str| {
        let mut command = Command::new("sh");
        let script = format!("ulimit {limit} && exec \"$0\" \"$@\"");
        command.args(["-c", &script, env!("CARGO_BIN_EXE_railbind-agent"), "bench", "client", &server.address]);
        command.args(["--op", "put", "--sizes", size, "--seconds", "0.02"]).env("UCX_TLS", "tcp");
        command
    };
    refused(&mut limited("-d 200000", "256MiB"), "memory", "of host memory cannot be had");
    // TCP locks nothing: that there is nothing to lock is no failure.
    let (status, report) = json(&mut limited("-l 0", "4KiB"));
    assert!(status && report["integrity"] == "ok", "{report:#}");
    server.serves();
}

/// The wheel's library folder.
fn wheel() -> String {
    let output = Command::new(sources().join("fetch.sh")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim_end().into()
}

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/ucx")
}

#[test]
fn memory_of_a_gpu_moves_and_is_compared() {
    let ucx = wheel();
    let folder = tempfile::tempdir().unwrap();
    for (name, define) in [("libcuda.so.1", "-DCUDA"), ("libnvidia-ml.so.1", "-DNVML")] {
        let mut cc = Command::new("cc");
        cc.args(["-shared", "-fPIC", "-w", define, "-o"])
            .arg(folder.path().join(name))
            .arg(sources().join("fakes/gpu.c"));
        assert!(cc.status().unwrap().success());
    }
    // The fake driver is found as a real one would be.
    let server = Server::start_with(&["--ucx-lib", &ucx], |command| {
        command.env("LD_LIBRARY_PATH", folder.path()).env("UCX_TLS", "tcp,cuda_copy");
    });
    let client = |memory: &[&str], tls: &str| {
        let mut command = server.client(&["--ucx-lib", &ucx, "--sizes", "64KiB"]);
        command.args(memory).env("LD_LIBRARY_PATH", folder.path()).env("UCX_TLS", tls);
        command
    };
    for (local, remote) in [("cuda:0", "cuda:0"), ("cuda:0", "host"), ("host", "cuda:0")] {
        let (status, report) = json(&mut client(&["--memory", local, "--remote-memory", remote], "tcp,cuda_copy"));
        assert!(status && report["integrity"] == "ok", "{local} {remote}: {report:#}");
        assert_eq!(report["memory"], json!({"local": local, "remote": remote}));
        assert_eq!(report["sizes"].as_array().unwrap().len(), 4);
    }
    // UCX would take it for the host's memory, and die of it on a real GPU.
    refused(&mut client(&["--memory", "cuda:0"], "tcp"), "no-transport", "UCX_TLS needs cuda_copy");
    refused(&mut client(&["--memory", "cuda:7"], "tcp,cuda_copy"), "memory", "cuDeviceGet");
}

#[test]
fn nobody_there_is_told() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    refused(&mut agent(&["client", &free]), "unreachable", "Connection refused");
    refused(&mut agent(&["client", "no such host"]), "unreachable", "connecting to no such host:7471");
    // Somebody else listens there.
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = other.local_addr().unwrap().to_string();
    let answer = thread::spawn(move || {
        let (mut stream, _) = other.accept().unwrap();
        stream.write_all(b"SSH-2.0-OpenSSH_9.2\r\n").unwrap();
    });
    refused(&mut agent(&["client", &address]), "protocol", "does not speak `railbind-agent bench`");
    answer.join().unwrap();
}
