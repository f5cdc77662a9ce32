//! `kubectl railbind`: what the fabric of a cluster is, what is wrong with it, and what to do.
//!
//! What is decided is in `policies` (`advice`, `doctor`, `matrix`); this crate asks the cluster, prints, and ends with a code.

pub mod advise;
pub mod args;
pub mod cluster;
pub mod collect;
pub mod complete;
pub mod doctor;
pub mod exit;
pub mod explain;
pub mod gather;
pub mod matrix;
pub mod out;
pub mod plot;
pub mod redact;
pub mod run;
pub mod selftest;
pub mod status;
pub mod ui;
