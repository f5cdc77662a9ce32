//! The control channel between two agents: who they are to each other, what they agree on, and what their children tell one another.
//!
//! ## Who is who
//! Each agent has a key and a self-signed certificate, in memory, new with each start, and its own `NodeFabric` says the certificate's
//! SHA-256 beside the address that it listens on. The caller takes only the certificate that the called node's `NodeFabric` says; the
//! called side asks for a certificate and compares it with what the `NodeFabric` of the node says *that the caller claims to be*. The
//! admission policy of the manifests lets an agent write only its own node's `NodeFabric`, so to pass for another node takes the right to
//! write that object.
//!
//! The other way would be service-account tokens and TokenReview: each session would send a credential for the API server to a
//! machine that may be hostile, all agents share one account, so the node is but a claim inside the token, every session costs two
//! requests to the API server and none works while it is away, and agents would need the right to create TokenReviews. Here nothing
//! secret leaves a machine, a session costs no request once the members are known, and agents only read `NodeFabrics`.
//!
//! Certificates are pinned, so their names and dates are not looked at: a clock that is wrong breaks nothing. TLS 1.3 only, no
//! resumption, no early data.
//!
//! ## What is said
//! Frames of a length and JSON, at most [`wire::LONGEST`] bytes, each awaited for a bounded time:
//! `Greeting` (version, name, a nonce) → `Hello` (version, name, the nonce again, a secret used once, terms) ← `Accepted`, `Busy` or
//! `Refused`; then both start their children and carry what these say, with an `Alive` every second, until both reports have crossed.
//! The nonce makes a recorded `Hello` worthless; the secret seeds the children's pattern and tags, and is refused a second time.
//! UCX runs in the children only, and these only during a session.

mod call;
mod identity;
mod listen;
mod refusals;
mod relay;
mod wire;

pub use call::{CallError, Called, Dial, call};
pub(super) use identity::random_hex;
pub use identity::{Fingerprint, Identity, IdentityError};
pub use listen::{Answer, Host, Listener, Served};
pub use refusals::{Reason, Refusals};
pub use relay::{Child, Reports};
pub use wire::PROTOCOL;

#[cfg(test)]
mod tests;
