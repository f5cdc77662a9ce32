//! The NVIDIA driver as a probe needs it: its version, its GPUs, and whether the memory of one can really be exported and
//! registered with a NIC; as a transfer needs it: memory of a GPU, behind UCX's [`ucx_sys::Block`]; and, by NVML, who uses the GPUs.
//! An absent driver is a value.
//!
//! A thin layer over [cudarc](https://docs.rs/cudarc): it finds and loads `libcuda` and names the types and attributes of the newest
//! CUDA. Its calls are not used, since two of their habits are wrong for a probe on unknown nodes: they panic where an older driver
//! lacks a function, and they take a status as a Rust enumeration, so that a status of a newer driver is undefined behaviour. Here
//! functions are looked up one by one and a status is a number.
//!
//! **Only for a process that may die**, as UCX: a driver in trouble hangs in `cuInit`, and contexts take seconds and memory.

mod block;
mod device;
mod driver;
mod nvml;
mod verbs;

pub use block::{GpuBlock, GpuContext};
pub use device::{Attribute, Device, Export};
pub use driver::{Driver, Error, Version, loaded_from};
pub use nvml::{Answer, Nvml, Use};
pub use verbs::{Nic, Nics, Opened, Unavailable};
