//! Alert rules and dashboard: they parse, fire when they should, and name only metrics that our programs have.

use std::{collections::BTreeSet, fs, path::Path, process::Command};

use harness::{railbind::repository, tool};
use serde_json::Value;

fn read(file: &str) -> String {
    fs::read_to_string(repository().join("manifests/monitoring").join(file)).unwrap()
}

async fn promtool(args: &[&str]) -> String {
    let mut command = Command::new(tool("promtool").await.unwrap());
    let output = command.args(args).current_dir(repository().join("manifests/monitoring")).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "promtool {args:?}: {text}");
    text
}

#[tokio::test]
async fn alerts_fire_when_they_should_and_only_then() {
    let said = promtool(&["check", "rules", "--lint-fatal", "rules.yaml"]).await;
    assert!(said.contains("13 rules found"), "{said}");
    promtool(&["test", "rules", "rules_test.yaml"]).await;
    let tests = read("rules_test.yaml");
    for alert in read("rules.yaml").lines().filter_map(|line| line.trim().strip_prefix("- alert: ")) {
        assert!(tests.contains(alert), "{alert} has no test");
    }
}

#[test]
fn the_prometheus_rule_is_the_plain_file() {
    let plain: Value = serde_saphyr::from_str(&read("rules.yaml")).unwrap();
    let object: Value = serde_saphyr::from_str(&read("alerts.yaml")).unwrap();
    assert_eq!(object["spec"], plain);
}

fn dashboard() -> Value {
    serde_json::from_str(&read("dashboard.json")).unwrap()
}

/// The expressions of the dashboard and of the rules.
fn expressions() -> Vec<String> {
    let mut found: Vec<String> = dashboard()["panels"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|panel| panel["targets"].as_array().unwrap())
        .map(|target| target["expr"].as_str().unwrap().to_owned())
        .collect();
    let rules: Value = serde_saphyr::from_str(&read("rules.yaml")).unwrap();
    for group in rules["groups"].as_array().unwrap() {
        found.extend(group["rules"].as_array().unwrap().iter().map(|rule| rule["expr"].as_str().unwrap().to_owned()));
    }
    found
}

#[tokio::test]
async fn every_expression_of_the_dashboard_parses() {
    let rules: Vec<Value> = expressions()
        .iter()
        .enumerate()
        .map(|(number, expr)| serde_json::json!({"record": format!("test:expression:{number}"), "expr": expr}))
        .collect();
    assert!(rules.len() > 25, "{}", rules.len());
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rules.json");
    fs::write(&file, serde_json::json!({"groups": [{"name": "dashboard", "rules": rules}]}).to_string()).unwrap();
    promtool(&["check", "rules", "--lint=none", file.to_str().unwrap()]).await;
}

/// Names of a program's metrics as its code spells them, with a prefix that the registry puts before each.
fn spelled(file: &Path, prefix: &str) -> BTreeSet<String> {
    let source = fs::read_to_string(file).unwrap();
    let words = source.split('"').skip(1).step_by(2);
    let name = |word: &&str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    words.filter(name).map(|word| format!("{prefix}{word}")).collect()
}

#[test]
fn only_metrics_that_exist_are_named() {
    let mut known = spelled(&repository().join("webhook/src/metrics.rs"), "");
    known.extend(spelled(&repository().join("node-agent/src/metrics.rs"), "railbind_agent_"));
    known.extend(spelled(&repository().join("node-agent/src/selftest/metrics.rs"), "railbind_selftest_"));
    let mut named = BTreeSet::new();
    for expr in expressions() {
        let words = expr.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
        named.extend(words.filter(|word| word.starts_with("railbind_")).map(str::to_owned));
    }
    assert!(named.len() >= 14, "{named:?}");
    for name in named {
        let bare = ["_total", "_bucket", "_seconds"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(&name);
        assert!(known.contains(&name) || known.contains(bare), "{name} is not a metric of ours");
    }
}

#[test]
fn the_dashboard_is_one_that_grafana_takes() {
    let dashboard = dashboard();
    assert!(dashboard["schemaVersion"].as_u64().unwrap() >= 36 && dashboard["uid"] == "railbind");
    assert_eq!(dashboard["templating"]["list"][0]["name"], "datasource");
    let panels = dashboard["panels"].as_array().unwrap();
    let (mut ids, mut cells) = (BTreeSet::new(), BTreeSet::new());
    for panel in panels {
        let title = panel["title"].as_str().unwrap();
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title}: id twice");
        assert!(["stat", "table", "timeseries"].contains(&panel["type"].as_str().unwrap()), "{title}");
        for target in panel["targets"].as_array().unwrap() {
            assert_eq!(target["datasource"]["uid"], "${datasource}", "{title}");
        }
        let side = |name: &str| panel["gridPos"][name].as_u64().unwrap();
        assert!(side("x") + side("w") <= 24, "{title} is too wide");
        for place in
            (side("x")..side("x") + side("w")).flat_map(|x| (side("y")..side("y") + side("h")).map(move |y| (x, y)))
        {
            assert!(cells.insert(place), "{title} lies over another panel");
        }
    }
    for wanted in ["Fabric map", "Node × node", "TTFT risk", "decision"] {
        assert!(panels.iter().any(|panel| panel["title"].as_str().unwrap().contains(wanted)), "{wanted}");
    }
}
