//! Last words: the error that ends the process goes to the log and to where the kubelet looks for it.

use std::{fs::OpenOptions, io::Write as _, path::Path, process::ExitCode};

/// The kubelet's default `terminationMessagePath`.
const TERMINATION_LOG: &str = "/dev/termination-log";
/// The kubelet keeps no more of it.
const MAX: usize = 4096;

/// Logs the error with its causes, leaves it in the termination log (so that `kubectl describe pod` shows it), and gives the
/// exit code.
pub fn report_fatal(error: &anyhow::Error) -> ExitCode {
    let text = format!("{error:#}");
    if tracing::dispatcher::has_been_set() {
        tracing::error!(error = %text, "giving up");
    } else {
        eprintln!("Error: {text}");
    }
    if let Err(error) = leave(Path::new(TERMINATION_LOG), &text) {
        tracing::debug!(%error, "no termination log");
    }
    ExitCode::FAILURE
}

/// The kubelet makes the file; outside a container there is none, and none is wanted.
fn leave(path: &Path, text: &str) -> std::io::Result<()> {
    let mut file = OpenOptions::new().write(true).truncate(true).open(path)?;
    file.write_all(&text.as_bytes()[..text.floor_char_boundary(MAX)])
}

#[cfg(test)]
mod tests {
    use super::{MAX, leave};

    #[test]
    fn writes_only_where_the_kubelet_made_a_file() {
        let path = std::env::temp_dir().join(format!("railbind-termination-{}", std::process::id()));
        assert!(leave(&path, "lost").is_err());
        std::fs::write(&path, "an older and longer message").unwrap();
        leave(&path, &"ä".repeat(MAX)).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "ä".repeat(MAX / 2));
        leave(&path, "short").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "short");
        std::fs::remove_file(&path).unwrap();
    }
}
