//! The node agent: facts in, labels and verdicts out.

pub mod args;
pub mod events;
pub mod publish;
pub mod run;
pub mod survey;
