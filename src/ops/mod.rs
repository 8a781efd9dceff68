//! What an operator and the service manager see of the agent: sd_notify, the status document, the admin socket, the log.
//!
//! It carries what others know, and decides nothing.

pub mod admin;
pub mod log;
pub mod notify;
pub mod status;
