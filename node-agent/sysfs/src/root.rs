//! The disk as a value: bounded, non-blocking reads below one directory that no symlink can leave.

mod content;
mod folder;
mod natural;
mod resolve;

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

use rustix::{
    buffer::spare_capacity,
    fd::OwnedFd,
    fs::{Dir, FileType, Mode, OFlags, ResolveFlags},
    io::Errno,
};

pub use content::{Content, Listing, Trouble};
pub(crate) use folder::Folder;
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
            Ok(bytes) => Content::of(bytes),
            Err(Trouble::Errno(Errno::NOENT)) => Content::Absent,
            Err(trouble) => Content::Unreadable(trouble),
        }
    }

    /// The first `limit` bytes of a regular file. Anything else, a FIFO or a device, is refused before it is opened for
    /// reading, because opening can block or have effects.
    pub fn read_bytes(&self, path: &str, limit: usize) -> Result<Vec<u8>, Trouble> {
        match self.file_type(path)? {
            FileType::RegularFile => {}
            FileType::Directory
            | FileType::Symlink
            | FileType::Fifo
            | FileType::Socket
            | FileType::CharacterDevice
            | FileType::BlockDevice
            | FileType::Unknown => return Err(Trouble::NotAFile),
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
    pub(crate) fn folder(&self, path: &str) -> Result<Folder<'_>, Trouble> {
        let dir = self.open_at(path, OFlags::PATH | OFlags::DIRECTORY)?;
        Ok(Folder { root: self, path: path.to_owned(), dir })
    }

    /// The names in a directory in natural order (`mlx5_2` before `mlx5_10`), at most 4096 of them.
    pub fn list(&self, path: &str) -> Listing {
        self.list_up_to(path, LIST_LIMIT)
    }

    /// The names in a directory in natural order, at most `limit` of them.
    pub fn list_up_to(&self, path: &str, limit: usize) -> Listing {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NONBLOCK;
        let opened = self.open_at(path, flags).and_then(Dir::new);
        let dir = match opened {
            Ok(dir) => dir,
            Err(Errno::NOENT) => return Listing::Absent,
            Err(Errno::NOTDIR) => return Listing::Unreadable(Trouble::NotADirectory),
            Err(errno) => return Listing::Unreadable(Trouble::Errno(errno)),
        };
        let mut names = Vec::new();
        let mut truncated = false;
        for entry in dir {
            let entry = match entry {
                Ok(entry) => entry,
                Err(errno) => return Listing::Unreadable(Trouble::Errno(errno)),
            };
            // The kernel names its objects in ASCII; a name that is not even UTF-8 is none of them.
            let Ok(name) = entry.file_name().to_str() else { continue };
            // `.` and `..`, and what people put into a tree that git would not keep; the kernel makes no such names.
            if name.starts_with('.') {
                continue;
            }
            if names.len() == limit {
                truncated = true;
                break;
            }
            names.push(name.to_owned());
        }
        names.sort_by(|a, b| natural::compare(a, b));
        Listing::Entries { names, truncated }
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
        let parent = match self.open_at(parent, OFlags::PATH | OFlags::DIRECTORY) {
            Ok(parent) => parent,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            Err(errno) => return Err(Trouble::Errno(errno)),
        };
        match rustix::fs::readlinkat(&parent, name, Vec::new()) {
            Ok(target) => {
                let target = target.to_string_lossy();
                let base = target.trim_end_matches('/').rsplit('/').next();
                Ok(base.filter(|base| !matches!(*base, "" | "." | "..")).map(str::to_owned))
            }
            Err(Errno::NOENT | Errno::INVAL | Errno::NOTDIR) => Ok(None),
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
        if !self.no_openat2.load(Ordering::Relaxed) {
            let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
            match rustix::fs::openat2(&self.dir, path, flags, Mode::empty(), resolve) {
                // Too old, or filtered by seccomp.
                Err(Errno::NOSYS) => self.no_openat2.store(true, Ordering::Relaxed),
                // Filtered by an older seccomp profile, or a rename raced with a `..` on the way.
                Err(Errno::PERM | Errno::AGAIN) => {}
                result => return result,
            }
        }
        let resolved = resolve::resolve(&self.dir, path)?;
        if !resolved.exists {
            return Err(resolved.errno);
        }
        let path = if resolved.path.is_empty() { "." } else { &resolved.path };
        rustix::fs::openat(&self.dir, path, flags | OFlags::NOFOLLOW, Mode::empty())
    }

    /// `path` without symlinks, relative to the root, and whether it is there. Where a link dangles, the rest is kept as it
    /// is written.
    pub fn real_path(&self, path: &str) -> Result<Resolved, Trouble> {
        Ok(resolve::resolve(&self.dir, path)?)
    }
}
