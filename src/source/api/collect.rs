//! Gathers each pod with the objects that it names into one step. Pure: events and a clock value in, actions out.

pub use crate::checkpoint::lookup::Absence;
use crate::checkpoint::object::{Object, ObjectKey};

/// One pod and what it names, as far as it could be had.
#[derive(Clone)]
pub struct Gathered {
    /// The pod.
    pub pod: Object,
    /// Objects that it names and that no step before this one has carried.
    pub with: Vec<Object>,
    /// Objects that it names and that are not to be had.
    pub absent: Vec<(ObjectKey, Absence)>,
}

/// One consistent step of the source, to be stored in one transaction.
#[derive(Clone)]
pub enum Step {
    /// A complete listing of the node's pods. What it lacks is not proven to be gone.
    Listing {
        /// The pods, with everything that they name and that was not carried before.
        pods: Vec<Gathered>,
        /// `metadata.resourceVersion` of the listing.
        position: String,
    },
    /// A pod is new or different.
    Pod(Gathered),
    /// A pod is gone, proven by a second, consistent read.
    PodGone {
        /// Which one.
        key: ObjectKey,
        /// Its UID; another pod of that name stays.
        uid: String,
    },
    /// A ConfigMap or Secret that a stored pod names is new or different.
    Object(Object),
    /// A ConfigMap or Secret that a stored pod names is not to be had. `NotFound` is proven by a listing; what is stored of
    /// it is deleted then. `Forbidden` deletes nothing.
    ObjectAbsent {
        /// Which one.
        key: ObjectKey,
        /// Why.
        why: Absence,
    },
    /// This node itself.
    Node(Object),
    /// Services of the namespaces that have pods here.
    Services {
        /// What there is.
        services: Vec<Object>,
        /// Whether these are all, so that a stored one that is not among them is gone.
        complete: bool,
    },
}
