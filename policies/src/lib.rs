//! Pure decisions of Railbind: what a fabric is, what a profile says, what a pod and a node get.
//!
//! No clock, file, network, environment or Kubernetes client in here: values in, values *with the reasons* out. The reasons
//! are what the binaries log, annotate, show and assert.

pub mod advice;
pub mod doctor;
mod domain;
pub mod fabric;
mod findings;
pub mod gid;
pub mod intent;
pub mod kernel;
pub mod kinds;
pub mod lint;
pub mod matrix;
pub mod names;
pub mod node_fabric;
pub mod node_map;
pub mod plan;
pub mod probe;
pub mod profile;
pub mod quantity;
pub mod rails;
pub mod raw;
pub mod reference;
pub mod report;
pub mod roles;
pub mod room;
pub mod select;
pub mod selftest;
pub mod verdict;
pub mod workers;
