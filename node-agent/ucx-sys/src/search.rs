//! Where a UCX is: folders that are named, or those in which the dynamic loader would look.

mod cache;

use std::{
    ffi::{OsStr, OsString},
    fs,
    path::{Path, PathBuf},
};

/// What `libucp` is called in every release so far.
const SONAME: &str = "libucp.so.0";
/// Folders that no loader configuration has to name, and those where UCX's own package and HPC-X put themselves.
const STANDARD: [&str; 8] = [
    "/usr/local/lib",
    MULTIARCH[0],
    MULTIARCH[1],
    "/usr/lib64",
    "/lib64",
    "/usr/lib",
    "/opt/ucx/lib",
    "/opt/hpcx/ucx/lib",
];
#[cfg(target_arch = "aarch64")]
const MULTIARCH: [&str; 2] = ["/usr/lib/aarch64-linux-gnu", "/lib/aarch64-linux-gnu"];
#[cfg(not(target_arch = "aarch64"))]
const MULTIARCH: [&str; 2] = ["/usr/lib/x86_64-linux-gnu", "/lib/x86_64-linux-gnu"];

/// The shared objects of one UCX, all of one folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// Services.
    pub ucs: PathBuf,
    /// Transports.
    pub uct: PathBuf,
    /// Protocols.
    pub ucp: PathBuf,
}

/// The folders to search where none is named, each once: `LD_LIBRARY_PATH`, what the loader's cache says, the usual ones.
pub fn folders(library_path: Option<&OsStr>, loader_cache: &[u8]) -> Vec<PathBuf> {
    let named = library_path.into_iter().flat_map(std::env::split_paths).filter(|folder| folder.is_absolute());
    let cached = cache::paths(loader_cache, SONAME).into_iter().filter_map(|path| path.parent().map(Path::to_path_buf));
    let mut folders: Vec<PathBuf> = Vec::new();
    for folder in named.chain(cached).chain(STANDARD.iter().map(PathBuf::from)) {
        if !folders.contains(&folder) {
            folders.push(folder);
        }
    }
    folders
}

/// The same for this process and machine.
pub fn usual_folders() -> Vec<PathBuf> {
    let cache = fs::read("/etc/ld.so.cache").unwrap_or_default();
    folders(std::env::var_os("LD_LIBRARY_PATH").as_deref(), &cache)
}

/// The first folder's UCX.
pub fn find(folders: &[PathBuf]) -> Option<Files> {
    folders.iter().find_map(|folder| in_folder(folder))
}

/// The UCX of a folder, under an absolute path; `None` unless all three files are there.
pub fn in_folder(folder: &Path) -> Option<Files> {
    // Absolute and without links: a path with a slash is what makes the loader take this file and search for no other.
    let folder = fs::canonicalize(folder).ok()?;
    let mut names: Vec<OsString> =
        fs::read_dir(&folder).ok()?.filter_map(|entry| Some(entry.ok()?.file_name())).collect();
    names.sort();
    let file = |stem: &str| {
        let plain = format!("{stem}.so.0");
        // Wheels that carry a UCX rename it: `libucp-b39b3ed9.so.0.0.0`.
        let renamed = |name: &&OsString| {
            let name = name.to_string_lossy();
            name.strip_prefix(stem).is_some_and(|rest| rest.starts_with('-') && rest.contains(".so."))
        };
        let name = names.iter().find(|name| **name == *plain).or_else(|| names.iter().find(renamed))?;
        Some(folder.join(name))
    };
    Some(Files { ucs: file("libucs")?, uct: file("libuct")?, ucp: file("libucp")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder_with(names: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for name in names {
            fs::write(folder.path().join(name), "").unwrap();
        }
        folder
    }

    #[test]
    fn takes_all_three_of_one_folder_or_none() {
        let whole = folder_with(&["libucs.so.0", "libuct.so.0", "libucp.so.0", "libucp.so.0.0.0"]);
        let half = folder_with(&["libucp.so.0", "libucs.so.0"]);
        let absent = whole.path().join("absent");
        let found = find(&[absent, half.path().into(), whole.path().into()]).unwrap();
        assert_eq!(found.ucp, whole.path().canonicalize().unwrap().join("libucp.so.0"));
        assert_eq!(find(&[half.path().into()]), None);
        assert_eq!(find(&[]), None);
    }

    #[test]
    fn knows_the_names_that_wheels_give() {
        let names = ["libucs-2a57.so.0.0.0", "libuct-1f52.so.0.0.0", "libucp-b39b.so.0.0.0", "libucpx.so.0"];
        let wheel = folder_with(&names);
        let found = in_folder(wheel.path()).unwrap();
        assert!(found.ucp.ends_with("libucp-b39b.so.0.0.0"), "{found:?}");
    }

    #[test]
    fn library_path_comes_first_and_nothing_twice() {
        let folders = folders(Some(OsStr::new("/a:relative:/usr/lib:/a")), b"not a cache");
        assert_eq!(folders[..2], [PathBuf::from("/a"), "/usr/lib".into()]);
        assert_eq!(folders.iter().filter(|folder| **folder == Path::new("/usr/lib")).count(), 1);
        assert!(!folders.contains(&"relative".into()));
    }
}
