//! Opening the store for writing where it may be damaged: it is rebuilt, and that is said loudly.

use std::path::Path;

use ckpt_db::agent::open_or_rebuild;
use ckpt_db::store::{Carry, Rebuilt, RedbStore, StoreError};
use store_format::Unlocker;

use super::output::plural;
use super::{now_unix_ms, say};

/// Opens the store, or makes a new one, for `node_name` where nobody is known to own it.
///
/// # Errors
/// As [`open_or_rebuild`].
pub(super) fn open(
    path: &Path,
    secrets: &[&Unlocker],
    require_authentication: bool,
    node_name: &str,
) -> Result<RedbStore, StoreError> {
    let carry = if require_authentication { Carry::Authentic } else { Carry::Sound };
    let (store, rebuilt) = open_or_rebuild(path, secrets, carry, node_name, now_unix_ms())?;
    if let Some(rebuilt) = rebuilt {
        tell(path, &rebuilt);
    }
    Ok(store)
}

fn tell(path: &Path, rebuilt: &Rebuilt) {
    let Rebuilt { what, kept_at, carried, lost, began_anew, .. } = rebuilt;
    let (path, kept_at) = (path.display(), kept_at.display());
    if *began_anew {
        say(format_args!(
            "warning: the store {path} was damaged ({what}), and nothing of it can be read: it is kept at {kept_at}, and a new \
             store is begun, which is filled from the source. If there is a backup, restore it"
        ));
    } else {
        say(format_args!(
            "warning: the store {path} was damaged ({what}): it is kept at {kept_at}, and rebuilt with the {carried} object{} that can \
             be read; {lost} known to be lost, to be told by the source again",
            plural(*carried)
        ));
    }
}
