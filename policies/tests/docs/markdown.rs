//! The documentation's files, and as much of Markdown as the tests need.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// The repository's root.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// A page: its path and its text.
pub(crate) struct Page {
    pub(crate) path: PathBuf,
    pub(crate) text: String,
}

/// The pages of the root and of `docs/`.
pub(crate) fn pages() -> Vec<Page> {
    let mut paths: Vec<PathBuf> = [".", "docs", "docs/clouds"]
        .iter()
        .flat_map(|folder| fs::read_dir(root().join(folder)).unwrap())
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
        .collect();
    paths.sort();
    paths.into_iter().map(|path| Page { text: fs::read_to_string(&path).unwrap(), path }).collect()
}

impl Page {
    /// Its lines outside of code blocks.
    pub(crate) fn prose(&self) -> impl Iterator<Item = &str> {
        let mut code = false;
        self.text.lines().filter(move |line| {
            let fence = line.trim_start().starts_with("```");
            code ^= fence;
            !code && !fence
        })
    }

    /// Its lines inside of code blocks.
    pub(crate) fn code(&self) -> impl Iterator<Item = &str> {
        let mut code = false;
        self.text.lines().filter(move |line| {
            let fence = line.trim_start().starts_with("```");
            code ^= fence;
            code && !fence
        })
    }

    /// What stands between backticks in a line of prose.
    pub(crate) fn spans(&self) -> impl Iterator<Item = &str> {
        self.prose().flat_map(|line| line.split('`').skip(1).step_by(2))
    }

    /// Targets of its links and pictures.
    pub(crate) fn links(&self) -> Vec<&str> {
        let mut found = Vec::new();
        for line in self.prose() {
            for part in line.split("](").skip(1) {
                found.extend(part.split_once(')').map(|(target, _)| target));
            }
        }
        found
    }

    /// Its headings as GitHub links to them.
    pub(crate) fn anchors(&self) -> Vec<String> {
        let mut seen: BTreeMap<String, usize> = BTreeMap::new();
        let headings = self.prose().filter(|line| line.starts_with('#'));
        headings
            .map(|line| {
                let slug = slug(line.trim_start_matches('#').trim());
                let times = seen.entry(slug.clone()).or_default();
                *times += 1;
                if *times == 1 { slug } else { format!("{slug}-{}", *times - 1) }
            })
            .collect()
    }

    /// Its name for messages.
    pub(crate) fn name(&self) -> String {
        self.path.strip_prefix(root()).unwrap_or(&self.path).display().to_string()
    }
}

fn slug(heading: &str) -> String {
    heading
        .to_lowercase()
        .chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}

#[test]
fn slugs_are_github_s() {
    assert_eq!(slug("GID, and why \"3\" is wrong"), "gid-and-why-3-is-wrong");
    assert_eq!(slug("Read a machine"), "read-a-machine");
    assert_eq!(slug("`railbind.dev/x`: what?"), "railbinddevx-what");
}
