//! docs/chaos.md names a test in each of its lines; here it is seen that there is one, and that every row is there.

use std::fs;

use harness::{claims::assert_is_run, railbind::repository};

#[test]
fn every_row_names_tests_that_exist() {
    let text = fs::read_to_string(repository().join("docs/chaos.md")).unwrap();
    let rows: Vec<&str> = text.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| what ")).collect();
    for what in [
        "API server killed",
        "webhook killed",
        "partition",
        "clock jump",
        "full disk",
        "expired certificate",
        "CRD missing",
        "old and new versions side by side",
        "Node deleted and recreated",
        "agent OOM-killed",
    ] {
        assert!(rows.iter().any(|row| row.starts_with(&format!("| {what}"))), "no line about {what}");
    }
    for row in rows {
        let cell = row.trim_end_matches([' ', '|']).rsplit('|').next().unwrap();
        let names: Vec<&str> = cell.split('`').skip(1).step_by(2).collect();
        assert!(!names.is_empty() && names.len().is_multiple_of(2), "files and tests: {row}");
        for pair in names.chunks(2) {
            let [file, name] = pair else { unreachable!() };
            assert_is_run(file, name);
        }
    }
}
