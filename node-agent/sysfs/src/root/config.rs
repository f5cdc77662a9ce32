//! A PCI function's configuration space.

use rustix::{fd::OwnedFd, io::Errno};

/// Of a function with extended capabilities; others have 256 bytes.
const EXTENDED_SIZE: i64 = 4096;

/// An open `config` file. It is read a word at a time, because on hardware each word is a transaction on the bus.
#[derive(Debug)]
pub(crate) struct Config {
    file: OwnedFd,
    size: i64,
}

impl Config {
    pub(super) fn of(file: OwnedFd) -> Result<Self, Errno> {
        let size = rustix::fs::fstat(&file)?.st_size;
        Ok(Self { file, size })
    }

    /// Whether there is anything past the first 256 bytes.
    pub(crate) fn is_extended(&self) -> bool {
        self.size >= EXTENDED_SIZE
    }

    /// The little-endian word at `offset`; `None` where the reader may not see it.
    pub(crate) fn word(&self, offset: u16) -> Option<u32> {
        let mut word = [0; 4];
        let length = rustix::io::pread(&self.file, &mut word[..], u64::from(offset)).ok()?;
        (length == word.len()).then(|| u32::from_le_bytes(word))
    }
}
