//! The manifests' CRDs are what the types generate.

use std::{fs, path::Path};

#[test]
fn the_manifests_are_up_to_date() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../manifests/base/crds");
    for (file, crd) in api::crds() {
        let text = fs::read_to_string(folder.join(file)).unwrap_or_default();
        assert_eq!(text, api::yaml(&crd).unwrap(), "{file} is stale: run `make generate`");
    }
}
