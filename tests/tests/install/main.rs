//! What a platform team does with Railbind: renders it, installs it, reads its rights, upgrades it, takes it away.

#![allow(clippy::unwrap_used, reason = "all of it is tests, helpers included")]

mod lifecycle;
mod render;
mod trace;
