//! Memory that UCX may read and write while nobody looks.

use std::{io, ptr};

/// Memory that stays where it is for as long as the value lives, and that is only ever read and written through copies: a NIC or
/// another process may change it at any time once it is registered, so nobody may hold a reference into it.
///
/// # Safety
/// `address` and `len` name memory that is this value's alone until it is dropped, and `kind` says truly what it is.
pub unsafe trait Block {
    /// Where it begins, in the address space that UCX is given for its kind.
    fn address(&self) -> u64;
    /// Its bytes.
    fn len(&self) -> usize;
    /// Whether it has none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// What it is.
    fn kind(&self) -> Kind;
    /// Copies `bytes` to `offset`. Panics where that is outside.
    fn write(&self, offset: usize, bytes: &[u8]) -> Result<(), String>;
    /// Copies from `offset` to `bytes`. Panics where that is outside.
    fn read(&self, offset: usize, bytes: &mut [u8]) -> Result<(), String>;
}

/// Kinds of memory whose number never moved in UCX.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Of the process.
    Host,
    /// Of an NVIDIA GPU.
    Cuda,
}

/// The check before every copy and every transfer.
///
/// # Panics
/// Unless `length` bytes from `offset` are within `size`.
#[inline]
pub fn within(offset: usize, length: usize, size: usize) {
    let end = offset.checked_add(length);
    assert!(end.is_some_and(|end| end <= size), "{length} bytes from {offset} are outside of {size}");
}

/// No page is smaller than this.
const PAGE: usize = 4096;
/// What a huge page is on x86-64, and on arm64 with pages of 4 KiB.
const HUGE: usize = 2 << 20;

/// Whole pages of the process, present and zero.
#[derive(Debug)]
pub struct HostBlock {
    address: *mut u8,
    len: usize,
    /// What was mapped for it: where, and how many bytes.
    mapping: (*mut libc::c_void, usize),
}

impl HostBlock {
    /// Maps `len` bytes, rounded up to pages by the kernel. The pages are there when it returns, so that no transfer waits for them, and
    /// huge where the kernel has such (`transparent_hugepage/enabled` of `madvise` or `always`): a transfer whose bytes the processor
    /// copies then walks through fewer of them. So does UCX with what it allocates itself.
    pub fn new(len: usize) -> io::Result<Self> {
        // Room to begin and to end where a huge page does.
        let mapped = if len < HUGE { len.max(1) } else { len.saturating_add(2 * HUGE - 1) / HUGE * HUGE };
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a new anonymous mapping at an address of the kernel's choice touches nothing that exists.
        let start = unsafe { libc::mmap(ptr::null_mut(), mapped, protection, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: advice about the new mapping changes no contents. A kernel without huge pages refuses it, and nothing is lost.
        unsafe { libc::madvise(start, mapped, libc::MADV_HUGEPAGE) };
        let skipped = if len < HUGE { 0 } else { start.align_offset(HUGE) };
        // SAFETY: less than a huge page is skipped, of which one more was mapped.
        let address: *mut u8 = unsafe { start.add(skipped) }.cast();
        let block = Self { address, len, mapping: (start, mapped) };
        for page in (0..len).step_by(PAGE) {
            block.write(page, &[0]).map_err(io::Error::other)?;
        }
        Ok(block)
    }
}

// SAFETY: the mapping is this value's until it is unmapped in `drop`, and is ordinary memory.
unsafe impl Block for HostBlock {
    fn address(&self) -> u64 {
        self.address as u64
    }

    fn len(&self) -> usize {
        self.len
    }

    fn kind(&self) -> Kind {
        Kind::Host
    }

    fn write(&self, offset: usize, bytes: &[u8]) -> Result<(), String> {
        within(offset, bytes.len(), self.len);
        // SAFETY: the offset is within the mapping.
        let to = unsafe { self.address.add(offset) };
        // SAFETY: as many bytes are within the mapping, which no reference points into, so that they do not overlap with `bytes`.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
        Ok(())
    }

    fn read(&self, offset: usize, bytes: &mut [u8]) -> Result<(), String> {
        within(offset, bytes.len(), self.len);
        // SAFETY: the offset is within the mapping.
        let from = unsafe { self.address.add(offset) };
        // SAFETY: as many bytes are within the mapping, which no reference points into, so that they do not overlap with `bytes`.
        unsafe { ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), bytes.len()) };
        Ok(())
    }
}

impl Drop for HostBlock {
    fn drop(&mut self) {
        let (start, mapped) = self.mapping;
        // SAFETY: the mapping was made in `new` with this length, and this is its only release.
        unsafe { libc::munmap(start, mapped) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_to_the_last_byte_and_not_further() {
        let block = HostBlock::new(5000).unwrap();
        assert_eq!((block.address() % 4096, block.len(), block.kind()), (0, 5000, Kind::Host));
        block.write(4997, b"abc").unwrap();
        let mut back = [0xff; 4];
        block.read(4996, &mut back).unwrap();
        assert_eq!(&back, b"\0abc");
    }

    #[test]
    fn begins_where_a_huge_page_does_and_is_there_to_the_last_byte() {
        let len = 3 * HUGE + 5;
        let block = HostBlock::new(len).unwrap();
        assert_eq!((block.address() % HUGE as u64, block.len()), (0, len));
        let mut last = [0xff; 5];
        block.read(len - 5, &mut last).unwrap();
        assert_eq!(last, [0; 5]);
        block.write(len - 5, b"abcde").unwrap();
        block.read(len - 5, &mut last).unwrap();
        assert_eq!(&last, b"abcde");
    }

    #[test]
    #[should_panic(expected = "2 bytes from 4999 are outside of 5000")]
    fn refuses_what_is_outside() {
        let _ = HostBlock::new(5000).unwrap().write(4999, b"ab");
    }

    #[test]
    fn says_that_memory_cannot_be_had() {
        assert!(HostBlock::new(usize::MAX / 2).is_err());
    }
}
