//! What the fuzz targets share: trees and reviews from bytes, the laws that hold for whatever is in them, and the targets themselves.

#![allow(clippy::missing_panics_doc, reason = "to panic is what it is for")]

pub mod laws;
pub mod review;
pub mod targets;
pub mod tree;
