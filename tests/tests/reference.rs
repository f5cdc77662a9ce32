//! `docs/reference.md` is what the generator writes.

use std::fs;

use harness::railbind::repository;

#[path = "../examples/reference/metrics.rs"]
mod metrics;
#[path = "../examples/reference/names.rs"]
mod names;
#[path = "../examples/reference/page.rs"]
mod page;

#[test]
fn the_reference_is_up_to_date() {
    let text = fs::read_to_string(repository().join("docs/reference.md")).unwrap_or_default();
    assert_eq!(text, page::text().unwrap(), "docs/reference.md is stale: run `make generate`");
}

#[test]
fn it_has_every_name_that_the_code_has() {
    let text = page::text().unwrap();
    let names = names::all();
    for module in ["label", "annotation", "problem"] {
        assert!(names.iter().filter(|name| name.module == module).count() > 10, "{module}: the parser lost its names");
    }
    for name in names.iter().filter(|name| name.value.contains("railbind.dev/")) {
        assert!(text.contains(&format!("`{}`", name.value)), "{} is missing", name.value);
        assert!(!name.doc.is_empty(), "{} says nothing", name.value);
    }
    for label in policies::names::label::ALL {
        assert!(names.iter().any(|name| name.value == label), "{label} was not parsed");
    }
}

#[test]
fn it_has_every_metric() {
    let all = [metrics::agent().unwrap(), metrics::webhook().unwrap()];
    assert!(all[0].len() >= 6 && all[1].len() >= 12, "{} and {}", all[0].len(), all[1].len());
    for (name, metric) in all.iter().flatten() {
        assert!(
            name.starts_with("railbind_") && !metric.help.is_empty() && !metric.kind.is_empty(),
            "{name}: {metric:?}"
        );
    }
    let bandwidth = &all[0]["railbind_selftest_bandwidth_gbytes_per_second"];
    let labels: Vec<&str> = bandwidth.labels.iter().map(String::as_str).collect();
    assert_eq!(
        labels,
        ["partner", "profile", "transport", "verdict"],
        "the self-test's are there, though it is off by default"
    );
    let requests = &all[1]["railbind_webhook_requests_total"];
    assert_eq!(requests.labels.iter().map(String::as_str).collect::<Vec<_>>(), ["hook", "outcome"]);
}

#[test]
fn it_has_every_reason_of_the_condition() {
    let source = fs::read_to_string(repository().join("policies/src/report.rs")).unwrap();
    let page = page::text().unwrap();
    let code = source.split("fn condition(").nth(1).and_then(|rest| rest.split("\nfn profile").next()).unwrap();
    let words: Vec<&str> = code.split('"').skip(1).step_by(2).collect();
    let reasons: Vec<&str> = words
        .into_iter()
        .filter(|word| {
            word.len() > 7 && word.starts_with(char::is_uppercase) && word.chars().all(char::is_alphanumeric)
        })
        .filter(|word| word.chars().filter(|c| c.is_uppercase()).count() > 1 || *word == "Unreadable")
        .collect();
    assert!(reasons.len() >= 6, "{reasons:?}");
    for reason in reasons {
        assert!(page.contains(&format!("`{reason}`")), "{reason} is missing");
    }
}
