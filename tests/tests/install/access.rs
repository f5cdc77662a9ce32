//! What the two accounts may do: the documented table, the roles, the API server's own answer, and real tokens that try more.

mod attempts;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use anyhow::{Context as _, Result};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use harness::railbind::{NAMESPACE, repository};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::{Api, api::PostParams};
use serde_json::Value;

use crate::{installed, render::kustomize};

const VERBS: [&str; 8] = ["get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"];

/// One right: verb, `resource.group` with `/subresource`, namespace, object; the last two empty for all.
type Right = [String; 4];

/// The rights that the roles of a rendered installation give to an account.
fn from_roles(objects: &BTreeMap<String, Value>, account: &str) -> BTreeSet<Right> {
    let mut rights = BTreeSet::new();
    for binding in
        objects.values().filter(|object| object["kind"].as_str().is_some_and(|kind| kind.ends_with("RoleBinding")))
    {
        let subjects = binding["subjects"].as_array().unwrap();
        assert!(
            subjects.iter().all(|subject| subject["namespace"] == NAMESPACE && subject["kind"] == "ServiceAccount")
        );
        if !subjects.iter().any(|subject| subject["name"] == account) {
            continue;
        }
        let role = &binding["roleRef"];
        let role = &objects[&format!("{}/{}", role["kind"].as_str().unwrap(), role["name"].as_str().unwrap())];
        let namespace = role["metadata"]["namespace"].as_str().unwrap_or_default();
        let strings = |value: &Value| {
            value.as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        for rule in role["rules"].as_array().unwrap() {
            let names =
                if rule["resourceNames"].is_null() { vec![String::new()] } else { strings(&rule["resourceNames"]) };
            for (group, resource) in strings(&rule["apiGroups"]).iter().flat_map(|group| {
                strings(&rule["resources"]).into_iter().map(move |resource| (group.clone(), resource))
            }) {
                for verb in strings(&rule["verbs"]) {
                    assert!(![&verb, &resource, &group].contains(&&"*".to_owned()), "no wildcards: {rule}");
                    for name in &names {
                        rights.insert([verb.clone(), qualified(&resource, &group), namespace.into(), name.clone()]);
                    }
                }
            }
        }
    }
    rights
}

/// `nodes/status` of the group "" and `nodefabrics.railbind.dev/status` of another.
fn qualified(resource: &str, group: &str) -> String {
    let (name, sub) = resource.split_once('/').map_or((resource, ""), |(name, sub)| (name, sub));
    let group = if group.is_empty() { String::new() } else { format!(".{group}") };
    if sub.is_empty() { format!("{name}{group}") } else { format!("{name}{group}/{sub}") }
}

/// The same from a table of docs/permissions.md.
fn from_table(heading: &str) -> BTreeSet<Right> {
    let text = fs::read_to_string(repository().join("docs/permissions.md")).unwrap();
    let section = text.split(&format!("\n## {heading}\n")).nth(1).unwrap().split("\n## ").next().unwrap();
    let mut rights = BTreeSet::new();
    for row in section.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        assert_eq!(cells.len(), 7, "{row}");
        assert!(!cells[4].is_empty() && !cells[5].is_empty(), "no reason: {row}");
        let quoted = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
        let mut place = quoted(cells[3]);
        let namespace = if cells[3].starts_with("namespace") || cells[3].contains(" in ") {
            place.pop().unwrap()
        } else {
            String::new()
        };
        let names = match &place[..] {
            [] => vec![String::new()],
            [from, to] => {
                let (stem, first) = from.rsplit_once('-').unwrap();
                let last: usize = to.strip_prefix(&format!("{stem}-")).unwrap().parse().unwrap();
                (first.parse::<usize>().unwrap()..=last).map(|number| format!("{stem}-{number}")).collect()
            }
            names => names.to_vec(),
        };
        for (resource, verb) in
            quoted(cells[1]).iter().flat_map(|resource| cells[2].split(", ").map(move |verb| (resource, verb)))
        {
            for name in &names {
                assert!(
                    rights.insert([verb.into(), resource.clone(), namespace.clone(), name.clone()]),
                    "twice: {row}"
                );
            }
        }
    }
    rights
}

#[tokio::test]
async fn the_tables_are_what_the_roles_say() {
    let (base, policy) = (kustomize("base").await.unwrap(), kustomize("overlays/policy-engine").await.unwrap());
    assert_eq!(from_table("railbind-agent"), from_roles(&base, "railbind-agent"));
    assert_eq!(from_table("railbind-webhook"), from_roles(&base, "railbind-webhook"));
    assert_eq!(from_roles(&policy, "railbind-agent"), from_roles(&base, "railbind-agent"));
    let more: BTreeSet<Right> = &from_roles(&policy, "railbind-webhook") - &from_roles(&base, "railbind-webhook");
    assert_eq!(from_table("railbind-webhook, with the overlay policy-engine"), more);
}

/// Every resource of the API server, subresources included, as (group, resource, namespaced).
async fn resources() -> Result<Vec<(String, String, bool)>> {
    let cluster = installed().await;
    let mut found = Vec::new();
    let groups: Value = serde_json::from_str(&cluster.kubectl(&["get", "--raw", "/apis"]).await?)?;
    let versions = groups["groups"].as_array().context("groups")?.iter();
    let paths = versions
        .map(|group| format!("/apis/{}", group["preferredVersion"]["groupVersion"].as_str().unwrap_or_default()));
    for path in std::iter::once("/api/v1".to_owned()).chain(paths) {
        let list: Value = serde_json::from_str(&cluster.kubectl(&["get", "--raw", &path]).await?)?;
        let group = path.split('/').nth(2).filter(|_| path.starts_with("/apis/")).unwrap_or_default();
        for resource in list["resources"].as_array().context("resources")? {
            let name = resource["name"].as_str().context("name")?;
            found.push((group.to_owned(), name.to_owned(), resource["namespaced"] == true));
        }
    }
    Ok(found)
}

#[tokio::test]
async fn nothing_else_is_allowed() {
    let cluster = installed().await;
    let api: Api<SubjectAccessReview> = Api::all(cluster.client().await.unwrap());
    let resources = resources().await.unwrap();
    let objects = kustomize("base").await.unwrap();
    let mut asked = 0;
    for account in ["railbind-agent", "railbind-webhook"] {
        let given = from_roles(&objects, account);
        // Each right is asked for without a name, so that one that holds for a single object must not show, and for that object.
        let mut questions: BTreeSet<Right> = given.clone();
        for (group, resource, namespaced) in &resources {
            let namespaces: &[&str] = if *namespaced { &["", "default", "kube-system", NAMESPACE] } else { &[""] };
            for (verb, namespace) in
                VERBS.iter().flat_map(|verb| namespaces.iter().map(move |namespace| (verb, namespace)))
            {
                questions.insert([(*verb).into(), qualified(resource, group), (*namespace).into(), String::new()]);
            }
        }
        asked += questions.len();
        let allowed: BTreeSet<Right> = stream::iter(questions)
            .map(|right| async {
                let yes = ask(&api, account, &right).await?;
                anyhow::Ok(yes.then_some(right))
            })
            .buffer_unordered(16)
            .try_filter_map(|right| async { Ok(right) })
            .try_collect()
            .await
            .unwrap();
        // A right on all namespaces shows in each of them, and everybody may ask who he is and what he may.
        let covered = |right: &Right| {
            let everywhere = [right[0].clone(), right[1].clone(), String::new(), right[3].clone()];
            let everybody = right[0] == "create"
                && ["selfsubject", "selfsubjectaccessreviews"].iter().any(|name| right[1].starts_with(name));
            given.contains(right) || given.contains(&everywhere) || everybody
        };
        let unexpected: Vec<_> = allowed.iter().filter(|right| !covered(right)).collect();
        assert!(unexpected.is_empty(), "{account} may also {unexpected:#?}");
        let missing: Vec<_> = given.difference(&allowed).collect();
        assert!(missing.is_empty(), "{account} may not {missing:#?}");
    }
    println!("{asked} questions about {} resources", resources.len());
    assert!(asked > 2000, "{asked}");
}

async fn ask(api: &Api<SubjectAccessReview>, account: &str, [verb, resource, namespace, name]: &Right) -> Result<bool> {
    let (qualified, sub) = resource.split_once('/').map_or((resource.as_str(), None), |(name, sub)| (name, Some(sub)));
    let (resource, group) = qualified.split_once('.').unwrap_or((qualified, ""));
    let attributes = ResourceAttributes {
        verb: Some(verb.clone()),
        group: Some(group.into()),
        resource: Some(resource.into()),
        subresource: sub.map(Into::into),
        namespace: Some(namespace.clone()),
        name: Some(name.clone()),
        ..ResourceAttributes::default()
    };
    let spec = SubjectAccessReviewSpec {
        user: Some(format!("system:serviceaccount:{NAMESPACE}:{account}")),
        groups: Some(
            ["system:serviceaccounts", &format!("system:serviceaccounts:{NAMESPACE}"), "system:authenticated"]
                .map(str::to_owned)
                .into(),
        ),
        resource_attributes: Some(attributes),
        ..SubjectAccessReviewSpec::default()
    };
    let review = SubjectAccessReview { spec, ..SubjectAccessReview::default() };
    Ok(api.create(&PostParams::default(), &review).await?.status.is_some_and(|status| status.allowed))
}
