//! docs/chaos.md names a test in each of its lines; here it is seen that there is one, and that every row is there.

use std::fs;

use harness::railbind::repository;

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
            let source = fs::read_to_string(repository().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
            let lines: Vec<&str> = source.lines().collect();
            let at = lines.iter().position(|line| line.contains(&format!("fn {name}(")));
            let at = at.unwrap_or_else(|| panic!("{file} has no {name}"));
            let start = lines[..at].iter().rposition(|line| !line.trim_start().starts_with(['#', '/']));
            let above = &lines[start.map_or(0, |end| end + 1)..at];
            assert!(
                above.iter().any(|line| line.contains("test]") || line.contains("test(")),
                "{file}: {name} is no test"
            );
            assert!(!above.iter().any(|line| line.contains("#[ignore")), "{file}: {name} is not run");
        }
    }
}
