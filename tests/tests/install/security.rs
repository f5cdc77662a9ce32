//! SECURITY.md names a test in each of its lines; here it is seen that there is one.

use std::fs;

use harness::{claims::assert_is_run, railbind::repository};

#[test]
fn every_threat_names_a_test_that_exists() {
    let text = fs::read_to_string(repository().join("SECURITY.md")).unwrap();
    let rows: Vec<&str> = text.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| who ")).collect();
    for who in [
        "hostile tenant",
        "hostile node",
        "hostile NodeFabric edit",
        "confused deputy",
        "stolen agent token",
        "stolen webhook token",
        "man in the middle",
        "stranger in the network",
        "stranger at the self-test's port",
    ] {
        assert!(rows.iter().any(|row| row.starts_with(&format!("| {who}"))), "no line about a {who}");
    }
    for row in rows {
        let cell = row.trim_end_matches([' ', '|']).rsplit('|').next().unwrap();
        let names: Vec<&str> = cell.split('`').skip(1).step_by(2).collect();
        let [file, name] = names[..] else { panic!("a file and a test: {row}") };
        assert_is_run(file, name);
    }
}
