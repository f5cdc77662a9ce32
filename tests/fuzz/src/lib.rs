//! What the fuzz targets share: trees from bytes, and the laws that hold for whatever is in them.

pub mod laws;
pub mod tree;
