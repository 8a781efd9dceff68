//! The store: every pod of the node and every object it names, in one transactional file.
//!
//! The way in is [`Backend::update`], one durable transaction per batch of changes; the way out is a [`Snapshot`]. Both
//! answer with [`Committed`], which nothing outside of this room can make: code that must not run before durability asks
//! for one in its signature.

mod absence;
mod anew;
mod backend;
mod committed;
mod compact;
mod copy;
mod detach;
mod engine;
mod error;
mod file;
mod finding;
mod fresh;
mod guard;
mod load;
mod memory;
mod offline;
mod overlay;
mod progress;
mod rebuild;
mod record;
mod redb_store;
mod redb_tables;
mod rotate;
mod snapshot;
mod superheader;
mod tables;
mod vault;

pub mod conformance;

pub use anew::{BegunAnew, begin_anew};
pub use backend::{Backend, Change, Missing, Rejected, SlotPolicy, SlotsKept, SlotsWanted, Update};
pub use committed::{Committed, Revision};
pub use compact::Size;
pub use copy::{Existing, PutInPlace, Saved, StoreCopy};
pub use error::StoreError;
pub use file::earlier_stores;
pub use finding::{Finding, RecordProblem};
pub use guard::install_panic_hook;
pub use memory::MemoryStore;
pub use offline::{open_image, open_offline};
pub use progress::{Phase, Progress, progress};
pub use rebuild::{Carry, Rebuilt, kept_beside, rebuild};
pub use redb_store::{NewStore, RedbStore};
pub use rotate::{Rotated, rotate};
pub use snapshot::{LockState, SlotInfo, Snapshot, StoredObject};
pub use vault::fingerprint;
