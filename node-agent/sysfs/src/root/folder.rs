//! A directory held open: what is in it is then one short step away, whatever the length of its path. A GID table has
//! hundreds of files, /proc thousands.

use std::{cell::RefCell, mem::MaybeUninit};

use rustix::{
    fd::{AsFd, OwnedFd},
    fs::{AtFlags, FileType, Mode, OFlags, RawDir, ResolveFlags},
    io::Errno,
};

use super::{ATTRIBUTE_LIMIT, Content, READ, Root, Trouble};

/// For the kernel's records of a directory: a few hundred short names at a time.
const RECORDS: usize = 16 * 1024;

thread_local! {
    /// Where attributes are read to, so that thousands of them are not thousands of allocations.
    static BUFFER: RefCell<[u8; ATTRIBUTE_LIMIT]> = const { RefCell::new([0; ATTRIBUTE_LIMIT]) };
}

/// An open directory of a [`Root`].
#[derive(Debug)]
pub(crate) struct Folder<'a> {
    pub(super) root: &'a Root,
    pub(super) path: String,
    pub(super) dir: OwnedFd,
}

/// A name in a directory, and what the directory says that it is.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(super) kind: FileType,
}

impl Entry {
    /// Surely a file; a symlink may be one.
    pub(crate) fn is_file(&self) -> bool {
        self.kind == FileType::RegularFile
    }
}

impl Folder<'_> {
    pub(crate) fn is_at(&self, path: &str) -> bool {
        self.path == path
    }

    /// An attribute: one read takes it whole, as the kernel promises for those of sysfs, and for `comm`.
    pub(crate) fn read(&self, name: &str) -> Content {
        let plain = if name.contains('/') { self.read_below(name) } else { self.read_name(name) };
        plain.unwrap_or_else(|| self.root.read(&self.path_of(name)))
    }

    /// Like [`Self::read`], without asking once more what the listing has already told.
    pub(crate) fn read_entry(&self, entry: &Entry) -> Content {
        match entry.kind {
            FileType::RegularFile => self.open_and_read(&entry.name).unwrap_or_else(|| self.read(&entry.name)),
            _ => self.read(&entry.name),
        }
    }

    /// `None` where anything is not as usual, a symlink for instance, and the long way must be taken.
    fn read_name(&self, name: &str) -> Option<Content> {
        match self.kind(name) {
            Ok(FileType::RegularFile) => self.open_and_read(name),
            Err(Errno::NOENT) => Some(Content::Absent),
            Ok(_) | Err(_) => None,
        }
    }

    fn open_and_read(&self, name: &str) -> Option<Content> {
        let flags = READ | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        take(&rustix::fs::openat(&self.dir, name, flags, Mode::empty()).ok()?)
    }

    /// In a subdirectory, which could be a symlink: the kernel must see to it that none is followed.
    fn read_below(&self, name: &str) -> Option<Content> {
        if self.root.is_without_openat2() || self.kind(name).ok()? != FileType::RegularFile {
            return None;
        }
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        take(&rustix::fs::openat2(&self.dir, name, READ | OFlags::CLOEXEC, Mode::empty(), resolve).ok()?)
    }

    /// Whether something is there; `None` where a symlink must be followed to tell.
    pub(crate) fn exists(&self, name: &str) -> Option<bool> {
        match self.kind(name) {
            Ok(FileType::Symlink) => None,
            Ok(_) => Some(true),
            Err(Errno::NOENT) => Some(false),
            Err(_) => None,
        }
    }

    /// The last component of a symlink's target, even where the target is not there; `None` where it is absent or no link.
    pub(crate) fn link_name(&self, name: &str) -> Result<Option<String>, Trouble> {
        match rustix::fs::readlinkat(&self.dir, name, Vec::new()) {
            Ok(target) => {
                let target = target.to_string_lossy();
                let base = target.trim_end_matches('/').rsplit('/').next();
                Ok(base.filter(|base| !matches!(*base, "" | "." | "..")).map(str::to_owned))
            }
            Err(Errno::NOENT | Errno::INVAL | Errno::NOTDIR) => Ok(None),
            Err(errno) => Err(Trouble::Errno(errno)),
        }
    }

    /// At most `limit` entries in the order in which the kernel tells them, and whether there were more. Only for folders
    /// that were opened to be listed, and only once for each.
    pub(super) fn entries(&self, limit: usize) -> Result<(Vec<Entry>, bool), Errno> {
        let mut records = [MaybeUninit::uninit(); RECORDS];
        let mut dir = RawDir::new(self.dir.as_fd(), &mut records);
        let mut entries = Vec::new();
        while let Some(entry) = dir.next() {
            let entry = entry?;
            // The kernel names its objects in ASCII; a name that is not even UTF-8 is none of them.
            let Ok(name) = entry.file_name().to_str() else { continue };
            // `.` and `..`, and what people put into a tree that git would not keep; the kernel makes no such names.
            if name.starts_with('.') {
                continue;
            }
            if entries.len() == limit {
                return Ok((entries, true));
            }
            entries.push(Entry { name: name.to_owned(), kind: entry.file_type() });
        }
        Ok((entries, false))
    }

    fn kind(&self, name: &str) -> Result<FileType, Errno> {
        let stat = rustix::fs::statat(&self.dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(FileType::from_raw_mode(stat.st_mode))
    }

    fn path_of(&self, name: &str) -> String {
        format!("{}/{name}", self.path)
    }
}

/// `None` where one read may not have been all.
fn take(file: &OwnedFd) -> Option<Content> {
    BUFFER.with_borrow_mut(|buffer| match rustix::io::read(file, &mut buffer[..]) {
        Ok(length) if length == ATTRIBUTE_LIMIT => None,
        Ok(length) => Some(Content::of(&buffer[..length])),
        Err(Errno::INTR) => None,
        Err(errno) => Some(Content::Unreadable(errno.into())),
    })
}
