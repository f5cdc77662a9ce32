//! The self-test: proof that bytes move between two nodes as their labels promise.

pub mod bench;
pub mod child;
pub mod devices;
pub mod duty;
pub mod gate;
pub mod gpus;
pub mod members;
pub mod metrics;
mod own;
pub mod session;
pub mod tester;
pub mod transfer;
