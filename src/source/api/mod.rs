//! The API server as the source: what is bound to this node, followed by list and watch with the node's own credentials.
//!
//! The rooms of it: [`credentials`] and [`connect`] make connections, [`reach`] sorts failures, [`body`] and [`events`]
//! turn bytes into objects, [`collect`] (pure) gathers each pod with its objects into one step, `feed` drives them.

mod certificate;
mod classify;
pub mod collect;
pub mod connect;
pub mod credentials;
mod end;
mod kubeconfig;
mod logs;
pub mod reach;
#[cfg(test)]
mod testing;
mod token;

pub use certificate::Validity;
pub use logs::may_be_logged;
