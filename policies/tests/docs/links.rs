//! Every link of the documentation leads somewhere, and every name in it exists.

use std::{collections::BTreeSet, fs};

use crate::markdown::{Page, pages, root};

#[test]
fn relative_links_and_anchors_resolve() {
    let pages = pages();
    let mut checked = 0;
    let mut wrong = Vec::new();
    for page in &pages {
        for link in page.links().into_iter().filter(|link| !link.contains("://")) {
            checked += 1;
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let path = if file.is_empty() { page.path.clone() } else { page.path.parent().unwrap().join(file) };
            let Ok(path) = path.canonicalize() else {
                wrong.push(format!("{}: {link}: no such file", page.name()));
                continue;
            };
            let target = pages.iter().find(|other| other.path.canonicalize().unwrap() == path);
            if !anchor.is_empty() && target.is_none_or(|target| !target.anchors().iter().any(|found| found == anchor)) {
                wrong.push(format!("{}: {link}: no such heading", page.name()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(checked > 40, "only {checked} links found");
}

#[test]
fn every_page_is_in_the_index() {
    let pages = pages();
    let index = pages.iter().find(|page| page.name() == "docs/README.md").unwrap();
    let folder = index.path.parent().unwrap();
    let linked: BTreeSet<_> = index.links().iter().filter_map(|link| folder.join(link).canonicalize().ok()).collect();
    for page in pages.iter().filter(|page| page.path.starts_with(folder) && page.name() != index.name()) {
        assert!(linked.contains(&page.path.canonicalize().unwrap()), "docs/README.md does not link to {}", page.name());
    }
}

#[test]
fn every_label_and_annotation_that_is_named_exists() {
    let names = fs::read_to_string(root().join("policies/src/names.rs")).unwrap();
    // The group's version, and a node selector that no node is meant to meet.
    let others = ["railbind.dev/v1alpha1", "railbind.dev/never"];
    let known = |name: &str| names.contains(&format!("\"{name}\"")) || others.contains(&name);
    each_word(&pages(), |page, word| {
        let Some(at) = word.find("railbind.dev/") else { return };
        let end = |c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '/' | '.'));
        let name = word[at..].split(end).next().unwrap_or_default();
        // Cut short in an output.
        if name.ends_with("...") {
            return;
        }
        let name = name.trim_end_matches(['.', '/', '-']);
        // Resources of our group as RBAC writes them (`nodefabrics.railbind.dev/status`) are in the CRDs.
        if word[..at].ends_with('.') || name == "railbind.dev" {
            return;
        }
        assert!(known(name), "{page}: {name} is no name of ours");
    });
}

#[test]
fn every_event_problem_and_metric_that_is_named_exists() {
    let reference = fs::read_to_string(root().join("docs/reference.md")).unwrap();
    let pages = pages();
    let mut checked = 0;
    for page in pages.iter().filter(|page| page.name().starts_with("docs/")) {
        for span in page.spans() {
            let ours = [
                "FabricB",
                "FabricD",
                "FabricN",
                "FabricV",
                "FabricC",
                "PortDown",
                "SomePorts",
                "NoR",
                "NoU",
                "NoSubnet",
                "SoftRdma",
                "GidIndexD",
                "Memlock",
            ];
            let word = span.chars().all(char::is_alphanumeric) && ours.iter().any(|start| span.starts_with(start));
            if word || span.starts_with("railbind_") {
                checked += 1;
                // A metric may be named with one of its labels' values.
                let name = span.split('{').next().unwrap_or(span);
                assert!(reference.contains(&format!("`{name}`")), "{}: {span} is not in the reference", page.name());
            }
        }
    }
    assert!(checked > 20, "only {checked} found");
}

#[test]
fn every_flag_of_ours_that_is_named_exists() {
    // Flags of other programs that stand alone in a span.
    const OTHERS: &[&str] = &["--kv-transfer-config"];
    let sources: String = [
        "node-agent/src/args.rs",
        "webhook/src/args.rs",
        "crates/cli/src/args.rs",
        "crates/daemon/src/admin.rs",
        "crates/daemon/src/logs.rs",
    ]
    .map(|file| fs::read_to_string(root().join(file)).unwrap())
    .concat();
    let known = |flag: &str| {
        let field = flag.trim_start_matches('-').replace('-', "_");
        sources.contains(&format!("pub {field}:")) || sources.contains(&format!("long = \"{}\"", &flag[2..]))
    };
    let mut checked = 0;
    for page in &pages() {
        for text in page.spans().chain(page.code()) {
            let ours =
                (text.contains("railbind-agent ") || text.contains("railbind-webhook ")) && !text.contains("kubectl");
            if text.starts_with("---") || (!ours && !text.starts_with("--")) {
                continue;
            }
            for word in text.split_whitespace().filter(|word| word.starts_with("--")).chain(text.split('[').skip(1)) {
                let flag: String = word.chars().take_while(|c| *c == '-' || c.is_ascii_lowercase()).collect();
                if flag.len() > 2 && flag.starts_with("--") && !OTHERS.contains(&flag.as_str()) {
                    checked += 1;
                    assert!(known(&flag), "{}: {flag} in `{text}` is no flag of ours", page.name());
                }
            }
        }
    }
    assert!(checked > 8, "only {checked} flags found");
}

#[test]
fn every_make_target_that_is_named_exists() {
    let makefile = fs::read_to_string(root().join("Makefile")).unwrap();
    let mut checked = 0;
    for page in &pages() {
        for target in page.spans().chain(page.code()).filter_map(|text| text.strip_prefix("make ")) {
            let target = target.split_whitespace().next().unwrap_or_default();
            checked += 1;
            assert!(makefile.contains(&format!("\n{target}:")), "{}: make {target}", page.name());
        }
    }
    assert!(checked > 5, "only {checked} targets found");
}

fn each_word(pages: &[Page], check: impl Fn(&str, &str)) {
    for page in pages {
        for word in page
            .text
            .split(|c: char| c.is_whitespace() || matches!(c, '`' | '"' | '\'' | '(' | ')' | ',' | '=' | '{' | '|'))
        {
            check(&page.name(), word);
        }
    }
}
