//! Writes `docs/reference.md`: `make generate`.

use std::fs;

mod metrics;
mod names;
mod page;

fn main() -> anyhow::Result<()> {
    let file = harness::railbind::repository().join("docs/reference.md");
    fs::write(file, page::text()?)?;
    Ok(())
}
