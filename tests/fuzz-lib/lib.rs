//! What the fuzz targets share: trees and reviews from bytes, and the laws that hold for whatever is in them.

pub mod laws;
pub mod review;
pub mod tree;
