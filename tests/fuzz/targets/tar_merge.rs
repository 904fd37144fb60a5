//! The tar parser, and what merges layers.

#![no_main]

#[path = "../bodies/tar_merge.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    body::run(data);
});
