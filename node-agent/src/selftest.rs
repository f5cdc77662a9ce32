//! The self-test: proof that bytes move between two nodes as their labels promise.

pub mod bench;
pub mod child;
pub mod gate;
pub mod session;
pub mod transfer;
