//! Every input that fuzzing has kept is tried again, with the compiler that everything else is built with.

#![allow(clippy::unwrap_used, reason = "all of it is tests, helpers included")]

use std::{collections::BTreeSet, fs, panic::catch_unwind};

use fuzz::targets::{parsers, review, tree};
use harness::railbind::repository;

/// They are in the repository: `scripts/fuzz.sh keep` takes only what reaches code that no other does.
const MAX_BYTES: usize = 200 << 10;

fn replay(target: &str, run: fn(&[u8])) {
    let folder = repository().join("tests/fuzz/corpus").join(target);
    let files: Vec<_> = fs::read_dir(&folder).unwrap().map(|file| file.unwrap().path()).collect();
    let (mut contents, mut failed) = (BTreeSet::new(), Vec::new());
    for file in &files {
        let bytes = fs::read(file).unwrap();
        if catch_unwind(|| run(&bytes)).is_err() {
            failed.push(file.display().to_string());
        }
        contents.insert(bytes);
    }
    let size: usize = contents.iter().map(Vec::len).sum();
    println!("{target}: {} inputs, {size} bytes", files.len());
    assert!(failed.is_empty(), "these break a law: {failed:#?}");
    assert!(files.len() >= 30 && contents.len() == files.len(), "{target}: {} of {}", contents.len(), files.len());
    assert!(size <= MAX_BYTES, "{target}: {size} bytes");
}

#[test]
fn parsers_corpus() {
    replay("parsers", parsers::run);
}

#[test]
fn tree_corpus() {
    replay("tree", tree::run);
}

#[test]
fn review_corpus() {
    replay("review", review::run);
}

/// A replay that cannot fail would say nothing.
#[test]
fn a_broken_law_is_noticed() {
    let broken = fuzz::review::review("Pod", "", "ns", &serde_json::json!({})).to_string();
    review::run(broken.as_bytes());
    assert!(catch_unwind(|| review::check("/nowhere", broken.as_bytes())).is_err(), "404 is no answer to a review");
}
