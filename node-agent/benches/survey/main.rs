//! How long a survey takes, on the machines that the limits are set for.
//!
//! `RAILBIND_BENCH_TREES` keeps the big machine there, for a peer to be measured on the same files.

use std::{hint::black_box, path::PathBuf};

use criterion::{Criterion, criterion_group, criterion_main};
use sysfs::Root;

mod machine;

fn surveys(criterion: &mut Criterion) {
    let fixtures = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures");
    // Like the kernel's own, files in memory: a disk's page cache would be measured elsewhere.
    let temporary = tempfile::Builder::new().prefix("railbind-bench-").tempdir_in(memory()).expect("a directory");
    let trees = std::env::var_os("RAILBIND_BENCH_TREES").map_or_else(|| temporary.path().to_owned(), PathBuf::from);
    let big = trees.join("gpu8-nic18-gid256");
    machine::write(&big).expect("the big machine is written");
    let mut group = criterion.benchmark_group("survey");
    for (name, tree) in [
        ("ib-ndr-gdr", fixtures.join("ib-ndr-gdr")),
        ("gpu8-nic18-gid256", big),
        ("sriov-128vf", fixtures.join("sriov-128vf")),
    ] {
        let root = Root::open(&tree).expect("the machine is there");
        group.bench_function(name, |bencher| bencher.iter(|| black_box(sysfs::survey(&root))));
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
