//! Node keys: private keys that lie on the node anyway, and open the store's key slots.
//!
//! The kubelet's client and serving keys come first, in whatever form they lie there; a key of our own is for nodes whose
//! credentials have no key file. Only the canonical secret of a key leaves this room.

mod certificate;
mod file;
mod held;
mod search;
mod watch;

pub use file::{KeyFileError, NodeKey, load, write_generated};
pub use held::{
    DEFAULT_CREDENTIAL, HeldError, HeldSecret, load_credential, load_key_file, load_recovery_code, read_recovery_code,
    recovery_code,
};
pub use search::{Found, KeySearch, default_key_paths, find};
pub use watch::KeyWatch;
