//! See `bodies/api_payload.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| ckpt_db_fuzz::api_payload::run(octets));
