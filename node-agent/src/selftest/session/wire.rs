//! Frames: what two agents say to each other, how long each may be, and how long it is waited for.

use std::{io, time::Duration};

use futures::{SinkExt, StreamExt as _};
use policies::selftest::{Report, Terms};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::timeout,
};
use tokio_util::{
    bytes::Bytes,
    codec::{Framed, LengthDelimitedCodec},
};

use super::Reason;

/// Version of what is said. Another one is refused, with both versions named: results of mixed versions would not compare.
pub const PROTOCOL: u32 = 1;
/// Longest frame in bytes: a worker address of 64 KiB with every byte escaped, and some.
pub(super) const LONGEST: usize = 160 << 10;
/// How long one frame may take to be sent: a peer that does not read for so long is gone.
const SEND: Duration = Duration::from_secs(5);

/// One frame.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Message {
    /// First, from the called side.
    Greeting(Greeting),
    /// Second, from the caller.
    Hello(Box<Hello>),
    /// The terms as they will be.
    Accepted(Terms),
    /// A session is going on here.
    #[serde(rename_all = "camelCase")]
    Busy {
        /// When it will be over at the latest.
        retry_after_seconds: u32,
    },
    /// No.
    Refused {
        /// For programs.
        reason: Reason,
        /// For people.
        message: String,
    },
    /// From one child to the other.
    ToPeer(String),
    /// I am there.
    Alive,
    /// How it went on this side.
    Report(Box<Report>),
    /// It has to end now, and why.
    Abort(String),
    /// I have both reports.
    Done,
}

/// Who answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Greeting {
    pub(super) protocol: u32,
    pub(super) node: String,
    /// To be said again.
    pub(super) nonce: String,
}

/// Who calls, and what for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Hello {
    pub(super) protocol: u32,
    /// Who I am; the certificate must be this node's.
    pub(super) node: String,
    /// Whom I want.
    pub(super) to: String,
    /// The greeting's.
    pub(super) nonce: String,
    /// Never used before.
    pub(super) secret: String,
    pub(super) terms: Terms,
}

/// What went wrong on the wire.
#[derive(Debug, thiserror::Error)]
pub(super) enum WireError {
    #[error("it hung up")]
    Closed,
    #[error("nothing came for {0:.0?}")]
    Silent(Duration),
    #[error("it takes nothing: a message was stuck for {SEND:.0?}")]
    Stuck,
    #[error("{0}")]
    Io(io::Error),
    #[error("not a message: {0}")]
    Garbled(String),
    #[error("it speaks version {0}, and this agent version {PROTOCOL}")]
    Version(u64),
}

/// A stream of frames.
pub(super) struct Channel<S>(Framed<S, LengthDelimitedCodec>);

impl<S: AsyncRead + AsyncWrite + Unpin> Channel<S> {
    pub(super) fn new(stream: S) -> Self {
        let codec = LengthDelimitedCodec::builder().max_frame_length(LONGEST).new_codec();
        Self(Framed::new(stream, codec))
    }

    pub(super) async fn send(&mut self, message: &Message) -> Result<(), WireError> {
        let text = serde_json::to_vec(message).map_err(|error| WireError::Garbled(error.to_string()))?;
        match timeout(SEND, self.0.send(Bytes::from(text))).await {
            Err(_) => Err(WireError::Stuck),
            Ok(sent) => sent.map_err(WireError::Io),
        }
    }

    /// The next message. Dropped while it waits, it loses nothing.
    pub(super) async fn receive(&mut self) -> Result<Message, WireError> {
        match self.0.next().await {
            None => Err(WireError::Closed),
            Some(Err(error)) if error.kind() == io::ErrorKind::InvalidData => {
                Err(WireError::Garbled(error.to_string()))
            }
            Some(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => Err(WireError::Closed),
            Some(Err(error)) => Err(WireError::Io(error)),
            Some(Ok(frame)) => parse(&frame),
        }
    }

    /// The same, awaited for so long.
    pub(super) async fn receive_within(&mut self, limit: Duration) -> Result<Message, WireError> {
        timeout(limit, self.receive()).await.unwrap_or(Err(WireError::Silent(limit)))
    }

    /// Says goodbye, as far as the other side still listens.
    pub(super) async fn close(mut self) {
        let _ = timeout(SEND, SinkExt::<Bytes>::close(&mut self.0)).await;
    }
}

/// A message; one of another version is told by its version alone, whatever else became of it.
fn parse(frame: &[u8]) -> Result<Message, WireError> {
    let garbled = |error: serde_json::Error| WireError::Garbled(error.to_string());
    let value: serde_json::Value = serde_json::from_slice(frame).map_err(garbled)?;
    let version = ["greeting", "hello"].iter().find_map(|kind| value.get(kind)?.get("protocol")?.as_u64());
    match version {
        Some(version) if version != u64::from(PROTOCOL) => Err(WireError::Version(version)),
        _ => serde_json::from_value(value).map_err(garbled),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    #[tokio::test]
    async fn a_message_arrives_as_it_was_sent_and_a_long_one_is_none() {
        let (one, other) = tokio::io::duplex(1 << 20);
        let (mut one, mut other) = (Channel::new(one), Channel::new(other));
        let said = Message::ToPeer("\\\"\n".repeat(20_000));
        one.send(&said).await.unwrap();
        assert_eq!(other.receive().await.unwrap(), said);
        assert!(one.send(&Message::ToPeer("x".repeat(LONGEST))).await.is_err());
    }

    #[tokio::test]
    async fn strangers_bytes_are_told_from_messages() {
        for (bytes, expected) in [
            (&b"GET / HTTP/1.1\r\n\r\n"[..], "not a message"),
            (&b"\0\0\0\x02{}"[..], "not a message"),
            (&b"\0\0\0\x04null"[..], "not a message"),
            (&b"\0\0\0\x01"[..], "hung up"),
            (&b""[..], "hung up"),
        ] {
            let (mut one, other) = tokio::io::duplex(1 << 10);
            one.write_all(bytes).await.unwrap();
            drop(one);
            let mut channel = Channel::new(other);
            let error = channel.receive().await.unwrap_err().to_string();
            assert!(error.contains(expected), "{bytes:?}: {error}");
        }
    }

    #[test]
    fn another_version_is_told_whatever_else_it_says() {
        let frame = br#"{"hello":{"protocol":7,"who":["else"]}}"#;
        assert!(matches!(parse(frame), Err(WireError::Version(7))));
    }
}
