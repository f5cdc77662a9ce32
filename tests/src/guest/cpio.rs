//! The kernel's format for an initramfs (its Documentation/driver-api/early-userspace/buffer-format.rst).

use std::{
    fs::File,
    io::{self, Seek as _, Write as _},
    path::Path,
};

use anyhow::{Context, Result, ensure};

/// Appends one executable file to an initramfs, as a further archive: the kernel reads one after the other.
pub(super) fn append(archive: &Path, name: &str, file: &Path) -> Result<()> {
    let mut out = File::options().append(true).open(archive)?;
    let mut input = File::open(file).with_context(|| format!("open {}", file.display()))?;
    let at = out.seek(io::SeekFrom::End(0))?;
    out.write_all(&padding(at))?;
    let size = input.metadata()?.len();
    entry(&mut out, name, 0o100_755, size)?;
    ensure!(io::copy(&mut input, &mut out)? == size, "{} changed while it was read", file.display());
    out.write_all(&padding(size))?;
    entry(&mut out, "TRAILER!!!", 0, 0)?;
    Ok(())
}

/// A header of the format `newc`: thirteen numbers, the name, and zeros up to a multiple of four.
fn entry(out: &mut File, name: &str, mode: u32, size: u64) -> Result<()> {
    let size = u32::try_from(size).context("too large for the format")?;
    let length = u32::try_from(name.len() + 1).context("too long a name")?;
    let (number, links) = (1, 1);
    let fields = [number, mode, 0, 0, links, 0, size, 0, 0, 0, 0, length, 0];
    let header: String = fields.iter().fold("070701".into(), |text, field| format!("{text}{field:08x}"));
    let header = [header.as_bytes(), name.as_bytes(), b"\0"].concat();
    out.write_all(&header)?;
    out.write_all(&padding(header.len() as u64))?;
    Ok(())
}

fn padding(length: u64) -> Vec<u8> {
    (length..length.next_multiple_of(4)).map(|_| 0).collect()
}
