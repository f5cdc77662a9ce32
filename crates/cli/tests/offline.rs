//! The binary as people run it, without a cluster.

#![allow(clippy::unwrap_used, reason = "all of it is tests, helpers included")]

use std::process::{Command, Output};

fn run(args: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kubectl-railbind"));
    command
        .args(args.split(' ').filter(|word| !word.is_empty()))
        .env_clear()
        .env("KUBECONFIG", "/nonexistent/kubeconfig");
    command.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../..")).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn help_teaches() {
    let mut all = String::new();
    for command in ["", "status", "doctor", "explain", "matrix", "ui", "selftest", "advise", "collect", "completion"] {
        let output = run(&format!("{command} --help"));
        assert!(output.status.success());
        all += &["$ kubectl railbind ", command, " --help\n", &text(&output.stdout), "\n"].concat();
    }
    insta::assert_snapshot!(all);
}

#[test]
fn the_guides_figures() {
    for (osl, parts) in [
        (2000, ["10,910 output tokens", "1.1x slower", "Acceptable"]),
        (100, ["10,910 output tokens", "3.1x slower", "Keep prefill and decode together"]),
    ] {
        let output = run(&format!("advise --isl 4000 --osl {osl}"));
        let shown = text(&output.stdout);
        assert_eq!(output.status.code(), Some(0));
        assert!(parts.iter().all(|part| shown.contains(part)), "{shown}");
        assert!(!shown.contains('\u{1b}'), "colours without a terminal: {shown:?}");
    }
    insta::assert_snapshot!(text(&run("advise --isl 4000 --osl 2000").stdout));
    let own = "advise --isl 8000 --osl 500 --ttft-agg 400 --itl-agg 9 --model-shape 32,8,128,bf16 --bandwidth 47.1";
    insta::assert_snapshot!(text(&run(own).stdout));
}

#[test]
fn answers_for_programs_say_the_same() {
    let json: serde_json::Value = serde_json::from_slice(&run("advise --isl 4000 --osl 100 -o json").stdout).unwrap();
    assert_eq!(json["breakEven"]["tokens"], 10_910);
    let yaml: serde_json::Value =
        serde_saphyr::from_str(&text(&run("advise --isl 4000 --osl 100 -o yaml").stdout)).unwrap();
    assert_eq!(yaml["recommendation"], json["recommendation"]);
}

#[test]
fn a_plot_as_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("plot.svg");
    let output = run(&format!("advise --isl 4000 --osl 2000 --svg {}", file.display()));
    assert!(output.status.success());
    let svg = std::fs::read_to_string(file).unwrap();
    assert!(svg.starts_with("<svg") && svg.contains("even at 10,910") && svg.ends_with("</svg>\n"), "{svg}");
}

#[test]
fn explained_offline_as_the_webhook_does() {
    let file = "webhook/tests/pods/efa-fatal-settings.yaml";
    let output = run(&format!("explain -f {file} --nodes tests/demo/nodes.yaml -o json"));
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&answer["managed"], &answer["profile"]), (&true.into(), &"efa-host-staged".into()));
    insta::assert_snapshot!(text(&run(&format!("explain -f {file} --nodes tests/demo/nodes.yaml")).stdout));
}

#[test]
fn colours_where_they_are_wanted() {
    let coloured = |variables: &[(&str, &str)]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kubectl-railbind"));
        command.args(["advise", "--isl", "1", "--osl", "1"]).env_clear().envs(variables.iter().copied());
        text(&command.output().unwrap().stdout).contains('\u{1b}')
    };
    assert!(coloured(&[("CLICOLOR_FORCE", "1"), ("TERM", "xterm-256color")]));
    assert!(!coloured(&[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1"), ("TERM", "xterm-256color")]));
    assert!(!coloured(&[("TERM", "xterm-256color")]), "to a pipe");
}

#[test]
fn completion() {
    for shell in ["bash", "zsh", "fish"] {
        let output = run(&format!("completion {shell}"));
        assert!(output.status.success() && text(&output.stdout).contains("doctor"), "{shell}");
    }
}

#[test]
fn kubectl_completes_by_a_link() {
    let dir = tempfile::tempdir().unwrap();
    let link = dir.path().join("kubectl_complete-railbind");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_kubectl-railbind"), &link).unwrap();
    let output = Command::new(link).args(["doctor", "de"]).output().unwrap();
    assert!(text(&output.stdout).starts_with("deployment\t") && text(&output.stdout).ends_with(":4\n"), "{output:?}");
}

#[test]
fn files_and_words_that_make_no_sense() {
    for (args, says) in [
        ("advise --isl 1 --osl 1 -f /nonexistent", "/nonexistent"),
        ("advise --isl 1 --osl 1 -f Cargo.toml", "not JSON"),
        ("explain -f /nonexistent --nodes tests/demo/nodes.yaml", "/nonexistent"),
        ("explain -f Makefile --nodes tests/demo/nodes.yaml", "Makefile"),
        ("doctor elephant", "elephant"),
    ] {
        let output = run(args);
        assert_eq!(output.status.code(), Some(2), "{args}: {}", text(&output.stderr));
        assert!(text(&output.stderr).contains(says), "{args}: {}", text(&output.stderr));
    }
}

#[test]
fn no_cluster() {
    for args in
        ["status", "doctor", "matrix", "selftest", "collect", "explain pod x", "advise --isl 1 --osl 1 --pair a,b"]
    {
        let output = run(args);
        assert_eq!(output.status.code(), Some(3), "{args}: {}", text(&output.stderr));
        assert!(text(&output.stderr).starts_with("error: no cluster: "), "{args}: {}", text(&output.stderr));
    }
    // An address where nobody listens, and one that takes connections and says nothing.
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("kubeconfig");
    let mute = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    for port in [gone, mute.local_addr().unwrap().port()] {
        let config = format!(
            "{{apiVersion: v1, kind: Config, current-context: c, clusters: [{{name: c, cluster: {{server: 'http://127.0.0.1:{port}'}}}}], contexts: [{{name: c, context: {{cluster: c, user: u}}}}], users: [{{name: u, user: {{}}}}]}}"
        );
        std::fs::write(&file, config).unwrap();
        let output = run(&format!("status --request-timeout 1 --kubeconfig {}", file.display()));
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{said}");
        assert!(said.contains(&format!("http://127.0.0.1:{port} does not answer")), "{said}");
    }
}
