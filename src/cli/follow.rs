//! `ckpt-db run` on the API server: opens or creates the store, follows, and tells in a line whatever changes.

mod teller;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};

use ckpt_db::agent::{
    About, Batch, Departed, Desk, FollowError, Following, Keeper, Keeping, KeyFiles, KeySlots, LastAnswer, Latest,
    Look, Metering, Observer, Renewed, Resident, Rounds, Shared, SlotNews, SlotRules, SlotsTold, Status, Target,
    in_memory, key_news,
};
use ckpt_db::checkpoint::settings::{ActivationPolicy, Settings};
use ckpt_db::crypto::SystemEntropy;
use ckpt_db::node::boot;
use ckpt_db::ops::admin::Client;
use ckpt_db::ops::log::events;
use ckpt_db::ops::metrics::Feature;
use ckpt_db::ops::notify::Notifier;
use ckpt_db::source::api::collect::Step;
use ckpt_db::source::api::credentials::{Credentials, InCluster, Place, SERVICE_ACCOUNT};
use ckpt_db::source::api::feed::{Note, Told};
use ckpt_db::source::api::pace::Pace;
use ckpt_db::source::api::reach::Reach;
use ckpt_db::source::api::tracker::ObjectRefresh;
use ckpt_db::store::{
    Backend, BegunAnew, Committed, LockState, SlotPolicy, Snapshot, StoreError, begin_anew, open_offline,
};
use store_format::{SlotKind, Unlocker};

use self::teller::{Teller, committed};
use super::args::StoreArgs;
use super::bootstrap::{self, BootstrapArgs};
use super::dump::why_closed;
use super::keeping::{KeepArgs, is_copy};
use super::key_look::KeyLook;
use super::report::about;
use super::run::reload::{InForce, Reloading};
use super::unlock::Keys;
use super::{Exit, chain, now_unix_ms, rebuilt, say};

/// Objects that can't be read are named one by one, but not hundreds of them.
const NAMED_AT_ONCE: usize = 5;

/// So many things that were said once are remembered, not to be said again.
const REMEMBERED_MAX: usize = 1000;

/// After this long a few more are named.
const NAMED_AGAIN: Duration = Duration::from_secs(60);

/// How often an instance in a pod tries to get the store that another instance has.
const STORE_AGAIN: Duration = Duration::from_secs(2);

/// What following needs to know of the command line.
pub(super) struct Follow<'a> {
    pub(super) store: &'a StoreArgs,
    pub(super) keys: KeyLook,
    pub(super) slots: SlotRules,
    pub(super) keep: &'a KeepArgs,
    pub(super) bootstrap: &'a BootstrapArgs,
    /// Where metrics and health are served, and the feature gates that are told there.
    pub(super) metrics: Option<(SocketAddr, Vec<Feature>)>,
    pub(super) settings: Settings,
    /// The feature gate: without it everything stays in memory, and nothing is rendered.
    pub(super) checkpointing: bool,
    /// What is wrong with the configuration file, where the settings are those that held last.
    pub(super) began_without: Option<String>,
    /// What an earlier run has left that does harm while it is off.
    pub(super) left_over: Option<String>,
    pub(super) rendered_to: Target,
    pub(super) node_name: Option<String>,
    pub(super) kubeconfig: Option<PathBuf>,
    pub(super) refresh: ObjectRefresh,
    pub(super) reloading: Reloading,
}

impl Follow<'_> {
    /// Follows until a signal says stop.
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        let path = self.store.store()?;
        let layout = self.store.layout()?;
        let policy = self.settings.activation;
        if policy == ActivationPolicy::Off && self.checkpointing {
            say(format_args!("note: activation policy off: pods are stored and reported, and nothing is rendered"));
        }
        let place = place(self.kubeconfig.clone(), layout.root());
        let shared = Arc::new(Shared::default());
        let own_name = self.node_name.clone();
        let keeping =
            self.keep.keeping(self.store, self.settings.clone(), own_name, self.rendered_to.clone(), false)?;
        let keeping = Keeping { acts: self.checkpointing, ..keeping };
        let files = match self.checkpointing {
            true => self.bootstrap.begin(&bootstrap::Start {
                path: &path,
                keys: &self.keys.look()?,
                place: &place,
                node_name: self.node_name.as_deref(),
                require_authentication: self.settings.require_authentication,
            })?,
            // Nothing is kept.
            false => None,
        };
        let found = if self.checkpointing { self.find(&path, keeping.rules.own_pod.is_some())? } else { None };
        if let Some(snapshot) = &found {
            say(format_args!("store {}", about(&path, snapshot.get())));
            let other = foreign(snapshot.get(), &place);
            if let Some(other) = &other {
                say(format_args!("error: {other}; nothing is brought back (`ckpt-db adopt` makes it this node's)"));
            }
            shared.belongs_to(other);
        } else if self.checkpointing && std::fs::symlink_metadata(&path).is_err() {
            say(format_args!("there is no store at {} yet: it is made now", path.display()));
        }
        let interrupted = Mutex::new(None);
        let mut observer = Narrator {
            interrupted: &interrupted,
            path: if self.checkpointing { path.clone() } else { "memory".into() },
            answering: false,
            listed: false,
            unsealed: BTreeSet::new(),
            problems: BTreeSet::new(),
            outage: Outage::default(),
            named: (Instant::now(), 0),
        };
        let started_ms = (now_unix_ms(), boot::now_ms());
        let about = About {
            path: if self.checkpointing { path.clone() } else { PathBuf::new() },
            checkpointing: self.checkpointing,
            left_over: self.left_over.clone(),
            policy,
            started_ms,
        };
        let latest = Arc::new(Latest::new(about).with_bootstrap(files.clone()));
        if let Some(wrong) = self.began_without {
            latest.began_without(wrong);
        }
        let (ringer, news) = key_news();
        let following = Following {
            place,
            node_name: self.node_name.clone(),
            host_name: host_name()?,
            refresh: self.refresh,
            pace: Pace::default(),
            clock: || now_unix_ms() / 1000,
            newest_stored_at_unix_s: found.as_ref().map_or(0, |snapshot| newest(snapshot.get()) / 1000),
            departed: departed(policy),
            shared: Arc::clone(&shared),
            keys: match self.checkpointing {
                true => KeySlots {
                    look: Box::new({
                        let keys = self.keys.clone();
                        move || keys.look().map(|keys| keys.at_hand()).unwrap_or_default()
                    }),
                    news,
                    rules: self.slots,
                    told: SlotsTold::default(),
                },
                false => KeySlots::none(),
            },
        };
        let desk = Desk::new(Arc::clone(&shared), Arc::clone(&latest), path.clone(), now_unix_ms, is_copy());
        let own_keys = Box::new({
            let keys = self.keys.clone();
            move || keys.look().map(|keys| keys.at_hand().current).unwrap_or_default()
        });
        let desk = Arc::new(desk.with_keys(own_keys, self.slots));
        let metrics = self.metrics.map(|(at, features)| (at, Arc::new(Metering::new(Arc::clone(&desk), features))));
        let sights = keeping.sights.clone();
        let found_node = found.as_ref().and_then(|snapshot| snapshot.get().node_name().map(str::to_owned));
        let keeper = Keeper::new(keeping, found.as_ref().map(Committed::get));
        let last_answer = if self.checkpointing { self.keep.last_answer(self.store)? } else { LastAnswer::at(None) };
        let rendering = Arc::new(AtomicBool::new(policy != ActivationPolicy::Off));
        let teller = Box::new(Teller::new(Arc::clone(&rendering)));
        let line = Arc::clone(&shared);
        let renewing = (Arc::clone(&shared), Arc::clone(&latest), self.reloading);
        let rounds = Rounds::new(keeper, shared, latest, found, now_unix_ms, teller, last_answer);
        let full_at = path.clone();
        let resident = Resident {
            open: Box::new({
                let authentic = self.settings.require_authentication;
                let (keys, path, policy, checkpointing) = (&self.keys, &path, self.slots.policy, self.checkpointing);
                move || {
                    if !checkpointing {
                        return Ok(Box::new(in_memory("", now_unix_ms())?));
                    }
                    let anew = if authentic { Anew::Never } else { Anew::If(answers(&line)) };
                    Ok(bootstrap::mirrored(open(keys, path, policy, anew)?, files.as_ref())?)
                }
            }),
            is_in_use: |error: &anyhow::Error| {
                let mut causes = error.chain().filter_map(|cause| cause.downcast_ref());
                causes.any(|cause| matches!(cause, StoreError::InUse(_)))
            },
            clock_ms: now_unix_ms,
            following,
            observer: &mut observer,
            failed: Box::new(|failed| {
                let by_the_store = matches!(&failed, Ok(FollowError::Store(error)) if error.needs_reopening());
                let why = match failed {
                    // The database does not say which file it is.
                    Ok(FollowError::Store(error)) if error.is_full() => {
                        format!("cannot write to {}: {}", full_at.display(), chain(&anyhow::Error::new(error)))
                    }
                    Ok(FollowError::Store(error)) => chain(&anyhow::Error::new(error)),
                    Ok(error) => chain(&anyhow::Error::new(error)),
                    Err(error) => chain(&error),
                };
                // It is tried again every few seconds; once is enough to say why.
                let mut said = interrupted.lock().unwrap_or_else(PoisonError::into_inner);
                if said.as_ref().is_none_or(|said| said.why != why) {
                    tracing::error!(name: events::INTERRUPTED, cause = why, "{why} (tried again until it works)");
                    *said = Some(Interruption { why, by_the_store });
                }
            }),
            keeps: Some((rounds, sights)),
            reload: Box::new({
                let root = layout.root().to_owned();
                let (shared, latest, mut reloading) = renewing;
                move |following| match reloading.again() {
                    Ok(None) => {}
                    Ok(Some(InForce { settings, rules, kubeconfig, refresh, restart })) => {
                        let policy = settings.activation;
                        following.place = self::place(kubeconfig, &root);
                        following.refresh = refresh;
                        following.departed = self::departed(policy);
                        rendering.store(policy != ActivationPolicy::Off, Ordering::Relaxed);
                        latest.configured(policy, restart);
                        shared.renew(Renewed { settings, rules });
                    }
                    Err(why) => latest.refuses(why),
                }
            }),
            notifier: Arc::new(Notifier::from_env()),
            key_files: self.checkpointing.then(|| {
                let keys = self.keys.clone();
                (Box::new(move || keys.files()) as KeyFiles, ringer)
            }),
            desk: Some((self.store.admin_socket()?, desk)),
            metrics,
            found_node,
            in_memory: !self.checkpointing,
        };
        resident.run()?;
        Ok(Exit::Fine)
    }

    /// The store as it lies there, if it does. An agent in a pod waits for the one that another instance has: its copy, which
    /// yields to it, or its parent.
    fn find(&self, path: &Path, in_pod: bool) -> anyhow::Result<Option<Committed<Snapshot>>> {
        let mut said = false;
        loop {
            let keys = self.keys.look()?;
            match open_offline(path, &keys.secrets()) {
                Ok(snapshot) => return Ok(Some(snapshot)),
                Err(StoreError::NotFound(_)) => return Ok(None),
                // Nothing of it can be brought back. What was rendered from it stays.
                Err(error) if error.is_damage() => return Ok(None),
                Err(StoreError::InUse(_)) if in_pod => {
                    if !said {
                        say(format_args!("note: another instance has the store {}: waiting for it", path.display()));
                        said = true;
                    }
                    if !is_copy()
                        && let Err(error) = Client::new(&self.store.admin_socket()?).yield_store("")
                    {
                        tracing::info!("it was asked for it: {error}");
                    }
                    std::thread::sleep(STORE_AGAIN);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Whose the store is, where the credentials at hand are another node's or cluster's. Without credentials nobody can say.
pub(super) fn foreign(snapshot: &Snapshot, place: &Place) -> Option<String> {
    let stored = snapshot.identity()?;
    let credentials = Credentials::load(place).ok()?;
    if let Some(node) = credentials.node_name()
        && !stored.node_name.is_empty()
        && stored.node_name != node
    {
        return Some(format!("the store belongs to node {}, and the credentials to node {node}", stored.node_name));
    }
    let ours = credentials.cluster_ca_sha256();
    let known = &stored.cluster_ca_sha256;
    let other = !known.is_empty() && !ours.is_empty() && !ours.iter().any(|ca| known.contains(ca));
    other
        .then(|| "the store belongs to another cluster: it knows none of the CAs that the credentials trust".to_owned())
}

/// Whether a store that no key opens may be begun anew.
#[derive(Clone, Copy)]
enum Anew {
    /// What is in it would count as authentic, though nobody has checked it.
    Never,
    /// If the API server answers: then the Secrets can be fetched again.
    If(bool),
}

/// Whether the API server answers now.
fn answers(shared: &Shared) -> bool {
    let line = shared.line();
    line.is_some_and(|(_, line)| line.has_changed().is_ok() && line.borrow().reach == Some(Reach::Answering))
}

/// Opens the store for writing, or makes a new one.
fn open(keys: &KeyLook, path: &Path, policy: SlotPolicy, anew: Anew) -> anyhow::Result<Box<dyn Backend>> {
    let keys = keys.look()?;
    let authentic = matches!(anew, Anew::Never);
    // A new one is nobody's until there are credentials: a name that they contradict must not stay in it.
    let store = rebuilt::open(path, &keys.secrets(), authentic, "")?;
    match store.lock_state() {
        LockState::Open => Ok(Box::new(store)),
        LockState::Keyless => {
            say(format_args!(
                "note: no node key yet: Secrets are not stored until the kubelet has one (or name another with --node-key)"
            ));
            Ok(Box::new(store))
        }
        LockState::Locked => {
            let why = why_closed(store.snapshot()?.get(), &keys.tried());
            drop(store);
            let mut wanted = keys.at_hand().wanted(LockState::Locked);
            if policy == SlotPolicy::CredentialOnly {
                wanted.retain(|unlocker| unlocker.kind() == SlotKind::Credential);
            }
            let hope = match anew {
                Anew::If(true) if !wanted.is_empty() => {
                    begin_anew_at(path, &keys, &wanted, &why)?;
                    return Ok(Box::new(rebuilt::open(path, &keys.secrets(), authentic, "")?));
                }
                Anew::If(_) => {
                    "When the API server answers, and there is a key, it is kept aside and Secrets are fetched again"
                }
                Anew::Never => "With --require-authentication it is not begun anew: move it away for that",
            };
            Err(anyhow!("{why}. {hope}")).with_context(|| format!("cannot write to {}", path.display()))
        }
    }
}

/// Nobody can open the Secrets of the store any more, and the API server has them.
fn begin_anew_at(path: &Path, keys: &Keys, wanted: &[Unlocker], why: &str) -> anyhow::Result<()> {
    let wanted: Vec<&Unlocker> = wanted.iter().collect();
    let begun = begin_anew(path, &keys.secrets(), &wanted, now_unix_ms(), &SystemEntropy)
        .with_context(|| format!("cannot begin anew with {}: {why}", path.display()))?
        .into_inner();
    let BegunAnew { kept_at, carried, left, .. } = begun;
    say(format_args!(
        "warning: {why}. It is kept at {}, and {} begins anew with its {carried} objects that are not sealed; the other {left} \
         are fetched from the API server, which answers",
        kept_at.display(),
        path.display()
    ));
    Ok(())
}

/// What becomes of pods whose parents are gone.
fn departed(policy: ActivationPolicy) -> Departed {
    match policy {
        // There is no copy that a grace period could be for.
        ActivationPolicy::Off => Departed::Remove,
        ActivationPolicy::Annotated | ActivationPolicy::All => Departed::Keep,
    }
}

/// Where credentials are looked for.
pub(super) fn place(kubeconfig: Option<PathBuf>, root: &Path) -> Place {
    match kubeconfig {
        Some(path) => Place::Explicit(path),
        None => {
            let variable = |name| std::env::var(name).ok().filter(|value: &String| !value.is_empty());
            let in_cluster = variable("KUBERNETES_SERVICE_HOST").map(|host| InCluster {
                host,
                port: variable("KUBERNETES_SERVICE_PORT").unwrap_or_else(|| "443".to_owned()),
                directory: SERVICE_ACCOUNT.into(),
            });
            Place::Search { root: root.to_owned(), in_cluster }
        }
    }
}

fn host_name() -> anyhow::Result<String> {
    let name = rustix::system::uname();
    Ok(name.nodename().to_str().context("the host's name is not UTF-8; give --node-name")?.to_lowercase())
}

fn newest(snapshot: &Snapshot) -> u64 {
    snapshot.objects().map(|object| object.stored_at_unix_ms).max().unwrap_or_default()
}

/// Tells what following comes to.
struct Narrator<'a> {
    /// Why following was interrupted, already told.
    interrupted: &'a Mutex<Option<Interruption>>,
    path: PathBuf,
    /// Whether the API server answers.
    answering: bool,
    /// Whether a listing was stored since it does.
    listed: bool,
    /// Secrets that were left out since there is no key, already told.
    unsealed: BTreeSet<String>,
    /// Objects that could not be stored, already told.
    problems: BTreeSet<String>,
    outage: Outage,
    /// Since when objects that can't be read have been counted, and how many they are.
    named: (Instant, usize),
}

/// What following ended with.
struct Interruption {
    why: String,
    /// Whether the store failed, rather than what was to be stored in it.
    by_the_store: bool,
}

/// What was said of an API server since it answered last.
#[derive(Default)]
struct Outage {
    silent: bool,
    said: BTreeSet<String>,
}

impl Outage {
    /// Whether this is news. A cause comes again with each attempt, and with another date in it.
    fn is_news(&mut self, reach: &Reach) -> bool {
        let (silent, cause) = match reach {
            Reach::Answering => {
                *self = Self::default();
                return true;
            }
            Reach::Silent(cause) => (true, cause),
            Reach::Refusing(cause) => (false, cause),
        };
        let turned = !self.said.is_empty() && self.silent != silent;
        self.silent = silent;
        if self.said.len() >= REMEMBERED_MAX {
            self.said.clear();
        }
        self.said.insert(cause.0.chars().filter(|c| !c.is_ascii_digit()).collect()) || turned
    }
}

impl Observer for Narrator<'_> {
    fn status(&mut self, status: &Status) {
        if let Status::Reach(reach) = status {
            self.answering = *reach == Reach::Answering;
            self.listed &= self.answering;
        }
        let news = match status {
            Status::Reach(reach) => self.outage.is_news(reach),
            Status::Note(Note::NotRead { .. } | Note::Unreadable(_)) => self.names_another(),
            _ => true,
        };
        if !news {
            tracing::info!("{status}");
            return;
        }
        let level = match status {
            Status::Reach(Reach::Answering) | Status::Credentials { .. } | Status::Slots(SlotNews::FirstKey) => "",
            Status::Slots(SlotNews::Changed { .. }) => "note: ",
            Status::Slots(SlotNews::NotKept(_)) => "warning: ",
            Status::NoCredentials(_) | Status::Note(Note::GetOnly { .. } | Note::NoServices(_)) => "note: ",
            Status::Reach(Reach::Silent(_) | Reach::Refusing(_))
            | Status::CredentialsKept(_)
            | Status::Certificate(_)
            | Status::Note(_) => "warning: ",
        };
        match (status, level) {
            (Status::Reach(Reach::Answering), _) => {
                tracing::info!(name: events::API_SERVER, reach = "Answering", "{status}");
            }
            (Status::Reach(Reach::Silent(cause)), _) => {
                tracing::warn!(name: events::API_SERVER, reach = "Silent", cause = cause.0, "{status}");
            }
            (Status::Reach(Reach::Refusing(cause)), _) => {
                tracing::warn!(name: events::API_SERVER, reach = "Refusing", cause = cause.0, "{status}");
            }
            (Status::Slots(SlotNews::Changed { .. }), _) => {
                tracing::info!(name: events::KEY_SLOTS, "{status}");
            }
            (_, "warning: ") => tracing::warn!(name: events::FOLLOWING, "{status}"),
            (_, "") => tracing::info!(name: events::FOLLOWING, "{status}"),
            (_, _) => tracing::info!(name: events::NOTE, "{status}"),
        }
        if let Status::Credentials { warnings, .. } = status {
            warnings.iter().for_each(|warning| tracing::warn!(name: events::FOLLOWING, "{warning}"));
            // What can't be stored stops each new attempt after this.
            let mut said = self.interrupted.lock().unwrap_or_else(PoisonError::into_inner);
            said.take_if(|said| !said.by_the_store);
        }
    }

    fn committed(&mut self, batch: &Committed<Batch<Told>>, look: Look<'_>) {
        let Batch { items, update } = batch.get();
        for rejected in &update.rejected {
            let (object, cause) = (&rejected.object, &rejected.problem);
            let problem = format!("{object} was not stored: {cause}");
            // On a node that lives for years names come without end.
            if self.problems.len() >= REMEMBERED_MAX {
                self.problems.clear();
            }
            if self.problems.insert(problem.clone()) {
                tracing::error!(name: events::NOT_STORED, %object, cause, revision = update.revision.0, "{problem}");
            }
        }
        if self.unsealed.len() >= REMEMBERED_MAX {
            self.unsealed.clear();
        }
        let unsealed: Vec<_> =
            update.unsealed.iter().filter(|secret| self.unsealed.insert(secret.to_string())).collect();
        match unsealed[..] {
            [] => {}
            [secret] => say(format_args!("warning: {secret} is not stored: there is no node key yet")),
            [first, ..] => say(format_args!(
                "warning: {} Secrets are not stored, {first} among them: there is no node key yet",
                unsealed.len()
            )),
        }
        committed(update);
        let listed = self.answering && items.iter().any(|told| matches!(told, Told::Step(Step::Listing { .. })));
        if listed {
            *self.interrupted.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        let first = listed && !self.listed;
        self.listed |= listed;
        if first {
            match look() {
                Ok(snapshot) => {
                    let (revision, about) = (snapshot.get().revision().0, about(&self.path, snapshot.get()));
                    tracing::info!(name: events::IN_STEP, revision, "in step with the API server: {about}");
                }
                Err(error) => say(format_args!("warning: cannot look into the store: {}", chain(&error.into()))),
            }
        }
    }

    fn tick(&mut self, _: Look<'_>) {}
}

impl Narrator<'_> {
    /// Whether one more object that can't be read is named.
    fn names_another(&mut self) -> bool {
        let (since, count) = &mut self.named;
        if since.elapsed() >= NAMED_AGAIN {
            (*since, *count) = (Instant::now(), 0);
        }
        *count += 1;
        if *count == NAMED_AT_ONCE + 1 {
            say(format_args!("warning: more objects can't be read (each is tried again; with --v=2 they are named)"));
        }
        *count <= NAMED_AT_ONCE
    }
}
