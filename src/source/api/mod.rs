//! The API server as the source: what is bound to this node, followed by list and watch with the node's own credentials.
//!
//! Its parts: [`credentials`] and [`connect`] make connections, [`reach`] sorts failures, [`body`] and [`events`] turn bytes
//! into objects, [`collect`] (pure) gathers each pod with its objects into one step. `pods`, [`tracker`] and `services`
//! each follow something, and [`feed`] drives them.

mod answer;
pub mod body;
pub(super) mod certificate;
mod classify;
pub mod collect;
pub mod connect;
pub mod credentials;
pub mod current;
mod end;
pub mod events;
pub mod feed;
mod keys;
mod kubeconfig;
mod line;
mod logs;
pub mod pace;
mod paths;
mod pods;
pub mod reach;
mod services;
pub mod sighting;
#[cfg(test)]
mod testing;
mod token;
pub mod tracker;
pub mod watching;

pub use certificate::Validity;
pub use logs::may_be_logged;
