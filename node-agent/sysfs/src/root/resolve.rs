//! Resolves a path link by link, as if a given directory were `/`.

use std::collections::{HashSet, VecDeque};

use rustix::{fd::OwnedFd, io::Errno};

/// As many links as the kernel itself follows (path_resolution(7)).
const MAX_LINKS: usize = 40;
/// Longer than any path the kernel takes (`PATH_MAX`).
const MAX_COMPONENTS: usize = 4096;

/// A path without symlinks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// Relative to the root; empty for the root itself.
    pub path: String,
    /// Whether something is there.
    pub exists: bool,
    /// What the kernel says where nothing is: ENOENT, or ENOTDIR below a file.
    pub(crate) errno: Errno,
}

/// Follows every link of `path` below `dir`; `..` stops at `dir`, an absolute target starts at `dir`. What is found to be no
/// link goes into `plain`, and what is in there is not looked at.
pub(crate) fn resolve(dir: &OwnedFd, path: &str, plain: &mut HashSet<String>) -> Result<Resolved, Errno> {
    let mut todo: VecDeque<String> = components(path).collect();
    let mut done: Vec<String> = Vec::new();
    let mut exists = true;
    let mut missing = Errno::NOENT;
    let mut links = 0;
    while let Some(component) = todo.pop_front() {
        if component == ".." {
            done.pop();
            continue;
        }
        done.push(component);
        if !exists {
            continue;
        }
        // No component of `done` but the last can be a link, so the kernel has nothing to follow here.
        let here = done.join("/");
        if plain.contains(&here) {
            continue;
        }
        match rustix::fs::readlinkat(dir, &here, Vec::new()) {
            Ok(target) => {
                links += 1;
                let target = target.to_string_lossy();
                if links > MAX_LINKS || todo.len() > MAX_COMPONENTS {
                    return Err(Errno::LOOP);
                }
                if target.starts_with('/') {
                    done.clear();
                } else {
                    done.pop();
                }
                for component in components(&target).rev() {
                    todo.push_front(component);
                }
            }
            Err(Errno::INVAL) => {
                plain.insert(here);
            }
            Err(errno @ (Errno::NOENT | Errno::NOTDIR)) => (exists, missing) = (false, errno),
            Err(errno) => return Err(errno),
        }
    }
    Ok(Resolved { path: done.join("/"), exists, errno: missing })
}

fn components(path: &str) -> impl DoubleEndedIterator<Item = String> {
    path.split('/').filter(|part| !matches!(*part, "" | ".")).map(str::to_owned)
}
