//! What is measured, as a Prometheus and its operator meet it: the page, its names, the alerts, and the pages of the
//! reference that list them.
//!
//! `tests/metrics/promtool.sh` provides promtool once; without it what it checks is skipped, loudly.
//! `CKPT_DB_REQUIRE_PROMTOOL=1` forbids that.
#![allow(clippy::unwrap_used, reason = "a failure here is the failure of a test")]
#![allow(clippy::print_stdout, reason = "what was skipped is said")]

mod alerts;
mod page;
mod promtool;
mod reference;
mod sample;
