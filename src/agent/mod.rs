//! The agent: joins store, source, core and materializer. It decides nothing and formats nothing.
//!
//! One pass is: read what is durable, decide, bring the files in line, record what was decided. A cold start is a pass over
//! what an earlier commit left; a change of the source is a commit and then a pass.

mod api;
mod cold_start;
mod durable;
mod follow;
mod pass;
mod resident;
mod seed;
mod steps;
mod store_thread;

pub use api::{FollowError, Following, Look, Observer, Status, follow};
pub use cold_start::{ColdStart, Ready, cold_start};
pub use durable::{Batch, Durable, Limits, NotDurable};
pub use follow::{Follow, Tick};
pub use pass::{Outcome, PassError, Rendered, Target, assess, render};
pub use resident::reside;
pub use seed::{Seeded, open_or_create, seed};
pub use steps::{Departed, changes};
pub use store_thread::{Answer, StoreHandle, StoreThread};
