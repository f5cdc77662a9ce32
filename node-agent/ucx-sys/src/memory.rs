//! Kinds of memory that UCX tells apart.

/// A set of UCX's memory types, as its bit mask.
///
/// Bits 0 to 4 never moved. Later ones were added in this order; `UCS_MEMORY_TYPE_LAST`, which doubles as *unknown*, was 5 (until
/// 1.15), 6, 9 and 10 (from 1.21), so no function of this crate ever passes it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemoryTypes(pub u64);

const NAMES: [&str; 10] =
    ["host", "cuda", "cuda-managed", "rocm", "rocm-managed", "rdma", "ze-host", "ze-device", "ze-managed", "gaudi"];

impl MemoryTypes {
    /// Whether memory of this kind is among them.
    pub fn has(self, kind: crate::Kind) -> bool {
        let bit = match kind {
            crate::Kind::Host => 0,
            crate::Kind::Cuda => 1,
        };
        self.0 >> bit & 1 == 1
    }

    /// UCX's names of its members; `type-N` for one that this version does not know.
    pub fn names(self) -> Vec<String> {
        let members = (0..64_usize).filter(|bit| self.0 >> bit & 1 == 1);
        members.map(|bit| NAMES.get(bit).map_or_else(|| format!("type-{bit}"), |&name| name.into())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_known_and_unknown_types() {
        assert_eq!(MemoryTypes(0b11).names(), ["host", "cuda"]);
        assert_eq!(MemoryTypes(1 | 1 << 63).names(), ["host", "type-63"]);
        assert!(MemoryTypes::default().names().is_empty());
    }
}
