//! Whether the process can do its work now, check by check, each with its reason.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{Arc, PoisonError, RwLock},
};

/// All checks of a process. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Readiness(Arc<RwLock<BTreeMap<&'static str, Result<String, String>>>>);

impl Readiness {
    /// Adds a check, not ready yet, and gives its handle. The same name twice is the same check.
    pub fn check(&self, name: &'static str) -> Check {
        let mut checks = self.0.write().unwrap_or_else(PoisonError::into_inner);
        checks.entry(name).or_insert_with(|| Err("starting".into()));
        Check { all: self.clone(), name }
    }

    /// Whether every check is ready.
    pub fn is_ready(&self) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).values().all(Result::is_ok)
    }

    /// The checks as text, one a line: `[+] name`, `[+] name: what to know` or `[-] name: reason`.
    pub fn report(&self) -> String {
        let checks = self.0.read().unwrap_or_else(PoisonError::into_inner);
        checks.iter().fold(String::new(), |mut text, (name, state)| {
            // Writing to a String cannot fail.
            let _ = match state {
                Ok(note) if note.is_empty() => writeln!(text, "[+] {name}"),
                Ok(note) => writeln!(text, "[+] {name}: {note}"),
                Err(reason) => writeln!(text, "[-] {name}: {reason}"),
            };
            text
        })
    }

    fn set(&self, name: &'static str, state: Result<String, String>) {
        let before = self.0.write().unwrap_or_else(PoisonError::into_inner).insert(name, state.clone());
        if before.as_ref() == Some(&state) {
            return;
        }
        match state {
            Ok(note) if note.is_empty() => tracing::info!(check = name, "ready"),
            Ok(note) => tracing::warn!(check = name, note, "ready"),
            Err(reason) => tracing::warn!(check = name, reason, "not ready"),
        }
    }
}

/// One named check.
#[derive(Debug, Clone)]
pub struct Check {
    all: Readiness,
    name: &'static str,
}

impl Check {
    /// It is ready.
    pub fn ready(&self) {
        self.ready_but("");
    }

    /// It is ready, and there is something to know. Nothing to know is plainly ready.
    pub fn ready_but(&self, note: &str) {
        self.all.set(self.name, Ok(note.to_owned()));
    }

    /// It is not, and why.
    pub fn not_ready(&self, reason: impl Into<String>) {
        self.all.set(self.name, Err(reason.into()));
    }
}

#[cfg(test)]
mod tests {
    use super::Readiness;

    #[test]
    fn ready_when_every_check_is() {
        let readiness = Readiness::default();
        assert!(readiness.is_ready(), "nothing to wait for");
        let nodes = readiness.check("nodes");
        let certificate = readiness.check("certificate");
        certificate.ready();
        assert!(!readiness.is_ready());
        assert_eq!(readiness.report(), "[+] certificate\n[-] nodes: starting\n");
        nodes.ready();
        assert!(readiness.is_ready());
        certificate.ready_but("ends soon");
        assert!(readiness.is_ready());
        assert_eq!(readiness.report(), "[+] certificate: ends soon\n[+] nodes\n");
        certificate.not_ready("expired");
        assert_eq!(readiness.report(), "[-] certificate: expired\n[+] nodes\n");
    }

    #[test]
    fn asking_for_a_check_again_keeps_its_state() {
        let readiness = Readiness::default();
        readiness.check("nodes").ready();
        readiness.check("nodes");
        assert!(readiness.is_ready());
    }
}
