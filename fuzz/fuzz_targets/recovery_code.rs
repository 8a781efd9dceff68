//! See `bodies/recovery_code.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| ckpt_db_fuzz::recovery_code::run(octets));
