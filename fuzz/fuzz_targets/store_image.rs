//! See `bodies/store_image.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| ckpt_db_fuzz::store_image::run(octets));
