//! UCX, resolved at run time: one binary works with any UCX from 1.13 on, and without one.
//!
//! Three layers. [`search`] finds the library's files, [`Library`] loads them, and [`Context`], [`Library::components`] and
//! [`Library::settings`] ask it; [`Worker`], [`Mapped`] and [`Endpoint`] move data. The bindings under `bindings/` are made by `gen.sh` and checked in. What UCX only says as text
//! (its context's resources, its settings, its warnings) is understood in [`text`], which touches nothing.
//!
//! **Only for a process that may die.** UCX runs code in its constructors, aborts on its own assertions, and two copies of a
//! library it depends on can crash at exit. Whoever loads it does so in a child with a deadline, sets the `UCX_` variables before
//! that process starts (UCX reads its global ones in a constructor), and ends it with [`leave`].

#[expect(
    clippy::undocumented_unsafe_blocks,
    clippy::pedantic,
    clippy::all,
    non_camel_case_types,
    reason = "made by bindgen from C headers"
)]
#[allow(dead_code, unreachable_pub, reason = "what bindgen adds to the symbols asked for")]
mod bindings {
    pub(crate) mod ucp;
    pub(crate) mod ucs;
    pub(crate) mod uct;
}
mod block;
mod component;
mod context;
mod endpoint;
mod library;
mod memory;
mod printer;
pub mod search;
mod settings;
pub mod text;
mod worker;

pub use block::{Block, HostBlock, Kind, within};
pub use component::{Component, DeviceType, Domain, Transport};
pub use context::Context;
pub use endpoint::{Endpoint, Part, Post, Remote};
pub use library::{Error, Library, Version, mapped};
pub use memory::MemoryTypes;
pub use settings::Setting;
pub use worker::{Mapped, Worker};

/// Ends this process at once, without destructors of loaded libraries: `_exit(2)`.
///
/// A process that loaded UCX leaves this way: library destructors are where a second copy of libnl or libibverbs crashes it, after
/// the work is done.
pub fn leave(code: i32) -> ! {
    // SAFETY: `_exit` takes any number, touches no memory of ours and does not return.
    unsafe { libc::_exit(code) }
}
