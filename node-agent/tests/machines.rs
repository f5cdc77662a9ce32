//! Every fixture machine says what `tests/fixtures/expected.yaml` says, and no machine is without an expectation.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use node_agent::survey;
use policies::{profile::Profiles, report};
use serde::Deserialize;

#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Expected {
    labels: BTreeMap<String, String>,
    #[serde(default)]
    problems: BTreeMap<String, usize>,
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures")
}

#[test]
fn machines() {
    let text = fs::read_to_string(fixtures().join("expected.yaml")).unwrap();
    let expected: BTreeMap<String, Expected> = serde_saphyr::from_str(&text).unwrap();
    let folders: BTreeSet<String> = fs::read_dir(fixtures())
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.path().join("proc").is_dir() || entry.path().join("sys").is_dir())
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    assert_eq!(folders, expected.keys().cloned().collect(), "a machine without expectation, or the other way round");
    assert!(expected.len() >= 25);
    let profiles = Profiles::embedded().unwrap();
    for (name, expected) in &expected {
        let found = survey::survey(&survey::open(&fixtures().join(name)).unwrap(), &profiles, None);
        let labels = found.verdict.labels_on(&BTreeMap::new());
        for (key, value) in &labels {
            let valid = value.len() <= 63
                && value.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
                && value.starts_with(|c: char| c.is_ascii_alphanumeric())
                && value.ends_with(|c: char| c.is_ascii_alphanumeric());
            assert!(valid, "{name}: {key}={value}");
        }
        for line in report::nics(&found.facts, &found.verdict).lines() {
            assert!(line.len() < 138 && line.chars().all(|c| c == ' ' || c.is_ascii_graphic()), "{name}: {line:?}");
        }
        let mut problems = BTreeMap::new();
        for problem in &found.problems {
            *problems.entry(problem.code.clone()).or_default() += 1;
            assert!(!problem.remedy.is_empty() && !problem.subject.is_empty(), "{name}: {problem:?}");
        }
        let labels = labels.into_iter().map(|(key, value)| (key.trim_start_matches("railbind.dev/").to_owned(), value));
        assert_eq!((&Expected { labels: labels.collect(), problems }), expected, "{name}");
    }
}

#[test]
fn a_survey_goes_by_profiles_of_your_own() {
    let folder = tempfile::tempdir().unwrap();
    let shipped = include_str!("../../policies/profiles/guide/infiniband-gpudirect.yaml");
    let own = shipped.replace("name: infiniband-gpudirect", "name: house-ib").replace("priority: 600", "priority: 900");
    fs::write(folder.path().join("house-ib.yaml"), own).unwrap();
    let survey = |args: &[&str]| {
        let mut agent = Command::new(env!("CARGO_BIN_EXE_railbind-agent"));
        agent.args(["survey", "--json", "--root"]).arg(fixtures().join("ib-ndr-gdr")).args(args);
        let output = agent.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        found["labels"]["railbind.dev/profile"].clone()
    };
    assert_eq!(survey(&[]), "infiniband-gpudirect");
    assert_eq!(survey(&["--profiles", folder.path().to_str().unwrap()]), "house-ib");
}
