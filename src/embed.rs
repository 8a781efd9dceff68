//! What another program may build on: the store as the persistence of a node agent of its own, behind its own gate.
//!
//! **This module is the public API.** What it names keeps its meaning under semantic versioning (CONTRIBUTING.md tells
//! what that covers); everything else of this library is open to the program `ckpt-db` and its tests, and may change with
//! any version.
//!
//! A program opens a store, applies [`Change`]s to it, and acts upon what comes back: a [`Committed`] is the evidence that
//! something is durable, which only a store makes. After a restart the [`Snapshot`] has all of it, before any source has
//! said a word.
//!
//! - [`open_or_create`] opens the file, [`in_memory`] makes a store that is forgotten with the process. Both are a
//!   [`Backend`]: a gate chooses between them, and nothing else of the program knows.
//! - [`StoreThread`] puts a store on a thread of its own, for programs that must not wait for a disk; [`Durable`] makes a
//!   stream of changes one of durable changes. Neither needs a particular async runtime.
//! - [`open_offline`] reads the file of a store that nobody has open, and changes nothing of it.
//! - [`conformance`] is what each backend has to pass.
//!
//! `examples/embed.rs` is a small node agent with a gate, `examples/durable_stream.rs` one that follows a stream.
//!
//! ```
//! use ckpt_db::embed::{Backend, Change, Kind, Object, ObjectKey, in_memory};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut store: Box<dyn Backend> = Box::new(in_memory("edge-1", 1_700_000_000_000)?);
//! let pod = Object {
//!     key: ObjectKey::new(Kind::Pod, "default", "web")?,
//!     uid: "uid-1".to_owned(),
//!     resource_version: "1".to_owned(),
//!     body: r#"{"spec":{"containers":[{"name":"c","image":"registry.example/web:1"}]}}"#.to_owned().into(),
//! };
//! // `with` takes the ConfigMaps and Secrets that the pod names: both are stored, or neither is.
//! let done = store.update(vec![Change::Apply { object: pod, with: Vec::new() }], 1_700_000_000_001)?;
//! assert_eq!(done.get().stored.len(), 1);
//! let snapshot = store.snapshot()?;
//! assert_eq!(snapshot.get().objects().count(), 1);
//! # Ok(())
//! # }
//! ```
//!
//! # A backend of your own
//!
//! [`Committed`] and [`Snapshot`] are made by the stores of this crate alone: that is what makes them evidence. So a
//! backend of your own stands around one of them, [`MemoryStore`] as a rule, and keeps what it is told on a medium of its
//! own *before* it hands on what the inner one answered. A test then runs the suite, which takes a new and empty
//! store for each check:
//!
//! ```no_run
//! # use ckpt_db::embed::{Backend, Unlocker, conformance};
//! # fn mine() -> Box<dyn Backend> { unimplemented!() }
//! # fn some_node_key() -> Unlocker { unimplemented!() }
//! conformance::run(&mut || mine(), &some_node_key());
//! ```
//!
//! The suite is a module as any other and no cargo feature: a program that does not call it does not have it in its
//! binary.

pub use store_format::{Identity, Lifecycle, LogRecord, SlotKind, StoreId, Unlocker};

pub use crate::agent::{
    Answer, Batch, Durable, KeepSlots, Limits, NotDurable, StoreHandle, StoreThread, in_memory, open_or_create,
};
pub use crate::checkpoint::lookup::{Absence, Lookup, Objects};
pub use crate::checkpoint::object::{Kind, NameError, Object, ObjectKey};
pub use crate::checkpoint::rendering::PodName;
pub use crate::clear::Clear;
pub use crate::crypto::{Entropy, SystemEntropy};
pub use crate::feature_gates::{Feature, FeatureGates, Gate, GateError, Stage, parse as parse_gates};
pub use crate::keys::{KeyFileError, NodeKey, load as load_node_key};
pub use crate::store::{
    Backend, Change, Committed, Finding, LockState, MemoryStore, Missing, NewStore, RecordProblem, RedbStore, Rejected,
    Revision, Size, SlotInfo, SlotPolicy, SlotsKept, SlotsWanted, Snapshot, StoreError, StoredObject, Update,
    conformance, fingerprint, open_image, open_offline,
};
