//! Every parser on the same bytes.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::targets::parsers::run(bytes));
