//! Writes the CRDs to `manifests/base/crds`: `make generate`.

use std::{fs, path::Path};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../manifests/base/crds");
    for (file, crd) in api::crds() {
        fs::write(folder.join(file), api::yaml(&crd)?)?;
    }
    Ok(())
}
