//! The agent: joins store, source, core and materializer. It decides nothing and formats nothing.
//!
//! One pass is: read what is durable, decide, bring the files in line, record what was decided. A cold start is a pass over
//! what an earlier commit left; a change of the source is a commit and then a pass.

mod admin;
mod api;
mod bootstrap;
mod cause;
mod compaction;
mod compare;
mod durable;
mod export;
mod eyes;
mod follow;
mod import;
mod keeper;
mod key_bell;
mod key_slots;
mod last_answer;
mod latest;
mod metering;
mod operator;
mod pass;
mod predecessor;
mod resident;
mod rounds;
mod seed;
mod shared;
mod steps;
mod store_thread;
mod view;

pub use admin::{Desk, OwnKeys};
pub use api::{FollowError, Following, Look, Observer, Status, follow};
pub use bootstrap::{Bootstrap, Found, Mirrored, NoCheckpoint, NotRead, untold};
pub use cause::is_full;
pub use compaction::{Compaction, Last, quiet_before};
pub use compare::{CompareError, Comparison, Difference, compare};
pub use durable::{Batch, Durable, Limits, NotDurable};
pub use export::{ExportError, Exported, Exporting, For, LeftOut, export, file_name as export_file_name};
pub use eyes::{Sights, cri, images};
pub use follow::{Follow, Tick};
pub use import::{Conflict, Fate, Import};
pub use keeper::{Keeper, Keeping, Kept};
pub use key_bell::{KeyNews, KeyRinger, key_news, watch_keys};
pub use key_slots::{AtHand, KeySlots, SlotNews, SlotRules, Told as SlotsTold, keep_slots};
pub use last_answer::LastAnswer;
pub use latest::{About, Latest};
pub use metering::Metering;
pub use operator::{Adoption, Clearing, HeldDown, hold, release};
pub use pass::{Outcome, PassError, Target, assess, render};
pub use predecessor::{Cleared, Imported, clear_away, import, is_truth, unneeded};
pub use resident::{KeyFiles, Resident};
pub use rounds::{Rounds, Watcher};
pub use seed::{Seeded, in_memory, open_or_create, open_or_rebuild, seed};
pub use shared::{Renewed, Shared};
pub use steps::{Departed, changes};
pub use store_thread::{Answer, Idle, KeepSlots, StoreHandle, StoreThread};
