//! The configuration file: a `CheckpointerConfiguration` in the manner of Kubernetes' component configuration.

mod document;
mod fields;
mod invocation;
mod settings;
#[cfg(test)]
mod tests;

pub(crate) use invocation::{Invocation, Refused};
