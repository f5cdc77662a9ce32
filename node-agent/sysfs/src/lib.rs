//! Readers of the kernel's files below a given root: what a machine says about its fabric, as plain values.
//!
//! [`Root`] is the disk as a value: nothing outside it is read, no symlink leaves it, no read blocks or grows without
//! bound. [`parse`] holds the parsers: text in, value out, never a panic. [`survey`] puts them together and never fails as
//! a whole: it returns what it could read and one problem for each thing that it could not. [`Cache`] keeps what is read seldom
//! from one survey to the next.

mod cache;
pub mod distance;
pub mod parse;
mod reader;
mod root;
mod survey;

pub use cache::Cache;
pub use root::{Content, Listing, OpenError, Resolved, Root, Trouble};
pub use survey::{survey, survey_with};
