//! See `bodies/key_slots.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| ckpt_db_fuzz::key_slots::run(octets));
