//! What an operator and the service manager see of the agent: sd_notify, the status document, the admin socket, the log,
//! metrics and health.
//!
//! It carries what others know, and decides nothing.

pub mod admin;
mod clients;
pub mod endpoints;
pub mod health;
pub mod log;
pub mod metrics;
pub mod notify;
pub mod status;
