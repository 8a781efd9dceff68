//! Follows the API server into the store: waits for credentials, checks whose store it is, commits what the feed tells,
//! and hands on what is durable.
//!
//! The API server's absence is a normal state here and never an error; only the store's failure ends it, or another
//! cluster's or node's credentials.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::StreamExt as _;
use tokio::runtime::Handle;
use tokio::task::block_in_place;
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::durable::{Batch, Durable};
use super::key_slots::{KeySlots, SlotNews};
use super::shared::Shared;
use super::steps::{Departed, changes};
use super::store_thread::StoreHandle;
use super::view::Episode;
use crate::checkpoint::object::{Kind, ObjectKey, Shown};
use crate::date::utc;
use crate::source::api::collect::Step;
use crate::source::api::connect::Connections;
use crate::source::api::credentials::{Credentials, CredentialsError, Fingerprint, Place};
use crate::source::api::feed::{Feed, Note, Options, Told};
use crate::source::api::pace::Pace;
use crate::source::api::reach::{Reach, clock_is_set};
use crate::source::api::tracker::ObjectRefresh;
use crate::store::{Change, Committed, Snapshot, StoreError};

/// What to follow, and how.
pub struct Following {
    /// Where the credentials are.
    pub place: Place,
    /// The name of this node, where the operator says it. Otherwise the credentials do, else `host_name`.
    pub node_name: Option<String>,
    /// What this machine is called, for credentials that do not name a node.
    pub host_name: String,
    /// How ConfigMaps and Secrets are followed.
    pub refresh: ObjectRefresh,
    /// How fast.
    pub pace: Pace,
    /// The wall clock, in seconds since 1970.
    pub clock: fn() -> u64,
    /// The newest time at which anything was stored: a clock before it is not set.
    pub newest_stored_at_unix_s: u64,
    /// What becomes of pods whose parents are gone.
    pub departed: Departed,
    /// What the other tasks of the agent learn of it.
    pub shared: Arc<Shared>,
    /// The keys that open the store, and which of them get a slot.
    pub keys: KeySlots,
}

/// Learns what happens. Called in order; nothing further is committed meanwhile.
pub trait Observer: Send {
    /// Something changed that an operator should know.
    fn status(&mut self, status: &Status);

    /// These steps are durable.
    fn committed(&mut self, batch: &Committed<Batch<Told>>, look: Look<'_>);

    /// Called every few seconds: time to look after what was rendered.
    fn tick(&mut self, look: Look<'_>);
}

/// Looks at everything that is durable now; waits for the store, so only what needs it should.
pub type Look<'a> = &'a dyn Fn() -> Result<Committed<Snapshot>, StoreError>;

/// How things stand, in the words of a log line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// There are no credentials yet, or none that can be used; it is tried again.
    NoCredentials(String),
    /// The credentials can't be read now; following goes on with those that were read before.
    CredentialsKept(String),
    /// These are used from now on.
    Credentials {
        /// The API server.
        server: String,
        /// This node.
        node: String,
        /// Who the API server sees, and until when.
        user: String,
        /// What is not as it should be, such as TLS that is not verified.
        warnings: Vec<String>,
    },
    /// The client certificate has expired, or is not valid yet; the API server is asked all the same.
    Certificate(String),
    /// How the API server stands.
    Reach(Reach),
    /// Something else.
    Note(Note),
    /// What became of the store's key slots.
    Slots(SlotNews),
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoCredentials(why) => write!(f, "waiting for credentials: {why}"),
            Self::CredentialsKept(why) => write!(f, "going on with the credentials that were read before: {why}"),
            Self::Credentials { server, node, user, .. } => {
                write!(f, "following {server} for node {node} as {user}")
            }
            Self::Certificate(what) => f.write_str(what),
            Self::Reach(Reach::Answering) => f.write_str("API server: answering"),
            Self::Reach(Reach::Silent(cause)) => write!(f, "API server: silent ({cause})"),
            Self::Reach(Reach::Refusing(cause)) => write!(f, "API server: refusing ({cause})"),
            Self::Note(note) => note.fmt(f),
            Self::Slots(news) => news.fmt(f),
        }
    }
}

impl FollowError {
    /// Whether the store is another node's or cluster's than the credentials.
    #[must_use]
    pub fn is_foreign(&self) -> bool {
        match self {
            Self::Store(error) => matches!(error, StoreError::OtherCluster { .. } | StoreError::OtherNode { .. }),
            Self::NodeName(_) | Self::OtherNode { .. } => false,
        }
    }
}

/// Why following ended. What was committed stays; nothing else was changed.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    /// The store failed, or refuses: it is another cluster's or node's, or no key opens it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// This node's name is none. Nothing was asked or stored.
    #[error("{0} is no name of a node (a lower-case RFC 1123 subdomain); give the right one with --node-name")]
    NodeName(Shown),
    /// The credentials are those of another node than the operator says. Nothing was stored.
    #[error(
        "--node-name says {told}, but the credentials are those of node {found}; nothing was stored. Leave the option out, \
         or give the credentials of {told} with --kubeconfig"
    )]
    OtherNode {
        /// What the operator says.
        told: String,
        /// The node that the credentials name.
        found: String,
    },
}

/// Follows for ever, or until the store fails.
///
/// Needs a Tokio runtime of more than one thread, since observers may block. Dropping the future stops it; what was
/// acknowledged stays.
///
/// # Errors
/// [`FollowError`]; the caller reports it, reopens the store if [`StoreError::needs_reopening`], and begins anew.
pub async fn follow(
    store: &StoreHandle,
    following: &mut Following,
    observer: &mut dyn Observer,
) -> Result<std::convert::Infallible, FollowError> {
    let clock = following.clock;
    let newest = Arc::new(AtomicU64::new(following.newest_stored_at_unix_s));
    let clock_is_set: Arc<dyn Fn() -> bool + Send + Sync> = {
        let newest = Arc::clone(&newest);
        Arc::new(move || clock_is_set(clock(), newest.load(Ordering::Relaxed)))
    };
    let mut watch = CredentialWatch::default();
    let mut credentials = first(&mut watch, store, following, observer).await?;
    loop {
        let mut owner = whose(store, following, &credentials).await?;
        following.shared.belongs_to(None);
        let node = owner.node.clone();
        following.shared.follows(&node);
        // The kubelet's certificate usually brings both: then nothing has to be listed twice.
        keep_slots(store, following, observer).await?;
        announce(&credentials, &node, &*clock_is_set, clock, observer);
        let connections = connect(following, &credentials);
        let options = Options {
            node: node.clone(),
            refresh: following.refresh,
            pace: following.pace,
            clock_is_set: Arc::clone(&clock_is_set),
            ends: Arc::clone(following.shared.watch_ends()),
        };
        let feed = Feed::start(options, connections);
        let control = feed.control();
        let mut episode = Episode { feed: following.shared.feeds(&feed), answering: 0 };
        let belongs = Arc::new(Mutex::new(owner.changes()));
        let departed = following.departed;
        let mut durable = Durable::new(feed, store.clone(), {
            let belongs = Arc::clone(&belongs);
            move |told: &Told| match told {
                Told::Step(step) => changes(step, departed),
                // Said before any of its steps.
                Told::Reach(Reach::Answering) => belongs.lock().unwrap_or_else(PoisonError::into_inner).clone(),
                Told::Reach(_) | Told::Note(_) => Vec::new(),
            }
        });
        let mut look = interval(following.pace.credentials);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // What the first tick, which comes at once, would look at was looked at just now.
        look.tick().await;
        loop {
            tokio::select! {
                batch = durable.next() => match batch {
                    Some(Ok(batch)) => {
                        let missing = batch.get().update.missing.clone();
                        if !missing.is_empty() {
                            control.prove(missing);
                        }
                        newest.fetch_max(clock(), Ordering::Relaxed);
                        for told in &batch.get().items {
                            match told {
                                Told::Reach(reach) => {
                                    episode.answering += u64::from(*reach == Reach::Answering);
                                    observer.status(&Status::Reach(reach.clone()));
                                }
                                Told::Note(note) => observer.status(&Status::Note(note.clone())),
                                Told::Step(Step::Listing { .. }) => {
                                    following.shared.counters().listed();
                                    following.shared.is_durable(episode);
                                }
                                Told::Step(_) => {}
                            }
                        }
                        if batch.get().items.iter().any(|told| matches!(told, Told::Step(_))) {
                            following.shared.ring();
                        }
                        block_in_place(|| observer.committed(&batch, &|| wait(store.snapshot())));
                    }
                    Some(Err(failed)) => return Err(failed.error.into()),
                    // The feed ends with its reader, or when a part of it panicked: another one is begun, not at once.
                    None => {
                        sleep(following.pace.credentials).await;
                        break;
                    }
                },
                () = following.keys.news.rung() => {
                    if keep_slots(store, following, observer).await? {
                        // Everything is listed again, since the Secrets were left out before.
                        break;
                    }
                }
                _ = look.tick() => {
                    if let Some(changed) = watch.changed(following, observer) {
                        owner = whose(store, following, &changed).await?;
                        *belongs.lock().unwrap_or_else(PoisonError::into_inner) = owner.changes();
                        announce(&changed, &node, &*clock_is_set, clock, observer);
                        let moved = changed.server() != credentials.server();
                        control.use_connections(connect(following, &changed));
                        credentials = changed;
                        if owner.node != node {
                            break;
                        }
                        // A server at another place may have another past, in which the old positions mean nothing.
                        if moved {
                            break;
                        }
                    }
                    block_in_place(|| observer.tick(&|| wait(store.snapshot())));
                }
            }
        }
    }
}

/// Asks the API server how it stands, for ever, while there is no store to write to: copies have to go when it answers
/// again, and pods of a disk that is full or read-only have to come back. What it says of objects is not kept.
pub(super) async fn watch_only(following: &mut Following, node: &str, observer: &mut dyn Observer) {
    let clock = following.clock;
    let newest = following.newest_stored_at_unix_s;
    let options = Options {
        node: node.to_owned(),
        refresh: following.refresh,
        pace: following.pace,
        clock_is_set: Arc::new(move || clock_is_set(clock(), newest)),
        ends: Arc::clone(following.shared.watch_ends()),
    };
    let mut watch = CredentialWatch::default();
    let mut credentials = watch.first(following, observer).await;
    loop {
        let mut feed = Feed::start(options.clone(), connect(following, &credentials));
        let control = feed.control();
        following.shared.feeds(&feed);
        let mut look = interval(following.pace.credentials);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                told = feed.next() => match told {
                    Some(Told::Reach(reach)) => observer.status(&Status::Reach(reach)),
                    Some(Told::Step(_) | Told::Note(_)) => {}
                    None => {
                        sleep(following.pace.credentials).await;
                        break;
                    }
                },
                _ = look.tick() => {
                    // Another node's are for whoever opens the store to refuse.
                    let ours = |found: &Credentials| found.node_name().is_none_or(|found| found == node);
                    if let Some(changed) = watch.changed(following, observer).filter(ours) {
                        let moved = changed.server() != credentials.server();
                        control.use_connections(connect(following, &changed));
                        credentials = changed;
                        if moved {
                            break;
                        }
                    }
                }
            }
        }
    }
}

/// Connections with these credentials, which are used from now on.
fn connect(following: &Following, credentials: &Credentials) -> Connections {
    let validity = credentials.client_validity();
    following.shared.counters().certificate_expires(validity.map(|validity| validity.not_after_unix_s));
    Connections::new(credentials, following.pace.requests)
}

/// Waits on a thread that may block.
fn wait<T>(answer: impl Future<Output = T>) -> T {
    Handle::current().block_on(answer)
}

/// Whose pods the credentials give.
struct Owner {
    node: String,
    ca_sha256: Vec<[u8; 32]>,
}

impl Owner {
    /// What makes a store theirs, or is refused by another one's.
    fn changes(&self) -> Vec<Change> {
        vec![Change::NodeName(self.node.clone()), Change::Cluster { ca_sha256: self.ca_sha256.clone() }]
    }
}

/// Whether the store is this node's and this cluster's.
///
/// What a store does not know yet is recorded when the API server has answered, together with the first listing: with
/// credentials that never worked it must not become anybody's, or the right ones would be refused.
async fn whose(store: &StoreHandle, following: &Following, credentials: &Credentials) -> Result<Owner, FollowError> {
    let stored = store.identity().await?;
    let node = match (&following.node_name, credentials.node_name()) {
        (Some(told), Some(found)) if told != found => {
            return Err(FollowError::OtherNode { told: told.clone(), found: found.to_owned() });
        }
        (Some(name), _) => name.clone(),
        (None, Some(name)) => name.to_owned(),
        // Credentials that name no node: the store's name, else the machine's.
        (None, None) if stored.node_name.is_empty() => following.host_name.clone(),
        (None, None) => stored.node_name.clone(),
    };
    if ObjectKey::new(Kind::Node, "", &node).is_err() {
        return Err(FollowError::NodeName(Shown::new(&node)));
    }
    let owner = Owner { node, ca_sha256: credentials.cluster_ca_sha256().to_vec() };
    let mut known = owner.changes();
    known.retain(|change| match change {
        Change::NodeName(_) => !stored.node_name.is_empty(),
        _ => !stored.cluster_ca_sha256.is_empty(),
    });
    let _durable = store.update(known).await?;
    Ok(owner)
}

/// Waits for the first credentials; meanwhile new keys get their slots.
async fn first(
    watch: &mut CredentialWatch,
    store: &StoreHandle,
    following: &mut Following,
    observer: &mut dyn Observer,
) -> Result<Credentials, FollowError> {
    let mut look = interval(following.pace.credentials);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    keep_slots(store, following, observer).await?;
    loop {
        tokio::select! {
            _ = look.tick() => if let Some(found) = watch.changed(following, observer) {
                return Ok(found);
            },
            () = following.keys.news.rung() => {
                keep_slots(store, following, observer).await?;
            }
        }
    }
}

/// Gives the current keys their slots; whether the store had no key before.
async fn keep_slots(
    store: &StoreHandle,
    following: &mut Following,
    observer: &mut dyn Observer,
) -> Result<bool, FollowError> {
    let news = following.keys.keep(store).await?;
    let first = news == Some(SlotNews::FirstKey);
    if let Some(news) = news {
        observer.status(&Status::Slots(news));
    }
    Ok(first)
}

fn announce(
    credentials: &Credentials,
    node: &str,
    clock_is_set: &dyn Fn() -> bool,
    clock: fn() -> u64,
    observer: &mut dyn Observer,
) {
    let validity = credentials.client_validity();
    let mut user = credentials.user().to_owned();
    if let Some(validity) = validity {
        user.push_str(&format!(", certificate valid until {}", utc(validity.not_after_unix_s)));
    }
    observer.status(&Status::Credentials {
        server: credentials.server(),
        node: node.to_owned(),
        user,
        warnings: credentials.warnings().to_vec(),
    });
    // A clock that is not set judges nothing.
    if clock_is_set()
        && let Some(complaint) = validity.and_then(|validity| validity.complaint(clock()))
    {
        observer.status(&Status::Certificate(complaint));
    }
}

/// Notices other credentials by their contents.
#[derive(Default)]
struct CredentialWatch {
    used: Option<Fingerprint>,
    said: Option<String>,
}

impl CredentialWatch {
    /// Waits for the first ones.
    async fn first(&mut self, following: &Following, observer: &mut dyn Observer) -> Credentials {
        loop {
            if let Some(found) = self.changed(following, observer) {
                return found;
            }
            sleep(following.pace.credentials).await;
        }
    }

    /// Others than those in use, if there are any that can be used. Trouble is said once.
    fn changed(&mut self, following: &Following, observer: &mut dyn Observer) -> Option<Credentials> {
        match Credentials::load(&following.place) {
            Ok(found) => {
                self.said = None;
                let fingerprint = Some(found.fingerprint());
                let news = self.used != fingerprint;
                self.used = fingerprint;
                news.then_some(found)
            }
            Err(error) => {
                self.say(&error, observer);
                None
            }
        }
    }

    fn say(&mut self, error: &CredentialsError, observer: &mut dyn Observer) {
        let why = error.to_string();
        if self.said.as_ref() != Some(&why) {
            observer.status(&match self.used {
                None => Status::NoCredentials(why.clone()),
                Some(_) => Status::CredentialsKept(why.clone()),
            });
            self.said = Some(why);
        }
    }
}
