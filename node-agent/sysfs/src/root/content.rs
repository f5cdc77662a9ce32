//! What reading a file or directory can end in.

use rustix::io::Errno;

/// A file as read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// There is no such file.
    Absent,
    /// It is there and holds nothing but white space.
    Empty,
    /// It is there and could not be read.
    Unreadable(Trouble),
    /// Its text.
    Text(String),
}

impl Content {
    pub(super) fn of(bytes: &[u8]) -> Self {
        if bytes.trim_ascii().is_empty() {
            Self::Empty
        } else {
            Self::Text(String::from_utf8_lossy(bytes).into_owned())
        }
    }
}

/// A directory as read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listing {
    /// There is no such directory.
    Absent,
    /// It is there and could not be listed.
    Unreadable(Trouble),
    /// The names in it.
    Entries {
        /// In natural order, without those that start with a dot.
        names: Vec<String>,
        /// There were more than we look at.
        truncated: bool,
    },
}

impl From<Errno> for Listing {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::NOENT => Self::Absent,
            Errno::NOTDIR => Self::Unreadable(Trouble::NotADirectory),
            errno => Self::Unreadable(Trouble::Errno(errno)),
        }
    }
}

/// Why something that is there could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// The kernel said no.
    #[error("{0}")]
    Errno(Errno),
    /// A directory, FIFO, socket or device where a regular file belongs.
    #[error("not a regular file")]
    NotAFile,
    /// Something else where a directory belongs.
    #[error("not a directory")]
    NotADirectory,
}

impl From<Errno> for Trouble {
    fn from(errno: Errno) -> Self {
        Self::Errno(errno)
    }
}

impl Trouble {
    /// The kernel's way of saying that an attribute has no value just now: an empty GID slot, a capability the hardware
    /// lacks, a device on its way out.
    pub fn is_no_value(self) -> bool {
        matches!(self, Self::Errno(Errno::INVAL | Errno::NODATA | Errno::OPNOTSUPP | Errno::NODEV))
    }
}
