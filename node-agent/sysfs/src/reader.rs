//! Reads and parses, and writes down each thing that is there and could not be read or makes no sense.

use policies::{
    fabric::{Fact, Problem},
    names::problem,
};

use crate::{
    parse,
    root::{Content, Listing, Resolved, Root, Trouble},
};

/// A hostile or broken tree must not blow up what is published: this many problems, and one that counts the rest.
const MAX_PROBLEMS: usize = 200;
/// Longest excerpt of a garbled file in a message.
const EXCERPT: usize = 40;

/// A root, and the problems met below it.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    root: &'a Root,
    problems: Vec<Problem>,
    left_out: usize,
    /// The latest problem in words, for the fact that it keeps from being known.
    last: Option<String>,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(root: &'a Root) -> Self {
        Self { root, problems: Vec::new(), left_out: 0, last: None }
    }

    /// All problems, sorted, each once.
    pub(crate) fn into_problems(mut self) -> Vec<Problem> {
        self.problems.sort();
        self.problems.dedup();
        if self.left_out > 0 {
            self.problems.push(Problem::new(
                problem::UNREADABLE,
                "survey",
                format!("{} further files could not be read or make no sense", self.left_out),
                "solve the first ones and look again",
            ));
        }
        self.problems
    }

    /// The text of a file; `None` where it is absent, empty or (a problem) unreadable.
    pub(crate) fn text(&mut self, path: &str) -> Option<String> {
        match self.root.read(path) {
            Content::Absent | Content::Empty => None,
            Content::Unreadable(trouble) => {
                self.unreadable(path, trouble);
                None
            }
            Content::Text(text) => Some(text),
        }
    }

    /// One printable line, for attributes that are shown and not interpreted.
    pub(crate) fn line(&mut self, path: &str) -> Option<String> {
        let text = self.text(path)?;
        let line = parse::line(&text).map(str::to_owned);
        if line.is_none() {
            self.garbled(path, &text);
        }
        line
    }

    /// A parsed attribute; `None` where it is absent, or (a problem) unreadable, empty or garbled.
    pub(crate) fn value<T>(&mut self, path: &str, parse: impl FnOnce(&str) -> Option<T>) -> Option<T> {
        match self.root.read(path) {
            Content::Empty => {
                self.garbled(path, "");
                None
            }
            content => self.parsed(path, content, parse),
        }
    }

    /// Like [`Self::value`], where an empty file, or the kernel's errors for "no value", are as good as no file.
    pub(crate) fn optional<T>(&mut self, path: &str, parse: impl FnOnce(&str) -> Option<T>) -> Option<T> {
        let content = self.root.read(path);
        self.optional_content(path, content, parse)
    }

    fn optional_content<T>(
        &mut self,
        path: &str,
        content: Content,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        match content {
            Content::Unreadable(trouble) if trouble.is_no_value() => None,
            content => self.parsed(path, content, parse),
        }
    }

    /// [`Self::optional`] for every file of a directory of numbered attributes that has a value.
    pub(crate) fn table<T>(&mut self, path: &str, parse: impl Fn(&str) -> Option<T>) -> Vec<(u32, T)> {
        let numbers = self.names_or_none(path).into_iter().filter_map(|name| Some((name.parse().ok()?, name)));
        let numbers: Vec<(u32, String)> = numbers.collect();
        let folder = match self.root.folder(path) {
            Ok(folder) if !numbers.is_empty() => folder,
            Ok(_) | Err(_) => return Vec::new(),
        };
        let mut table = Vec::new();
        for (number, name) in numbers {
            let content = folder.read(&name);
            if let Some(value) = self.optional_content(&format!("{path}/{name}"), content, &parse) {
                table.push((number, value));
            }
        }
        table
    }

    fn parsed<T>(&mut self, path: &str, content: Content, parse: impl FnOnce(&str) -> Option<T>) -> Option<T> {
        match content {
            Content::Absent | Content::Empty => None,
            Content::Unreadable(trouble) => {
                self.unreadable(path, trouble);
                None
            }
            Content::Text(text) => {
                let value = parse(&text);
                if value.is_none() {
                    self.garbled(path, &text);
                }
                value
            }
        }
    }

    /// A parsed attribute as a fact.
    pub(crate) fn fact<T>(&mut self, path: &str, parse: impl FnOnce(&str) -> Option<T>) -> Fact<T> {
        self.last = None;
        match (self.value(path, parse), self.last.take()) {
            (Some(value), _) => Fact::Known(value),
            (None, Some(why)) => Fact::Unknown(why),
            (None, None) => Fact::Unknown(format!("/{path} is absent")),
        }
    }

    /// Whether a path is there, as a fact.
    pub(crate) fn present(&mut self, path: &str) -> Fact<bool> {
        match self.root.exists(path) {
            Ok(yes) => Fact::Known(yes),
            Err(trouble) => {
                self.unreadable(path, trouble);
                Fact::Unknown(format!("/{path}: {trouble}"))
            }
        }
    }

    /// The names in a directory: `Ok(None)` where there is none, the reason where it is unreadable.
    pub(crate) fn names(&mut self, path: &str) -> Result<Option<Vec<String>>, String> {
        match self.root.list(path) {
            Listing::Absent => Ok(None),
            Listing::Unreadable(trouble) => {
                self.unreadable(path, trouble);
                Err(format!("/{path}: {trouble}"))
            }
            Listing::Entries { names, truncated } => {
                if truncated {
                    self.problem(Problem::new(
                        problem::UNREADABLE,
                        format!("/{path}"),
                        format!("holds more than the {} entries that are read", names.len()),
                        "find out what made so many; the rest was left out",
                    ));
                }
                Ok(Some(names))
            }
        }
    }

    /// The names in an optional directory.
    pub(crate) fn names_or_none(&mut self, path: &str) -> Vec<String> {
        self.names(path).ok().flatten().unwrap_or_default()
    }

    /// The last component of a link's target, dangling or not.
    pub(crate) fn link_name(&mut self, path: &str) -> Option<String> {
        match self.root.link_name(path) {
            Ok(name) => name.filter(|name| parse::line(name).is_some()),
            Err(trouble) => {
                self.unreadable(path, trouble);
                None
            }
        }
    }

    /// The path without symlinks, where it can be resolved.
    pub(crate) fn real_path(&mut self, path: &str) -> Option<Resolved> {
        match self.root.real_path(path) {
            Ok(resolved) => Some(resolved),
            Err(trouble) => {
                self.unreadable(path, trouble);
                None
            }
        }
    }

    /// The disk, for reads with rules of their own.
    pub(crate) fn root(&self) -> &'a Root {
        self.root
    }

    /// Writes down that something is there and cannot be read.
    pub(crate) fn unreadable(&mut self, path: &str, trouble: Trouble) {
        self.problem(Problem::new(
            problem::UNREADABLE,
            format!("/{path}"),
            format!("cannot be read: {trouble}"),
            "run the agent as root with the host's /sys, /proc and /dev; where the kernel itself refuses, look into dmesg",
        ));
    }

    /// Writes down that a file's content makes no sense.
    pub(crate) fn garbled(&mut self, path: &str, text: &str) {
        let message = if text.trim().is_empty() {
            "is empty where a value is due".to_owned()
        } else {
            let excerpt: String = text.trim().chars().take(EXCERPT).collect();
            format!("makes no sense: {}", excerpt.escape_debug())
        };
        self.problem(Problem::new(
            problem::GARBLED,
            format!("/{path}"),
            message,
            "look at the file on the node; report it with the versions of kernel and driver",
        ));
    }

    fn problem(&mut self, problem: Problem) {
        self.last = Some(format!("{}: {}", problem.subject, problem.message));
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(problem);
        } else {
            self.left_out += 1;
        }
    }
}
