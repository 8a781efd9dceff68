//! What the program says and does at its edges, as an operator meets it: one transcript a case.

mod agent;
mod backup;
mod config;
mod exchange;
mod fake_agent;
#[path = "../common/gate.rs"]
mod gate;
mod gates;
mod inspect;
mod key_slots;
mod keys;
mod opening;
mod operator;
mod scene;
mod source;
mod usage;
