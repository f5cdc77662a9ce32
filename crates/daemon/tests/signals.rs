//! Real signals, to a child process: this very test binary.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use daemon::Shutdown;

const CHILD: &str = "RAILBIND_TEST_SIGNALS_CHILD";

/// Runs only as the child: says that it listens, waits for the request, then for the end.
#[tokio::test]
async fn child() {
    let Ok(stay) = std::env::var(CHILD) else { return };
    let shutdown = Shutdown::on_signals().unwrap();
    println!("\nlistening");
    shutdown.requested().await;
    println!("\nasked");
    if stay == "stay" {
        std::future::pending::<()>().await;
    }
    std::process::exit(0);
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    fn start(mode: &str) -> (Self, impl FnMut(&str)) {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--nocapture"])
            .env(CHILD, mode)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let wait_for = move |text: &str| assert!(lines.any(|line| line.unwrap() == text), "no {text}");
        (Self(child), wait_for)
    }

    fn signal(&self, name: &str) {
        let status = Command::new("kill").args(["-s", name, &self.0.id().to_string()]).status();
        assert!(status.unwrap().success());
    }

    fn code(&mut self) -> Option<i32> {
        let deadline = Instant::now() + Duration::from_secs(10);
        while Instant::now() < deadline {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("still there");
    }
}

#[test]
fn either_signal_asks() {
    for name in ["TERM", "INT"] {
        let (mut child, mut wait_for) = Running::start("leave");
        wait_for("listening");
        child.signal(name);
        wait_for("asked");
        assert_eq!(child.code(), Some(0), "{name}");
    }
}

#[test]
fn the_second_signal_ends_it() {
    let (mut child, mut wait_for) = Running::start("stay");
    wait_for("listening");
    child.signal("TERM");
    wait_for("asked");
    child.signal("TERM");
    assert_eq!(child.code(), Some(130));
}
