//! One test for each row of the translation table of the design ("From a stored pod to a static pod"), to be read side
//! by side with it: left what the parent has, right what the copy has.

#![allow(clippy::unwrap_used)] // Helpers of tests are tests: a failed unwrap is a failed test.

mod env;
mod env_file;
#[path = "../manifest_checker/mod.rs"]
mod manifest_checker;
mod own_pod;
mod pod;
mod support;
mod volumes;
