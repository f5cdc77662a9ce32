//! The whole handler of the webhook.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::targets::review::run(bytes));
