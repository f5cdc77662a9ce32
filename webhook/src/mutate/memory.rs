//! Shared memory: a memory volume at `/dev/shm`.

use serde_json::json;

use super::{Builder, Malformed, Target};

/// Name of the volume.
const VOLUME: &str = "railbind-shm";

/// Mounts one memory volume of `size` at `/dev/shm` in the containers that take part.
pub(super) fn shared(builder: &mut Builder, targets: &[Target], size: &str) -> Result<(), Malformed> {
    if builder.list("/spec/volumes").iter().any(|volume| volume["name"] == VOLUME) {
        return Ok(());
    }
    builder.push("/spec/volumes", json!({ "name": VOLUME, "emptyDir": { "medium": "Memory", "sizeLimit": size } }))?;
    for target in targets {
        builder.push(&target.at("/volumeMounts"), json!({ "name": VOLUME, "mountPath": "/dev/shm" }))?;
    }
    Ok(())
}
