//! What is fuzzed: bytes in, and a panic where a law is broken. The same functions try every kept input again in `make test`.

pub mod parsers;
pub mod review;
pub mod tree;
