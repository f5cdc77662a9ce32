//! Tests that create hundreds of pods a second and count what went by without us. Alone on the machine, one after the other: an API
//! server that is out of breath fails open, as it should, and would be counted as our miss.

#![allow(clippy::unwrap_used, reason = "all of it is tests, helpers included")]

mod certificates;
mod rolling;

use tokio::sync::{Mutex, MutexGuard};

/// Held by the test that runs.
async fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::const_new(());
    ONE.lock().await
}
