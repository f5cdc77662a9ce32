//! What UCX prints to a C stream, as a string.

use std::{io, ptr, slice};

use libc::{FILE, c_char};

/// Most that is kept: a settings dump is about 60 KiB.
const LIMIT: usize = 4 << 20;

/// Runs `print` on a stream into memory and returns what it wrote.
pub(crate) fn printed(print: impl FnOnce(*mut FILE)) -> io::Result<String> {
    let mut text: *mut c_char = ptr::null_mut();
    let mut size = 0_usize;
    // SAFETY: both places outlive the stream, which is closed below, before they are read.
    let stream = unsafe { libc::open_memstream(&raw mut text, &raw mut size) };
    if stream.is_null() {
        return Err(io::Error::last_os_error());
    }
    print(stream);
    // SAFETY: the stream was opened above and is not used after this.
    let closed = unsafe { libc::fclose(stream) };
    let result = if closed != 0 {
        Err(io::Error::last_os_error())
    } else if text.is_null() {
        Ok(String::new())
    } else {
        // SAFETY: after fclose, `text` points to `size` bytes, allocated for us, and nothing else writes to them.
        let bytes = unsafe { slice::from_raw_parts(text.cast::<u8>(), size.min(LIMIT)) };
        Ok(String::from_utf8_lossy(bytes).into_owned())
    };
    // SAFETY: open_memstream allocated it with malloc and gave it to us; null is allowed.
    unsafe { libc::free(text.cast()) };
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_back_what_was_printed() {
        let text = printed(|stream| {
            // SAFETY: the string is NUL-terminated and the stream is open.
            let written = unsafe { libc::fputs(c"tcp/eth0\n".as_ptr(), stream) };
            assert!(written >= 0);
        });
        assert_eq!(text.unwrap(), "tcp/eth0\n");
        assert_eq!(printed(|_| ()).unwrap(), "");
    }
}
