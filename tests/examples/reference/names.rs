//! The names of `policies::names` with what their doc comments say: the source itself is the table, so no name can be left out.

const SOURCE: &str = include_str!("../../../policies/src/names.rs");

/// A constant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Name {
    /// Module it is in; empty at the top.
    pub(crate) module: String,
    /// Its value.
    pub(crate) value: String,
    /// Its doc comment.
    pub(crate) doc: String,
}

/// All text constants of the file, in its order.
pub(crate) fn all() -> Vec<Name> {
    parse(SOURCE)
}

/// Those of one module whose doc comment passes the test.
pub(crate) fn of(module: &str, test: impl Fn(&str) -> bool) -> Vec<Name> {
    all().into_iter().filter(|name| name.module == module && test(&name.doc)).collect()
}

fn parse(source: &str) -> Vec<Name> {
    let mut names = Vec::new();
    let mut module = String::new();
    let mut doc: Vec<&str> = Vec::new();
    for line in source.lines() {
        let text = line.trim();
        if let Some(words) = text.strip_prefix("///") {
            doc.push(words.trim());
            continue;
        }
        if let Some(name) = text.strip_prefix("pub mod ") {
            module = name.trim_end_matches([' ', '{', ';']).into();
        } else if line == "}" {
            module.clear();
        } else if let Some(value) = constant(text) {
            names.push(Name { module: module.clone(), value: value.to_owned(), doc: doc.join(" ") });
        }
        doc.clear();
    }
    names
}

/// `value` of `pub const NAME: &str = "value";`.
fn constant(line: &str) -> Option<&str> {
    let (_, value) = line.strip_prefix("pub const ")?.split_once(": &str = \"")?;
    value.strip_suffix("\";")
}
