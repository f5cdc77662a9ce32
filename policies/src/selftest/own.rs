//! What the self-test of a node goes by: which profiles it is to prove, under which environment, and whether its facts are still those.

use std::collections::BTreeMap;

use crate::{
    domain::fnv1a,
    kernel::Version,
    names::label,
    plan,
    profile::{EnvLine, Profiles, TransportProfile},
    roles::Fabric,
    select::{NodeView, qualifies},
};

/// Domain of the nodes that have no RDMA: they reach each other by TCP, wherever they are.
const TCP: &str = "tcp";

/// Value of `railbind.dev/fabric-domain` that a node's partners have; `None` where it is not known.
pub fn domain(fabric: Option<Fabric>, domain: Option<&str>) -> Option<String> {
    domain.map(str::to_owned).or_else(|| (fabric == Some(Fabric::Tcp)).then(|| TCP.into()))
}

/// A profile that a node is to prove.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate<'a> {
    /// Profile.
    pub profile: &'a TransportProfile,
    /// The fabric that it is for, here.
    pub fabric: Fabric,
}

/// The profile of each set that the node qualifies for, the default set's first: the one whose transfers the verdict is about.
pub fn candidates<'a>(profiles: &'a Profiles, node: &NodeView) -> Vec<Candidate<'a>> {
    let mut sets: Vec<&str> = profiles.iter().map(|profile| profile.spec.set.as_str()).collect();
    sets.sort_by_key(|set| (*set != profiles.default_set(), *set));
    sets.dedup();
    let found = sets.into_iter().filter_map(|set| qualifies(profiles, set, node));
    found.map(|(profile, fabric)| Candidate { profile, fabric }).collect()
}

/// What of a profile a result depends on: with other lines or another expectation, it says nothing any more. Words for people are left out.
pub fn promise(candidate: &Candidate<'_>) -> String {
    let spec = &candidate.profile.spec;
    let lines = spec.env.iter().map(|line| EnvLine { source: String::new(), ..line.clone() }).collect::<Vec<_>>();
    let ports = spec.expect.bandwidth.iter().map(|port| (&port.port, port.min, port.max)).collect::<Vec<_>>();
    let name = (&candidate.profile.metadata.name, &spec.set, candidate.fabric);
    serde_json::json!([name, spec.when.soft, lines, spec.expect.transports, ports]).to_string()
}

/// The environment that a pod of no particular engine would get of a profile on this node. `ucx`: the version that will read it.
pub fn environment(candidate: Candidate<'_>, node: &NodeView, ucx: Option<Version>) -> BTreeMap<String, String> {
    plan::environment(candidate.profile, candidate.fabric, node, ucx)
}

/// A word for the facts that a result depends on: with others, it says nothing any more.
///
/// `ports`: those that carry the fabric, as `mlx5_0:1`, with what UCX takes of them. `promises`: of the profiles that are to be proven.
pub fn fingerprint(node: &NodeView, ports: &[String], promises: &[String]) -> String {
    let keys = [
        label::FABRIC,
        label::PROFILE,
        label::GPUDIRECT,
        label::RATE_GBPS,
        label::GID_INDEX,
        label::GID_KIND,
        label::FABRIC_DOMAIN,
        label::KERNEL,
    ];
    let mut text = String::new();
    for key in keys {
        text += node.labels.get(key).map_or("", String::as_str);
        text.push('\n');
    }
    for part in ports
        .iter()
        .map(String::as_str)
        .chain([&node.net_devices, &node.roce_subnets].into_iter().flatten().map(String::as_str))
        .chain(promises.iter().map(String::as_str))
    {
        text += part;
        text.push('\n');
    }
    format!("{:016x}", fnv1a(text.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::Spec;

    fn roce() -> NodeView {
        let labels = [
            (label::FABRIC, "roce"),
            (label::GPUDIRECT, "dmabuf"),
            (label::PROFILE, "roce-gpudirect"),
            (label::GID_INDEX, "5"),
        ];
        NodeView {
            labels: labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
            net_devices: Some("mlx5_0:1".into()),
            ..NodeView::default()
        }
    }

    #[test]
    fn each_set_has_its_candidate_and_it_gets_what_a_pod_would_get() {
        let profiles = Profiles::embedded().unwrap();
        let found = candidates(&profiles, &roce());
        let names: Vec<&str> = found.iter().map(|found| found.profile.metadata.name.as_str()).collect();
        assert_eq!(names, ["roce-gpudirect", "nixl-roce"]);
        let env = environment(found[0], &roce(), Some(Version::new(1, 18)));
        assert_eq!(env["UCX_IB_GID_INDEX"], "5", "the node's own");
        assert!(!env.contains_key("UCX_IB_REG_METHODS"), "only for UCX before 1.16: {env:?}");
        assert!(environment(found[0], &roce(), Some(Version::new(1, 13))).contains_key("UCX_IB_REG_METHODS"));
        let env = environment(found[1], &roce(), None);
        assert_eq!((env["UCX_NET_DEVICES"].as_str(), env["UCX_IB_ROCE_SUBNETS"].as_str()), ("mlx5_0:1", "all"));
    }

    #[test]
    fn a_value_outside_its_grammar_is_not_used() {
        let profiles = Profiles::embedded().unwrap();
        let mut node = roce();
        node.labels.insert(label::GID_INDEX.into(), "5;rm".into());
        assert_eq!(environment(candidates(&profiles, &node)[0], &node, None)["UCX_IB_GID_INDEX"], "auto");
    }

    #[test]
    fn other_facts_have_another_word_and_the_verdict_is_none_of_them() {
        let word = |node: &NodeView| fingerprint(node, &["mlx5_0:1".into()], &[]);
        let mut node = roce();
        node.labels.insert(label::SELFTEST.into(), "failed".into());
        assert_eq!(word(&node), word(&roce()));
        node.labels.insert(label::GID_INDEX.into(), "3".into());
        assert_ne!(word(&node), word(&roce()));
        assert_ne!(word(&roce()), fingerprint(&roce(), &[], &[]));
    }

    #[test]
    fn a_profile_that_promises_otherwise_is_to_be_proven_anew_and_other_words_are_not() {
        let shipped = Profiles::embedded().unwrap();
        let with = |change: fn(&mut Spec)| {
            let mut profile = shipped.get("roce-gpudirect").unwrap().clone();
            change(&mut profile.spec);
            let profiles = shipped.overridden_by([profile]);
            let promises: Vec<String> = candidates(&profiles, &roce()).iter().map(promise).collect();
            fingerprint(&roce(), &[], &promises)
        };
        let before = with(|_| {});
        assert_eq!(with(|spec| (spec.description, spec.env[0].source) = ("other".into(), "words".into())), before);
        assert_ne!(with(|spec| spec.env[0].name = "UCX_ANOTHER".into()), before);
        assert_ne!(with(|spec| spec.expect.bandwidth[0].min += 1.0), before);
        assert_ne!(with(|spec| spec.expect.transports.push("tcp".into())), before);
    }

    #[test]
    fn nodes_without_rdma_are_partners_of_each_other() {
        assert_eq!(domain(Some(Fabric::Tcp), None).as_deref(), Some("tcp"));
        assert_eq!(domain(Some(Fabric::Roce), Some("roce-10.0.0.0-24")).as_deref(), Some("roce-10.0.0.0-24"));
        assert_eq!((domain(Some(Fabric::Roce), None), domain(None, None)), (None, None));
    }
}
