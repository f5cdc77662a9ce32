//! A directory held open, for reading many small files in it: a GID table has hundreds, /proc thousands.

use std::sync::atomic::Ordering;

use rustix::{
    buffer::spare_capacity,
    fd::OwnedFd,
    fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags},
};

use super::{ATTRIBUTE_LIMIT, Content, READ, Root};

/// An open directory of a [`Root`].
#[derive(Debug)]
pub(crate) struct Folder<'a> {
    pub(super) root: &'a Root,
    pub(super) path: String,
    pub(super) dir: OwnedFd,
}

impl Folder<'_> {
    /// An attribute `name`, which may lie in a subdirectory. One read takes it whole, as the kernel promises for sysfs
    /// attributes and `comm`.
    pub(crate) fn read(&self, name: &str) -> Content {
        self.read_plain(name).unwrap_or_else(|| self.root.read(&format!("{}/{name}", self.path)))
    }

    /// `None` where anything is not as usual, a symlink for instance, and the long way must be taken.
    fn read_plain(&self, name: &str) -> Option<Content> {
        if self.root.no_openat2.load(Ordering::Relaxed) {
            return None;
        }
        let stat = rustix::fs::statat(&self.dir, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return None;
        }
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let file = rustix::fs::openat2(&self.dir, name, READ | OFlags::CLOEXEC, Mode::empty(), resolve).ok()?;
        let mut bytes = Vec::with_capacity(ATTRIBUTE_LIMIT);
        match rustix::io::read(&file, spare_capacity(&mut bytes)) {
            Ok(_) => Some(Content::of(bytes)),
            Err(errno) => Some(Content::Unreadable(errno.into())),
        }
    }
}
