//! See `bodies/records.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| ckpt_db_fuzz::records::run(octets));
