//! `ckpt-db run` on the API server: opens or creates the store, follows, and tells in a line whatever changes.

mod narrator;
mod opening;
mod teller;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;

use ckpt_db::agent::{
    About, Departed, Desk, FollowError, Following, Keeper, Keeping, KeyFiles, KeySlots, LastAnswer, Latest, Metering,
    Renewed, Resident, Rounds, Shared, SlotRules, SlotsTold, Target, in_memory, key_news,
};
use ckpt_db::checkpoint::settings::{ActivationPolicy, Settings};
use ckpt_db::node::boot;
use ckpt_db::ops::admin::Client;
use ckpt_db::ops::log::events;
use ckpt_db::ops::metrics::Feature;
use ckpt_db::ops::notify::Notifier;
use ckpt_db::source::api::credentials::{Credentials, InCluster, Place, SERVICE_ACCOUNT};
use ckpt_db::source::api::pace::Pace;
use ckpt_db::source::api::tracker::ObjectRefresh;
use ckpt_db::store::{Committed, Snapshot, StoreError, open_offline};

use self::narrator::{Interruption, Narrator};
use self::opening::{Anew, answers, open};
use self::teller::Teller;
use super::args::StoreArgs;
use super::bootstrap::{self, BootstrapArgs};
use super::keeping::{KeepArgs, is_copy};
use super::key_look::KeyLook;
use super::report::about;
use super::run::reload::{InForce, Reloading};
use super::{Exit, chain, now_unix_ms, say};

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
        let shown = if self.checkpointing { path.clone() } else { "memory".into() };
        let mut observer = Narrator::new(&interrupted, shown);
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
