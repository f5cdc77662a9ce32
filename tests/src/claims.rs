//! Documents that name the tests of what they claim.

use std::fs;

use crate::railbind::repository;

/// Sees that a file has a test of this name, and that it is run with the others.
///
/// # Panics
/// There is no such file or test, or it is left out.
pub fn assert_is_run(file: &str, name: &str) {
    let source = fs::read_to_string(repository().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
    let lines: Vec<&str> = source.lines().collect();
    let at = lines
        .iter()
        .position(|line| line.contains(&format!("fn {name}(")))
        .unwrap_or_else(|| panic!("{file} has no {name}"));
    // Attributes and what is said of it.
    let start =
        lines[..at].iter().rposition(|line| !line.trim_start().starts_with(['#', '/'])).map_or(0, |end| end + 1);
    let above = &lines[start..at];
    let is_test = above
        .iter()
        .any(|line| line.contains("#[test]") || line.contains("#[tokio::test") || line.contains("#[rstest"));
    assert!(is_test, "{file}: {name} is no test");
    assert!(!above.iter().any(|line| line.contains("#[ignore")), "{file}: {name} is not run");
}
