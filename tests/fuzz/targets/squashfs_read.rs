//! The squashfs reader.

#![no_main]

#[path = "../bodies/squashfs_read.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    body::run(data);
});
