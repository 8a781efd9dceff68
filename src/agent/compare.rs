//! Compares what is stored with what the API server has, and changes neither.

use std::collections::{BTreeMap, BTreeSet};

use tokio::runtime::Builder;

use crate::checkpoint::difference::{Field, differences};
use crate::checkpoint::lookup::{Lookup, Objects as _};
use crate::checkpoint::object::ObjectKey;
use crate::source::api::connect::{Connections, Limits};
use crate::source::api::credentials::Credentials;
use crate::source::api::current::{Current, current};
use crate::source::api::reach::Failure;
use crate::store::Snapshot;

/// What differs of one object.
#[derive(Clone, Debug, PartialEq)]
pub enum Difference {
    /// The API server has it, and the store does not.
    NotStored,
    /// The store has it, and the API server does not.
    OnlyStored,
    /// The store has it, and no pod that the API server has for this node names it.
    NotNeeded,
    /// Fields of it differ.
    Fields(Vec<Field>),
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Comparison {
    /// How many objects were compared.
    pub compared: usize,
    /// Those that differ.
    pub differing: BTreeMap<ObjectKey, Difference>,
    /// Those that could not be compared, and why.
    pub untold: BTreeMap<ObjectKey, String>,
}

/// Nothing was compared.
#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    /// There is no async runtime to be had.
    #[error("cannot start a runtime for requests")]
    Runtime(#[source] std::io::Error),
    /// The API server gave no answer, or refused.
    #[error("cannot read what the API server has")]
    Unanswered(#[source] Failure),
}

/// Compares everything that the store has, or should have, of `node`. Asks for nothing but what the agent asks for.
///
/// # Errors
/// [`CompareError`]. What is said of single objects is in [`Comparison::untold`].
pub fn compare(snapshot: &Snapshot, node: &str, credentials: &Credentials) -> Result<Comparison, CompareError> {
    let runtime = Builder::new_current_thread().enable_all().build().map_err(CompareError::Runtime)?;
    let stored: BTreeSet<ObjectKey> = snapshot.objects().map(|object| object.key.clone()).collect();
    let there = runtime
        .block_on(async {
            let connections = Connections::new(credentials, Limits::default());
            current(&connections, node, &stored).await
        })
        .map_err(CompareError::Unanswered)?;
    Ok(compared(snapshot, there))
}

fn compared(snapshot: &Snapshot, there: BTreeMap<ObjectKey, Current>) -> Comparison {
    let mut comparison = Comparison::default();
    for (key, current) in there {
        let differs = match (snapshot.get(&key), current) {
            (_, Current::Untold(why)) => Err(why),
            (Lookup::Found(stored), Current::Is(there)) => match differences(&stored, &there) {
                Ok(fields) if fields.is_empty() => Ok(None),
                Ok(fields) => Ok(Some(Difference::Fields(fields))),
                Err(error) => Err(error.to_string()),
            },
            (Lookup::Found(_) | Lookup::Sealed, Current::Absent) => Ok(Some(Difference::OnlyStored)),
            (Lookup::Missing | Lookup::Forbidden | Lookup::NoKeyYet, Current::Is(_)) => Ok(Some(Difference::NotStored)),
            (Lookup::Found(_) | Lookup::Sealed, Current::NotNeeded) => Ok(Some(Difference::NotNeeded)),
            (Lookup::Missing | Lookup::Forbidden | Lookup::NoKeyYet, Current::Absent | Current::NotNeeded) => continue,
            (Lookup::Sealed, Current::Is(_)) => Err("no key at hand opens it".to_owned()),
            (Lookup::Damaged, _) => Err("its record is damaged".to_owned()),
        };
        match differs {
            Ok(difference) => {
                comparison.compared += 1;
                comparison.differing.extend(difference.map(|difference| (key, difference)));
            }
            Err(why) => drop(comparison.untold.insert(key, why)),
        }
    }
    comparison
}
