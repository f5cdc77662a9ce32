//! The README's tables and the manifests spell the names as the code does.

#![allow(clippy::unwrap_used, reason = "all of it is tests, helpers included")]

use policies::names::{DOMAIN, annotation, label};

mod links;
mod markdown;

const README: &str = include_str!("../../../README.md");
const FENCE: &str = include_str!("../../../manifests/base/agent-fence.yaml");

#[test]
fn every_label_and_annotation_is_in_the_readme() {
    let labels = label::ALL.iter();
    let users = [
        label::INJECT,
        label::GROUP,
        annotation::CONTAINERS,
        annotation::PLACEMENT,
        annotation::UCX_VERSION,
        annotation::DECISION,
    ];
    let more = [
        annotation::PROFILE_SET,
        annotation::CONFLICTS,
        annotation::NO_RDMA,
        annotation::NET_DEVICES,
        annotation::ROCE_SUBNETS,
        annotation::SELFTEST_REQUESTED,
        annotation::FASTEST_SET,
    ];
    for name in labels.chain(&more).chain(&users) {
        assert!(README.contains(&format!("`{name}`")), "README.md does not name {name}");
    }
}

#[test]
fn the_fence_holds_the_agent_to_our_prefix() {
    let prefix = format!("startsWith('{DOMAIN}/')");
    assert_eq!(FENCE.matches("startsWith('").count(), FENCE.matches(&prefix).count());
    assert!(FENCE.matches(&prefix).count() >= 6);
}

#[test]
fn the_example_rule_goes_by_our_condition_and_label() {
    let rule = include_str!("../../../manifests/examples/node-readiness-rule.yaml");
    assert!(rule.contains(&format!("type: {}\n", policies::names::CONDITION)));
    assert!(rule.contains(&format!("key: {},", label::FABRIC)));
}
