//! `ckpt-db backup` and `restore`: a copy has every record, octet by octet; what can't be copied or put back changes nothing;
//! killed or refused at any system call, each name has the old file or the new one, whole.

#![allow(clippy::unwrap_used, reason = "a failure here is the failure of a test")]

#[path = "../common/mod.rs"]
mod common;

mod faults;
mod raw;
mod refusals;
mod round_trip;
