//! Reads and parses, and writes down each thing that is there and could not be read or makes no sense.

use std::{collections::HashSet, rc::Rc};

use policies::{
    fabric::{Fact, Problem},
    names::problem,
};
use rustix::io::Errno;

use crate::{
    parse,
    root::{Content, Entry, Folder, Listing, Resolved, Root, Trouble},
};

/// A hostile or broken tree must not blow up what is published: this many problems, and one that counts the rest.
const MAX_PROBLEMS: usize = 200;
/// Directories held open: a device's, its port's, its function's, and those of the tables between which a survey goes to and fro.
const OPEN_FOLDERS: usize = 8;
/// How many attributes of a numbered table are looked at.
const TABLE_LIMIT: usize = 4096;
/// Longest excerpt of a garbled file in a message.
const EXCERPT: usize = 40;

/// A root, and the problems met below it.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    root: &'a Root,
    /// The directories used last, the latest at the end.
    folders: Vec<Rc<Folder<'a>>>,
    /// Paths seen to be no symlinks.
    plain: HashSet<String>,
    problems: Vec<Problem>,
    left_out: usize,
    /// The latest problem in words, for the fact that it keeps from being known.
    last: Option<String>,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(root: &'a Root) -> Self {
        Self { root, folders: Vec::new(), plain: HashSet::new(), problems: Vec::new(), left_out: 0, last: None }
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

    /// A file. One of sysfs by its directory, which is likely to be open already; others can be longer than one read.
    fn content(&mut self, path: &str) -> Content {
        match parted(path) {
            Some((parent, name)) if path.starts_with("sys/") => match self.folder(parent) {
                Ok(folder) => folder.read(name),
                Err(Errno::NOENT) => Content::Absent,
                Err(_) => self.root.read(path),
            },
            Some(_) | None => self.root.read(path),
        }
    }

    fn folder(&mut self, path: &str) -> Result<Rc<Folder<'a>>, Errno> {
        let known = self.folders.iter().position(|folder| folder.is_at(path));
        let folder = match known {
            Some(index) => self.folders.remove(index),
            None => Rc::new(self.root.folder(path)?),
        };
        if self.folders.len() == OPEN_FOLDERS {
            self.folders.remove(0);
        }
        self.folders.push(Rc::clone(&folder));
        Ok(folder)
    }

    /// Whether something is there, links followed.
    pub(crate) fn exists(&mut self, path: &str) -> Result<bool, Trouble> {
        if let Some((parent, name)) = parted(path) {
            match self.folder(parent).map(|folder| folder.exists(name)) {
                Ok(Some(answer)) => return Ok(answer),
                Err(Errno::NOENT | Errno::NOTDIR) => return Ok(false),
                Ok(None) | Err(_) => {}
            }
        }
        self.root.exists(path)
    }

    /// Whether it is there for sure.
    pub(crate) fn has(&mut self, path: &str) -> bool {
        matches!(self.exists(path), Ok(true))
    }

    /// The text of a file; `None` where it is absent, empty or (a problem) unreadable.
    pub(crate) fn text(&mut self, path: &str) -> Option<String> {
        match self.content(path) {
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
        match self.content(path) {
            Content::Empty => {
                self.garbled(path, "");
                None
            }
            content => self.parsed(path, content, parse),
        }
    }

    /// Like [`Self::value`], where an empty file, or the kernel's errors for "no value", are as good as no file.
    pub(crate) fn optional<T>(&mut self, path: &str, parse: impl FnOnce(&str) -> Option<T>) -> Option<T> {
        match self.content(path) {
            Content::Unreadable(trouble) if trouble.is_no_value() => None,
            content => self.parsed(path, content, parse),
        }
    }

    /// [`Self::optional`] for every file of a directory of numbered attributes that has a value, by number.
    pub(crate) fn table<T>(&mut self, path: &str, parse: impl Fn(&str) -> Option<T>) -> Vec<(u32, T)> {
        let (folder, entries) = match self.root.folder_of(path, TABLE_LIMIT) {
            Ok((folder, entries, truncated)) => {
                if truncated {
                    self.truncated(path, entries.len());
                }
                (folder, entries)
            }
            Err(errno) => {
                if let Listing::Unreadable(trouble) = errno.into() {
                    self.unreadable(path, trouble);
                }
                return Vec::new();
            }
        };
        let number = |entry: Entry| Some((entry.name.parse::<u32>().ok()?, entry));
        let mut numbered: Vec<(u32, Entry)> = entries.into_iter().filter_map(number).collect();
        numbered.sort_by(|a, b| (a.0, &a.1.name).cmp(&(b.0, &b.1.name)));
        let mut table = Vec::new();
        for (number, entry) in numbered {
            match folder.read_entry(&entry) {
                Content::Text(text) => match parse(&text) {
                    Some(value) => table.push((number, value)),
                    None => self.garbled(&format!("{path}/{}", entry.name), &text),
                },
                Content::Unreadable(trouble) if !trouble.is_no_value() => {
                    self.unreadable(&format!("{path}/{}", entry.name), trouble);
                }
                Content::Unreadable(_) | Content::Absent | Content::Empty => {}
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
        match self.exists(path) {
            Ok(yes) => Fact::Known(yes),
            Err(trouble) => {
                self.unreadable(path, trouble);
                Fact::Unknown(format!("/{path}: {trouble}"))
            }
        }
    }

    /// The names in a directory: `Ok(None)` where there is none, the reason where it is unreadable.
    pub(crate) fn names(&mut self, path: &str) -> Result<Option<Vec<String>>, String> {
        Ok(self.entries(path)?.map(|entries| entries.into_iter().map(|entry| entry.name).collect()))
    }

    /// The same with what the directory says that each is.
    pub(crate) fn entries(&mut self, path: &str) -> Result<Option<Vec<Entry>>, String> {
        match self.root.entries(path) {
            Ok((entries, truncated)) => {
                if truncated {
                    self.truncated(path, entries.len());
                }
                Ok(Some(entries))
            }
            Err(errno) => match errno.into() {
                Listing::Unreadable(trouble) => {
                    self.unreadable(path, trouble);
                    Err(format!("/{path}: {trouble}"))
                }
                Listing::Absent | Listing::Entries { .. } => Ok(None),
            },
        }
    }

    /// The names in an optional directory.
    pub(crate) fn names_or_none(&mut self, path: &str) -> Vec<String> {
        self.names(path).ok().flatten().unwrap_or_default()
    }

    /// The last component of a link's target, dangling or not.
    pub(crate) fn link_name(&mut self, path: &str) -> Option<String> {
        self.link(path).ok().flatten().filter(|name| parse::line(name).is_some())
    }

    /// The same where it matters that nothing is there: `Ok(None)`, or the reason why that is not known.
    pub(crate) fn link(&mut self, path: &str) -> Result<Option<String>, String> {
        let found = match parted(path).map(|(parent, name)| (self.folder(parent), name)) {
            Some((Ok(folder), name)) => folder.link_name(name),
            Some((Err(Errno::NOENT | Errno::NOTDIR), _)) => Ok(None),
            Some((Err(_), _)) | None => self.root.link_name(path),
        };
        found.map_err(|trouble| {
            self.unreadable(path, trouble);
            format!("/{path}: {trouble}")
        })
    }

    /// The path without symlinks, where it can be resolved.
    pub(crate) fn real_path(&mut self, path: &str) -> Option<Resolved> {
        match self.root.real_path_past(path, &mut self.plain) {
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

    fn truncated(&mut self, path: &str, looked_at: usize) {
        self.problem(Problem::new(
            problem::UNREADABLE,
            format!("/{path}"),
            format!("holds more than the {looked_at} entries that are read"),
            "find out what made so many; the rest was left out",
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

/// A path as its directory and a name in it; `None` where the last part is no plain name.
fn parted(path: &str) -> Option<(&str, &str)> {
    path.rsplit_once('/').filter(|(parent, name)| !parent.is_empty() && !matches!(*name, "" | "." | ".."))
}
