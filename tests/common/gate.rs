//! The feature gate of the program under test. It is off by default, and nearly every test is of what is on.
#![allow(dead_code, reason = "each test program uses a part of it")]

/// What the packaged unit gives to `ckpt-db run`.
pub(crate) const GATE: &str = "--feature-gates=Checkpointing=true";

/// What has to stand behind a subcommand for it to do its work: `run` alone knows the gate.
pub(crate) fn gate(subcommand: &str) -> Option<&'static str> {
    (subcommand == "run").then_some(GATE)
}
