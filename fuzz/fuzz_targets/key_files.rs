//! See `bodies/key_files.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| ckpt_db_fuzz::key_files::run(octets));
