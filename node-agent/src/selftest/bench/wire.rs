//! The control connection: lines of bounded length, and no waiting without end.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, timeout},
};

use super::Frame;

/// Longest line once a session runs: 64 KiB of a child's word, escaped.
const LONGEST: usize = 256 << 10;
/// Longest line before.
const FIRST: usize = 8 << 10;
/// How long a write may wait for the other side to read.
const WRITE: Duration = Duration::from_secs(5);

/// A connection.
pub(super) struct Wire {
    stream: TcpStream,
    peer: SocketAddr,
    /// The start of what is not a whole line yet.
    heard: Vec<u8>,
    longest: usize,
    last: Instant,
}

/// What can become of it.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    /// It broke.
    #[error("the control connection broke: {0}")]
    Io(#[from] io::Error),
    /// The other side closed it.
    #[error("the other side closed the control connection")]
    Closed,
    /// What came is not ours.
    #[error("the other side does not speak `railbind-agent bench`: {0}")]
    Nonsense(String),
    /// Nobody reads, or nobody answers.
    #[error("the other side did not answer within {0:?}")]
    Silent(Duration),
}

impl Wire {
    pub(super) fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        let peer = stream.peer_addr()?;
        Ok(Self { stream, peer, heard: Vec::new(), longest: FIRST, last: Instant::now() })
    }

    /// The other side's address.
    pub(super) fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// The other side is known by now: its lines may be longer.
    pub(super) fn trust(&mut self) {
        self.longest = LONGEST;
    }

    /// How long nothing was heard.
    pub(super) fn silent(&self) -> Duration {
        self.last.elapsed()
    }

    /// Sends.
    pub(super) async fn send(&mut self, frame: &Frame) -> Result<(), Broken> {
        let mut line = serde_json::to_vec(frame).map_err(io::Error::other)?;
        line.push(b'\n');
        match timeout(WRITE, self.stream.write_all(&line)).await {
            Ok(result) => Ok(result?),
            Err(_) => Err(Broken::Silent(WRITE)),
        }
    }

    /// Waits for the next frame. Safe to cancel.
    pub(super) async fn receive(&mut self) -> Result<Frame, Broken> {
        loop {
            if let Some(end) = self.heard.iter().position(|&byte| byte == b'\n') {
                let rest = self.heard.split_off(end + 1);
                let line = std::mem::replace(&mut self.heard, rest);
                return serde_json::from_slice(&line).map_err(|error| Broken::Nonsense(error.to_string()));
            }
            if self.heard.len() >= self.longest {
                return Err(Broken::Nonsense(format!("a line of more than {} bytes", self.longest)));
            }
            if self.stream.read_buf(&mut self.heard).await? == 0 {
                return Err(Broken::Closed);
            }
            self.last = Instant::now();
        }
    }

    /// The same within a time, whatever trickles in.
    pub(super) async fn receive_within(&mut self, time: Duration) -> Result<Frame, Broken> {
        timeout(time, self.receive()).await.unwrap_or(Err(Broken::Silent(time)))
    }
}
