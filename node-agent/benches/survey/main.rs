//! How long a first survey and its verdict take, on the machines that the limits are set for.
//!
//! `RAILBIND_BENCH_TREES` keeps the big machines there, for a peer to be measured on the same files.

use std::{hint::black_box, path::PathBuf};

use criterion::{Criterion, criterion_group, criterion_main};
use policies::{profile::Profiles, verdict};
use sysfs::Root;

mod machine;

fn surveys(criterion: &mut Criterion) {
    let fixtures = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures");
    // Like the kernel's own, files in memory: a disk's page cache would be measured elsewhere.
    let temporary = tempfile::Builder::new().prefix("railbind-bench-").tempdir_in(memory()).expect("a directory");
    let trees = std::env::var_os("RAILBIND_BENCH_TREES").map_or_else(|| temporary.path().to_owned(), PathBuf::from);
    // A rail with an address has four entries; a host with many VLANs or containers has dozens; a full table is the worst case.
    let (usual, full) = (trees.join("gpu8-nic18-gid256"), trees.join("gpu8-nic18-gid256-full"));
    machine::write(&usual, 12).expect("the machine is written");
    machine::write(&full, 256).expect("the machine is written");
    let profiles = Profiles::embedded().expect("our own profiles");
    let mut group = criterion.benchmark_group("survey");
    for (name, tree) in [
        ("ib-ndr-gdr", fixtures.join("ib-ndr-gdr")),
        ("sriov-128vf", fixtures.join("sriov-128vf")),
        ("gpu8-nic18-gid256", usual),
        ("gpu8-nic18-gid256-full", full),
    ] {
        let root = Root::open(&tree).expect("the machine is there");
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let (facts, _) = sysfs::survey(&root);
                black_box(verdict::decide(&facts, &profiles, None))
            });
        });
    }
    group.finish();
}

fn memory() -> PathBuf {
    let shared = PathBuf::from("/dev/shm");
    if shared.is_dir() { shared } else { std::env::temp_dir() }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(30);
    targets = surveys
}
criterion_main!(benches);
