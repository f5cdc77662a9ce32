//! What must not matter: each row of docs/chaos.md that no other test shows. Nothing is lost, no pod is refused, no label is stale
//! afterwards. Each breaks a cluster of its own.

#![allow(clippy::unwrap_used, reason = "all of it is tests, helpers included")]

mod api_server;
mod certificate;
mod clock;
mod disk;
mod kinds;
mod node;
mod oom;
mod partition;
mod stage;
mod steady;
mod table;
mod versions;
