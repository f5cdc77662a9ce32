//! What must hold for every machine, however broken.

use std::collections::BTreeMap;

use policies::{
    fabric::{Fact, Facts, Problem},
    names::label,
    node_fabric,
    profile::Profiles,
    rails, report, roles,
    verdict::{self, Label},
};

/// Longest text of a problem that a person or an API object is to carry.
const MAX_MESSAGE: usize = 1024;

/// Everything that is decided from `facts`, and the rules of what is published.
pub fn check(facts: &Facts, problems: &[Problem], profiles: &Profiles) {
    for problem in problems {
        assert!(problem.message.len() <= MAX_MESSAGE && !problem.remedy.is_empty(), "{problem:?}");
    }
    let json = serde_json::to_string(facts).expect("facts are JSON");
    let again: Facts = serde_json::from_str(&json).expect("and are read back");
    assert_eq!(&again, facts, "facts change on the wire");

    let verdict = verdict::decide(facts, profiles, Some("eu-central-1a"));
    for (key, value) in &verdict.labels {
        assert!(label::ALL.contains(&key.as_str()), "{key} is no label of ours");
        match value {
            Label::Set(value) => assert!(is_label_value(value), "{key}={value:?}"),
            Label::Keep { fallback, .. } => {
                assert!(fallback.as_deref().is_none_or(is_label_value), "{key}={fallback:?}");
            }
        }
    }
    if matches!(facts.devices, Fact::Unknown(_)) {
        let fabric = verdict.labels.get(label::FABRIC);
        assert!(matches!(fabric, Some(Label::Keep { .. })), "unreadable devices must not make a TCP node: {fabric:?}");
    }
    let labels = verdict.labels_on(&BTreeMap::new());
    assert!(
        !(is_infiniband(&verdict) && labels.contains_key(label::GID_INDEX)),
        "a GID index on InfiniBand: {labels:?}"
    );

    for line in report::nics(facts, &verdict).lines() {
        assert!(line.len() <= report::LINE_WIDTH, "{line}");
        assert!(line.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()), "{line:?}");
    }
    let condition = report::condition(&verdict);
    assert!(["True", "False", "Unknown"].contains(&condition.status.as_str()));
    assert!(condition.reason.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{condition:?}");
    let status = node_fabric::status(facts, &verdict, condition, problems);
    serde_json::to_string(&status).expect("the status is JSON");

    let found = rails::find(facts, &roles::assign(facts));
    assert!(found.net_devices.value.as_deref().is_none_or(rails::valid_net_devices), "{found:?}");
    assert!(found.roce_subnets.value.as_deref().is_none_or(rails::valid_roce_subnets), "{found:?}");
}

fn is_infiniband(verdict: &verdict::Verdict) -> bool {
    verdict.fabric.known() == Some(&roles::Fabric::InfiniBand)
}

/// Kubernetes: at most 63 of `[A-Za-z0-9._-]`, alphanumeric at both ends; ours are never empty.
fn is_label_value(value: &str) -> bool {
    let ends = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = value.as_bytes();
    bytes.len() <= 63
        && ends(bytes.first())
        && ends(bytes.last())
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(byte))
}
