//! The process shell that both binaries share: logs, admin server, readiness, shutdown, last words.

pub mod admin;
mod crypto;
mod fatal;
pub mod logs;
pub mod readiness;
pub mod shutdown;

pub use admin::AdminArgs;
pub use crypto::install_crypto;
pub use fatal::report_fatal;
pub use logs::LogArgs;
pub use readiness::{Check, Readiness};
pub use shutdown::Shutdown;
