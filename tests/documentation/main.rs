//! The documentation: its links lead somewhere, its commands are run, and what it names of the program is there.

#![allow(clippy::unwrap_used, reason = "a failure here is the failure of a test")]

mod commands;
mod links;
mod markdown;
mod named;
mod scenes;
mod session;
