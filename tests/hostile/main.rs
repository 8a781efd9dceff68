//! Hostile input through the program: whatever whoever can make pods, or put files into the rendered roots, tries, it is
//! refused or made harmless, the others are served, and no output acts on the log or the terminal.

#![allow(clippy::unwrap_used, reason = "a failure here is the failure of a test")]

#[path = "../common/mod.rs"]
mod common;

mod amounts;
mod objects;
mod roots;
mod scene;
