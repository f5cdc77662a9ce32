//! `railbind-agent bench`: two nodes, one transfer, and a plain TCP connection that carries what the two children tell each other.

mod client;
mod print;
mod relay;
mod secret;
mod server;
mod wire;

pub(crate) use client::measure;
pub(crate) use server::serve;

use std::collections::BTreeMap;

use policies::selftest::{Failure, Limits, Memory, Op};
use serde::{Deserialize, Serialize};

/// Of what server and client say to each other. Another number is another language.
const PROTOCOL: u32 = 1;
/// The port where none is given.
const PORT: u16 = 7471;

/// What server and client say, a JSON object a line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Frame {
    /// The server's first.
    Greeting {
        /// [`PROTOCOL`].
        protocol: u32,
        /// Version of its agent.
        agent: String,
        /// 32 random bytes in hexadecimal digits.
        nonce: String,
        /// Whether it wants a proof.
        secret: bool,
    },
    /// The client's first.
    Ask {
        /// [`PROTOCOL`].
        protocol: u32,
        /// Version of its agent.
        agent: String,
        /// 32 random bytes in hexadecimal digits.
        nonce: String,
        /// What it asks for.
        order: Asked,
        /// That it knows the secret, by both nonces and what it asks for.
        proof: Option<String>,
    },
    /// The server agrees.
    Accepted {
        /// That it knows the secret too.
        proof: Option<String>,
        /// Memory that it lends.
        memory: Memory,
    },
    /// It does not.
    Refused(Failure),
    /// What a child says to the other.
    Peer(String),
    /// Still here.
    Beat,
    /// This side has its report.
    Done,
}

/// What a client asks for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Asked {
    secret: String,
    ops: Vec<Op>,
    sizes: Vec<u64>,
    limits: Limits,
    /// Memory on the server's side.
    memory: Option<Memory>,
}

/// The `UCX_` variables in force here.
fn environment() -> BTreeMap<String, String> {
    std::env::vars().filter(|(name, _)| name.starts_with("UCX_")).collect()
}
