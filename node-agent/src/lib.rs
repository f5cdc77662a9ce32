//! The node agent: facts in, labels and verdicts out.

pub mod args;
pub mod events;
pub mod metrics;
pub mod node_fabric;
pub mod probe;
pub mod profiles;
pub mod publish;
pub mod run;
pub mod selftest;
pub mod survey;
pub mod tell;
mod turn;
pub mod uninstall;
