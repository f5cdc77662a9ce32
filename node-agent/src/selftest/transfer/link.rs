//! What the two children tell each other through their parents, and how a child hears and speaks.

use std::{
    cell::RefCell,
    collections::VecDeque,
    fs::File,
    io::{BufRead, BufReader, Read, Write},
    sync::mpsc::{Receiver, TryRecvError, sync_channel},
    thread,
};

use policies::selftest::{Failure, FailureKind, Memory, Op, Order, Role, Said, Told};
use serde::{Deserialize, Serialize};

use super::{Line, Trouble};

/// Of what the children say to each other. Another number is another language.
pub(super) const PROTOCOL: u32 = 1;
/// Longest line that is read: an address of 64 KiB, escaped twice.
const LINE: u64 = 1 << 20;

/// A child's word to the other.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Word {
    /// First.
    Hello(Hello),
    /// The endpoint carried a message there and back.
    Up,
    /// The target is ready for a turn. Its memory comes with the first.
    Ready {
        /// Which turn of the step.
        turn: u64,
    },
    /// The initiator is about to send this many messages, so many at a time.
    Run {
        /// Messages.
        count: u64,
        /// Most that are under way.
        window: u64,
    },
    /// The initiator has finished a turn.
    Done,
    /// The target compared what it has: nothing, or what is wrong.
    Checked {
        /// What is wrong.
        wrong: Option<String>,
    },
    /// No more steps.
    Bye,
    /// It is over.
    Failed(Failure),
}

/// Who a child is. `protocol` is in it whatever else another version says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Hello {
    /// [`PROTOCOL`].
    pub protocol: u32,
    /// Version of UCX.
    pub ucx: String,
    /// Which end it is.
    pub role: Role,
    /// Where its buffer lies.
    pub memory: Memory,
    /// What it was ordered to do.
    pub ops: Vec<Op>,
    /// At which sizes.
    pub sizes: Vec<u64>,
    /// A number that both sides have if they have the same secret, and that tells nothing of it.
    pub proof: u64,
    /// Its worker's address.
    pub address: String,
    /// Its memory: where it is, how long, and the key to it.
    pub lent: Lent,
}

/// Memory that the other side may read and write.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Lent {
    /// Where it begins.
    pub at: u64,
    /// Its bytes.
    pub len: u64,
    /// UCX's key, in base64.
    pub key: String,
}

/// A child's two pipes.
pub(super) struct Link {
    out: File,
    heard: Receiver<Told>,
    /// Words that came while something else was waited for.
    early: RefCell<VecDeque<Word>>,
}

impl Link {
    pub(super) fn new(out: File) -> Self {
        let (sender, heard) = sync_channel(64);
        // Reading blocks; the transfer must not. The thread ends with the process.
        thread::spawn(move || {
            let mut stdin = BufReader::new(std::io::stdin());
            loop {
                let mut line = Vec::new();
                let read = stdin.by_ref().take(LINE).read_until(b'\n', &mut line);
                let whole = read.is_ok() && line.last() == Some(&b'\n');
                let told = serde_json::from_slice(&line).ok().filter(|_| whole);
                let Some(()) = told.and_then(|told| sender.send(told).ok()) else { return };
            }
        });
        Self { out, heard, early: RefCell::default() }
    }

    /// Waits for the parent's word; `None` once there is none to come.
    pub(super) fn told(&self) -> Option<Told> {
        self.heard.recv().ok()
    }

    /// What the other side said next, if it did.
    pub(super) fn word(&self) -> Result<Option<Word>, Trouble> {
        let early = self.early.borrow_mut().pop_front();
        if early.is_some() { Ok(early) } else { self.fresh() }
    }

    /// Hears only whether it is over, and keeps what else is said.
    pub(super) fn listen(&self) -> Result<(), Trouble> {
        if let Some(word) = self.fresh()? {
            self.early.borrow_mut().push_back(word);
        }
        Ok(())
    }

    fn fresh(&self) -> Result<Option<Word>, Trouble> {
        let text = match self.heard.try_recv() {
            Ok(Told::FromPeer(text)) => text,
            Ok(Told::Order(_)) => return Err(protocol("a second order")),
            Err(TryRecvError::Empty) => return Ok(None),
            // The parent is gone: nobody is there to report to.
            Err(TryRecvError::Disconnected) => ucx_sys::leave(1),
        };
        match serde_json::from_str(&text) {
            Ok(Word::Failed(failure)) => {
                Err(Trouble::new(FailureKind::Peer, format!("the other side failed: {}", failure.message)))
            }
            Ok(word) => Ok(Some(word)),
            Err(error) => Err(misunderstood(&text, &error)),
        }
    }

    /// Says a word to the other side.
    pub(super) fn say(&mut self, word: &Word) {
        if let Ok(text) = serde_json::to_string(word) {
            self.line(&Line::Said(Said::ToPeer(text)));
        }
    }

    /// Tells the other side that it is over.
    pub(super) fn fail(&mut self, trouble: &Trouble) {
        // Who failed because the other did has nothing to tell it.
        if trouble.kind != FailureKind::Peer {
            self.line(&Line::Said(Said::ToPeer(failed(&trouble.clone().into()))));
        }
    }

    pub(super) fn line(&mut self, line: &Line) {
        let Ok(mut bytes) = serde_json::to_vec(line) else { return };
        bytes.push(b'\n');
        if self.out.write_all(&bytes).is_err() {
            ucx_sys::leave(1);
        }
    }
}

/// The word that tells the other side of a failure.
pub(in crate::selftest) fn failed(failure: &Failure) -> String {
    serde_json::to_string(&Word::Failed(failure.clone())).unwrap_or_default()
}

fn protocol(what: &str) -> Trouble {
    Trouble::new(FailureKind::Protocol, format!("the other side said what was not expected: {what}"))
}

/// Not a word: of another version, where it says which it is.
fn misunderstood(text: &str, error: &serde_json::Error) -> Trouble {
    #[derive(Deserialize)]
    struct Versioned {
        hello: Version,
    }
    #[derive(Deserialize)]
    struct Version {
        protocol: u32,
    }
    match serde_json::from_str::<Versioned>(text) {
        Ok(other) if other.hello.protocol != PROTOCOL => another(other.hello.protocol),
        _ => protocol(&error.to_string()),
    }
}

fn another(version: u32) -> Trouble {
    let message =
        format!("the other side's railbind-agent speaks version {version} of this protocol, this one {PROTOCOL}");
    Trouble::new(FailureKind::Protocol, message)
}

impl Hello {
    /// Whether the two belong together.
    pub(super) fn fits(&self, order: &Order, proof: u64) -> Result<(), Trouble> {
        let no = |what: &str| Err(Trouble::new(FailureKind::Protocol, format!("the two sides {what}")));
        if self.protocol != PROTOCOL {
            return Err(another(self.protocol));
        }
        if self.role == order.role {
            return no("are the same end of the transfer");
        }
        if self.proof != proof {
            return no("have different secrets");
        }
        if (&self.ops, &self.sizes) != (&order.ops, &order.sizes) {
            return no("were ordered to do different things");
        }
        Ok(())
    }
}

/// A word that did not come in its turn.
pub(super) fn unexpected(word: &Word) -> Trouble {
    protocol(match word {
        Word::Hello(_) => "hello",
        Word::Up => "up",
        Word::Ready { .. } => "ready",
        Word::Run { .. } => "run",
        Word::Done => "done",
        Word::Checked { .. } => "checked",
        Word::Bye => "bye",
        Word::Failed(_) => "failed",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_version_is_told_from_nonsense() {
        let newer = r#"{"hello":{"protocol":2,"greeting":"hi"}}"#;
        let error = serde_json::from_str::<Word>(newer).unwrap_err();
        let trouble = misunderstood(newer, &error);
        assert_eq!(trouble.kind, FailureKind::Protocol);
        assert!(trouble.message.contains("speaks version 2 of this protocol, this one 1"), "{trouble:?}");
        let nonsense = misunderstood("nonsense", &serde_json::from_str::<Word>("nonsense").unwrap_err());
        assert!(nonsense.message.contains("was not expected"), "{nonsense:?}");
    }
}
