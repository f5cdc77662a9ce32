//! A whole machine from bytes: surveyed in both ways of resolving paths, decided on, and put into words.

use std::{cell::RefCell, path::PathBuf, sync::LazyLock};

use arbitrary::{Arbitrary as _, Unstructured};
use policies::profile::Profiles;
use sysfs::{Cache, Root, survey, survey_with};

use crate::{laws, tree::Machine};

static PROFILES: LazyLock<Profiles> = LazyLock::new(|| Profiles::embedded().expect("our own profiles"));

thread_local! {
    /// Kept from one machine to the next, as an agent would that is moved between them: it must not matter.
    static CACHE: RefCell<Cache> = RefCell::new(Cache::new());
}

/// Tries the machine that these describe, if they do.
pub fn run(bytes: &[u8]) {
    let Ok(machine) = Machine::arbitrary_take_rest(Unstructured::new(bytes)) else { return };
    let dir = tempfile::Builder::new().prefix("railbind-fuzz-").tempdir_in(memory()).expect("a directory");
    machine.write(dir.path());
    let open = || Root::open(dir.path()).expect("a root");
    let found = survey(&open());
    assert_eq!(found, survey(&open().without_openat2()), "openat2 and the fallback disagree");
    let mut cache = Cache::new();
    for _ in 0..2 {
        assert_eq!(found, survey_with(&open(), &mut cache), "the cache changes what is found");
    }
    CACHE.with_borrow_mut(|cache| survey_with(&open(), cache));
    laws::check(&found.0, &found.1, &PROFILES);
}

fn memory() -> PathBuf {
    let shared = PathBuf::from("/dev/shm");
    if shared.is_dir() { shared } else { std::env::temp_dir() }
}
