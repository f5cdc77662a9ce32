//! The disk as a value: bounded, non-blocking reads below one directory that no symlink can leave.

mod config;
mod content;
mod folder;
mod natural;
mod resolve;

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

use rustix::{
    buffer::spare_capacity,
    fd::OwnedFd,
    fs::{FileType, Mode, OFlags, ResolveFlags},
    io::Errno,
};

pub(crate) use config::Config;
pub use content::{Content, Listing, Trouble};
pub(crate) use folder::{Entry, Folder};
pub use resolve::Resolved;

/// How much of a file is read unless the caller says otherwise: sysfs gives at most a page, `/proc/net` a few of them.
const DEFAULT_LIMIT: usize = 64 * 1024;
/// A sysfs attribute is at most a page.
const ATTRIBUTE_LIMIT: usize = 4096;
/// Never blocks, never becomes a controlling terminal.
const READ: OFlags = OFlags::RDONLY.union(OFlags::NONBLOCK).union(OFlags::NOCTTY);
/// How many entries of a directory are looked at: 128 virtual functions make a few hundred PCI functions.
const LIST_LIMIT: usize = 4096;

/// The directory below which everything is read: `/` on a node, `/host` in a pod, a fixture in a test.
///
/// Paths are given relative to it (`sys/class/infiniband`); a leading slash is ignored. Symlinks, absolute ones too, are
/// followed as if this directory were `/`.
#[derive(Debug)]
pub struct Root {
    dir: OwnedFd,
    path: PathBuf,
    /// Set once the kernel or a seccomp profile has refused `openat2`: paths are then resolved here, link by link.
    no_openat2: AtomicBool,
}

/// The root directory could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot open the root directory {}: {errno}", path.display())]
pub struct OpenError {
    path: PathBuf,
    errno: Errno,
}

impl Root {
    /// Opens the directory at `path` as a root.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, OpenError> {
        let path = path.as_ref();
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir =
            rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| OpenError { path: path.into(), errno })?;
        Ok(Self { dir, path: path.into(), no_openat2: AtomicBool::new(false) })
    }

    /// Where the root is, as it was given: for messages only.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Resolves paths link by link in this process, as on kernels before 5.6 and under seccomp profiles without `openat2`.
    #[must_use]
    pub fn without_openat2(self) -> Self {
        self.no_openat2.store(true, Ordering::Relaxed);
        self
    }

    /// The text of a file, up to 64 KiB of it; bytes that are not UTF-8 become U+FFFD.
    pub fn read(&self, path: &str) -> Content {
        match self.read_bytes(path, DEFAULT_LIMIT) {
            Ok(bytes) => Content::of(&bytes),
            Err(Trouble::Errno(Errno::NOENT)) => Content::Absent,
            Err(trouble) => Content::Unreadable(trouble),
        }
    }

    /// The first `limit` bytes of a regular file. Anything else, a FIFO or a device, is refused before it is opened for
    /// reading, because opening can block or have effects.
    pub fn read_bytes(&self, path: &str, limit: usize) -> Result<Vec<u8>, Trouble> {
        match self.file_type(path)? {
            FileType::RegularFile => {}
            _ => return Err(Trouble::NotAFile),
        }
        let file = self.open_at(path, READ)?;
        let mut bytes = Vec::with_capacity(limit.min(ATTRIBUTE_LIMIT));
        while bytes.len() < limit {
            bytes.reserve((limit - bytes.len()).min(ATTRIBUTE_LIMIT));
            let before = bytes.len();
            match rustix::io::read(&file, spare_capacity(&mut bytes)) {
                Ok(_) if bytes.len() == before => break,
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        bytes.truncate(limit);
        Ok(bytes)
    }

    /// A directory held open, for reading many small files in it.
    pub(crate) fn folder(&self, path: &str) -> Result<Folder<'_>, Errno> {
        let dir = self.open_at(path, OFlags::PATH | OFlags::DIRECTORY)?;
        Ok(Folder { root: self, path: path.to_owned(), dir })
    }

    /// The same with what is in it, in no order: at most `limit` entries, and whether there were more.
    pub(crate) fn folder_of(&self, path: &str, limit: usize) -> Result<(Folder<'_>, Vec<Entry>, bool), Errno> {
        let dir = self.open_at(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NONBLOCK)?;
        let folder = Folder { root: self, path: path.to_owned(), dir };
        let (entries, truncated) = folder.entries(limit)?;
        Ok((folder, entries, truncated))
    }

    /// The names in a directory in natural order (`mlx5_2` before `mlx5_10`), at most 4096 of them.
    pub fn list(&self, path: &str) -> Listing {
        self.list_up_to(path, LIST_LIMIT)
    }

    /// The names in a directory in natural order, at most `limit` of them.
    pub fn list_up_to(&self, path: &str, limit: usize) -> Listing {
        match self.entries_up_to(path, limit) {
            Ok((entries, truncated)) => {
                Listing::Entries { names: entries.into_iter().map(|entry| entry.name).collect(), truncated }
            }
            Err(errno) => errno.into(),
        }
    }

    /// The same with what the directory says that each is.
    pub(crate) fn entries(&self, path: &str) -> Result<(Vec<Entry>, bool), Errno> {
        self.entries_up_to(path, LIST_LIMIT)
    }

    fn entries_up_to(&self, path: &str, limit: usize) -> Result<(Vec<Entry>, bool), Errno> {
        let (_, mut entries, truncated) = self.folder_of(path, limit)?;
        entries.sort_by(|a, b| natural::compare(&a.name, &b.name));
        Ok((entries, truncated))
    }

    /// A PCI function's configuration space, held open.
    pub(crate) fn config(&self, path: &str) -> Result<Config, Trouble> {
        match self.file_type(path)? {
            FileType::RegularFile => Ok(Config::of(self.open_at(path, READ)?)?),
            _ => Err(Trouble::NotAFile),
        }
    }

    /// Whether something is at `path`, links followed.
    pub fn exists(&self, path: &str) -> Result<bool, Trouble> {
        match self.open_at(path, OFlags::PATH) {
            Ok(_) => Ok(true),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(false),
            Err(errno) => Err(Trouble::Errno(errno)),
        }
    }

    /// The last component of a symlink's target, even where the target is not there (`driver`, `master`); `None` where
    /// `path` is absent or not a link.
    pub fn link_name(&self, path: &str) -> Result<Option<String>, Trouble> {
        let (parent, name) = path.trim_end_matches('/').rsplit_once('/').unwrap_or((".", path));
        match self.folder(parent) {
            Ok(parent) => parent.link_name(name),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(errno) => Err(Trouble::Errno(errno)),
        }
    }

    fn file_type(&self, path: &str) -> Result<FileType, Trouble> {
        let found = self.open_at(path, OFlags::PATH).and_then(rustix::fs::fstat);
        Ok(FileType::from_raw_mode(found?.st_mode))
    }

    fn open_at(&self, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
        let flags = flags | OFlags::CLOEXEC;
        let path = path.trim_start_matches('/');
        let path = if path.is_empty() { "." } else { path };
        if !self.is_without_openat2() {
            let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
            match rustix::fs::openat2(&self.dir, path, flags, Mode::empty(), resolve) {
                // Too old, or filtered by seccomp.
                Err(Errno::NOSYS) => self.no_openat2.store(true, Ordering::Relaxed),
                // Filtered by an older seccomp profile, or a rename raced with a `..` on the way.
                Err(Errno::PERM | Errno::AGAIN) => {}
                result => return result,
            }
        }
        let resolved = resolve::resolve(&self.dir, path, &mut HashSet::new())?;
        if !resolved.exists {
            return Err(resolved.errno);
        }
        let path = if resolved.path.is_empty() { "." } else { &resolved.path };
        rustix::fs::openat(&self.dir, path, flags | OFlags::NOFOLLOW, Mode::empty())
    }

    /// `path` without symlinks, relative to the root, and whether it is there. Where a link dangles, the rest is kept as it
    /// is written.
    pub fn real_path(&self, path: &str) -> Result<Resolved, Trouble> {
        self.real_path_past(path, &mut HashSet::new())
    }

    /// Like [`Self::real_path`], without looking again at paths that were seen to be no links.
    pub(crate) fn real_path_past(&self, path: &str, plain: &mut HashSet<String>) -> Result<Resolved, Trouble> {
        Ok(resolve::resolve(&self.dir, path, plain)?)
    }

    fn is_without_openat2(&self) -> bool {
        self.no_openat2.load(Ordering::Relaxed)
    }
}
