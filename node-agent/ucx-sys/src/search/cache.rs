//! The dynamic loader's cache, `/etc/ld.so.cache`: which file it takes for a name. Format: glibc's `sysdeps/generic/dl-cache.h`.

use std::path::PathBuf;

/// Magic and version of the format since glibc 2.2; older tools put another table before it.
const MAGIC: &[u8] = b"glibc-ld.so.cache1.1";
const HEADER: usize = 48;
const ENTRY: usize = 24;
/// Flags of libraries for this processor: `FLAG_AARCH64_LIB64`, `FLAG_X8664_LIB64`, with `FLAG_ELF_LIBC6`.
const FLAGS: u32 = if cfg!(target_arch = "aarch64") { 0x0a03 } else { 0x0303 };

/// The paths that the cache gives for `name`, the loader's choice first. Anything that is not a cache gives none.
pub(super) fn paths(cache: &[u8], name: &str) -> Vec<PathBuf> {
    let Some(start) = cache.windows(MAGIC.len()).position(|window| window == MAGIC) else { return Vec::new() };
    // Offsets of strings count from the magic.
    let cache = cache.get(start..).unwrap_or_default();
    let count = number(cache, MAGIC.len()).unwrap_or(0) as usize;
    let entries = cache.get(HEADER..).unwrap_or_default().chunks_exact(ENTRY).take(count);
    let paths = entries.filter_map(|entry| {
        let key = string(cache, number(entry, 4)?)?;
        let wanted = number(entry, 0)? == FLAGS && key == name;
        if wanted { string(cache, number(entry, 8)?).map(PathBuf::from) } else { None }
    });
    paths.collect()
}

/// A number as glibc wrote it, in the machine's byte order.
fn number(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

/// A string up to its NUL.
fn string(bytes: &[u8], at: u32) -> Option<&str> {
    let rest = bytes.get(at as usize..)?;
    let end = rest.iter().take(4096).position(|&byte| byte == 0)?;
    std::str::from_utf8(&rest[..end]).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A cache as `ldconfig` writes it, with another table before it if asked.
    fn cache(entries: &[(u32, &str, &str)], before: &[u8]) -> Vec<u8> {
        let mut table = Vec::new();
        let mut strings: Vec<u8> = Vec::new();
        let first = HEADER + ENTRY * entries.len();
        for (flags, name, path) in entries {
            let mut put = |text: &str| {
                let at = u32::try_from(first + strings.len()).unwrap();
                strings.extend(text.as_bytes());
                strings.push(0);
                at
            };
            for field in [*flags, put(name), put(path), 0, 0, 0] {
                table.extend(field.to_ne_bytes());
            }
        }
        let mut cache = [before, MAGIC].concat();
        cache.extend(u32::try_from(entries.len()).unwrap().to_ne_bytes());
        cache.resize(before.len() + HEADER, 0);
        [cache, table, strings].concat()
    }

    #[test]
    fn finds_the_library_of_this_processor() {
        let entries = [
            (0x0003, "libucp.so.0", "/usr/lib32/libucp.so.0"),
            (FLAGS, "libucp.so.0", "/opt/ucx/lib/libucp.so.0"),
            (FLAGS, "libucs.so.0", "/opt/ucx/lib/libucs.so.0"),
        ];
        for before in [&b""[..], b"ld.so-1.7.0\0\0\0\0\0"] {
            let found = paths(&cache(&entries, before), "libucp.so.0");
            assert_eq!(found, [PathBuf::from("/opt/ucx/lib/libucp.so.0")]);
        }
        assert!(paths(&cache(&entries, b""), "libfoo.so").is_empty());
    }

    proptest! {
        #[test]
        fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..256), cut in 0_usize..200) {
            paths(&bytes, "libucp.so.0");
            paths(&[MAGIC, &bytes].concat(), "libucp.so.0");
            let whole = cache(&[(FLAGS, "libucp.so.0", "/x/libucp.so.0")], b"");
            paths(&whole[..cut.min(whole.len())], "libucp.so.0");
        }
    }
}
