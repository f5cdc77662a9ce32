//! A container's log: its first MiB, where engines say what they found, and its end, where they fail.

use kube::api::LogParams;
use policies::doctor::logs::LogScene;

use crate::cluster::{Cluster, Trouble};

/// Bytes of the log's beginning.
const HEAD: usize = 1 << 20;
/// Lines of its end: the API counts lines from the end, and bytes only from there on. Fewer are asked for where more are too long.
const TAIL_LINES: [i64; 3] = [50_000, 3_000, 200];
/// No line is looked at beyond this.
const LINE: usize = 8192;

/// Reads it, within bounds whatever its size.
pub(super) async fn read(
    cluster: &Cluster,
    namespace: &str,
    pod: &str,
    container: &str,
    restarted: bool,
    mib: u32,
) -> Result<LogScene, Trouble> {
    let of = |tail_lines, previous| LogParams {
        container: Some(container.into()),
        tail_lines,
        previous,
        ..LogParams::default()
    };
    let limit = (mib as usize) << 20;
    let mut lines = Lines::default();
    let head = LogParams { limit_bytes: i64::try_from(HEAD).ok(), ..of(None, false) };
    let mut size = 0;
    let cut = cluster
        .log(namespace, pod, &head, HEAD, |piece| {
            size += piece.len();
            lines.take(piece);
        })
        .await?;
    lines.end();
    if cut || size >= HEAD {
        // What is in both is counted twice, which says no more than once.
        lines.scene.cut = true;
        for count in TAIL_LINES {
            let cut = cluster.log(namespace, pod, &of(Some(count), false), limit, |piece| lines.take(piece)).await?;
            lines.end();
            if !cut {
                break;
            }
        }
    }
    if restarted {
        // How the last one ended is what a person wants to know; it may be gone.
        let last = of(Some(TAIL_LINES[1]), true);
        drop(cluster.log(namespace, pod, &last, limit, |piece| lines.take(piece)).await);
        lines.end();
    }
    Ok(lines.scene)
}

/// Makes lines of pieces, and forgets each when it is looked at.
#[derive(Default)]
struct Lines {
    scene: LogScene,
    begun: Vec<u8>,
}

impl Lines {
    fn take(&mut self, piece: &[u8]) {
        for part in piece.split_inclusive(|byte| *byte == b'\n') {
            // One line may be the whole log.
            self.begun.extend_from_slice(&part[..part.len().min(LINE - self.begun.len())]);
            if part.ends_with(b"\n") {
                self.end();
            }
        }
    }

    fn end(&mut self) {
        let line = std::mem::take(&mut self.begun);
        if !line.is_empty() {
            self.scene.take(&String::from_utf8_lossy(&line));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{LINE, Lines};

    #[test]
    fn lines_over_pieces_and_a_line_without_end() {
        let mut lines = Lines::default();
        for piece in ["NIXL falling ba", "ck to TCP\n\nx", "\n"] {
            lines.take(piece.as_bytes());
        }
        for _ in 0..100 {
            lines.take(&vec![b'a'; 65_536]);
            assert!(lines.begun.len() <= LINE);
        }
        lines.take(b" falling back to tcp");
        lines.end();
        assert_eq!((lines.scene.lines, lines.scene.hits.len(), lines.scene.hits[0].count), (4, 1, 1));
    }
}
