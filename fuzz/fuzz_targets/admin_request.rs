//! See `bodies/admin_request.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| ckpt_db_fuzz::admin_request::run(octets));
