//! The mutating webhook: admission reviews in, JSON patches out.
//!
//! What is decided about a pod is in [`mutate`] and the crate `policies`; everything else here carries reviews to it and
//! answers back, and never refuses a pod because of its own trouble.

pub mod args;
pub mod auditor;
pub mod binding;
pub mod bounds;
pub mod certs;
pub mod engine;
pub mod explain;
pub mod handler;
pub mod lean;
pub mod lease;
pub mod metrics;
pub mod mirror;
pub mod mutate;
pub mod nodes;
pub mod profiles;
pub mod register;
pub mod retry;
pub mod review;
pub mod run;
pub mod self_apply;
pub mod server;
pub mod state;
pub mod ui;
pub mod workers;

#[cfg(test)]
mod testing;
