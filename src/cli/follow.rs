//! `ckpt-db run` on the API server: opens or creates the store, follows, and tells in a line whatever changes.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};

use ckpt_db::agent::{
    Batch, Departed, FollowError, Following, Look, Observer, Rendered, Status, Target, open_or_create, render, reside,
};
use ckpt_db::checkpoint::settings::{Activation, ActivationPolicy, Settings};
use ckpt_db::source::api::collect::Step;
use ckpt_db::source::api::credentials::{InCluster, Place, SERVICE_ACCOUNT};
use ckpt_db::source::api::feed::{Note, Told};
use ckpt_db::source::api::pace::Pace;
use ckpt_db::source::api::reach::Reach;
use ckpt_db::source::api::tracker::ObjectRefresh;
use ckpt_db::store::{Backend, Committed, LockState, Snapshot, StoreError, fingerprint, open_offline};

use super::args::{StoreArgs, TargetArgs};
use super::dump::why_closed;
use super::output::plural;
use super::run::{about, report_problems};
use super::{Exit, chain, node, now_unix_ms, say};

/// How often rendered files that someone else changed are put right; as often as the kubelet reads its directory.
const RENDER_AGAIN: Duration = Duration::from_secs(20);

/// Objects that can't be read are named one by one, but not hundreds of them.
const NAMED_AT_ONCE: usize = 5;

/// After this long a few more are named.
const NAMED_AGAIN: Duration = Duration::from_secs(60);

/// What following needs to know of the command line.
pub(super) struct Follow<'a> {
    pub(super) store: &'a StoreArgs,
    pub(super) target: &'a TargetArgs,
    pub(super) settings: Settings,
    pub(super) node_name: Option<String>,
    pub(super) kubeconfig: Option<PathBuf>,
    pub(super) refresh: ObjectRefresh,
}

impl Follow<'_> {
    /// Follows until a signal says stop.
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        let path = self.store.store()?;
        let target = self.target.target(self.store)?;
        let layout = self.store.layout()?;
        // Nothing looks at what runs on this node yet, so nothing is started or stopped.
        let settings = Settings { acting: Activation::Hold, ..self.settings };
        let mut newest_stored_at_unix_s = 0;
        let interrupted = Mutex::new(None);
        let mut observer = Narrator {
            store: self.store,
            interrupted: &interrupted,
            path: path.clone(),
            target,
            rendering: settings.activation != ActivationPolicy::Off,
            settings,
            node_name: self.node_name.clone(),
            answering: false,
            listed: false,
            unsealed: BTreeSet::new(),
            problems: BTreeSet::new(),
            outage: Outage::default(),
            named: (Instant::now(), 0),
            rendered_at: Instant::now(),
        };
        if !observer.rendering {
            say(format_args!("note: activation policy off: pods are stored and reported, and nothing is rendered"));
        }
        let keys = self.store.keys()?;
        // What lies in the store is rendered before anybody is asked for anything.
        match open_offline(&path, &keys.secrets()) {
            Ok(snapshot) => {
                newest_stored_at_unix_s = newest(snapshot.get()) / 1000;
                say(format_args!("store {}", about(&path, snapshot.get())));
                observer.render(&snapshot);
            }
            Err(StoreError::NotFound(_)) => {
                say(format_args!("there is no store at {} yet: it is made now", path.display()));
            }
            Err(error) => return Err(error.into()),
        }
        let following = Following {
            place: place(self.kubeconfig, layout.root()),
            node_name: self.node_name.clone(),
            host_name: host_name()?,
            refresh: self.refresh,
            pace: Pace::default(),
            clock: || now_unix_ms() / 1000,
            newest_stored_at_unix_s,
            // Nothing is activated, and so nothing has a grace period.
            departed: Departed::Remove,
            first_key: Box::new({
                let arguments = self.store.clone();
                move || {
                    let keys = arguments.look_for_keys().ok()?;
                    keys.found.into_iter().map(|key| key.secret).find(|secret| fingerprint(secret).is_some())
                }
            }),
        };
        let open = || open(self.store, &path);
        reside(open, now_unix_ms, following, &mut observer, |failed| {
            let why = match failed {
                Ok(FollowError::Store(error)) => chain(&anyhow::Error::new(error)),
                Ok(error) => chain(&anyhow::Error::new(error)),
                Err(error) => chain(&error),
            };
            // It is tried again every few seconds; once is enough to say why.
            let mut said = interrupted.lock().unwrap_or_else(PoisonError::into_inner);
            if said.as_ref() != Some(&why) {
                say(format_args!("error: {why} (tried again until it works)"));
                *said = Some(why);
            }
        })?;
        Ok(Exit::Fine)
    }
}

/// Opens the store for writing, or makes a new one.
fn open(arguments: &StoreArgs, path: &Path) -> anyhow::Result<Box<dyn Backend>> {
    let keys = arguments.keys()?;
    // A new one is nobody's until there are credentials: a name that they contradict must not stay in it.
    let store = open_or_create(path, &keys.secrets(), "", now_unix_ms())?;
    match store.lock_state() {
        LockState::Open => {}
        LockState::Keyless => {
            say(format_args!(
                "note: no node key yet: Secrets are not stored until the kubelet has one (or name another with --node-key)"
            ));
        }
        LockState::Locked => {
            return Err(anyhow!("{}", why_closed(store.snapshot()?.get(), &keys.tried())))
                .with_context(|| format!("cannot write to {}", path.display()));
        }
    }
    Ok(Box::new(store))
}

/// Where credentials are looked for.
fn place(kubeconfig: Option<PathBuf>, root: &Path) -> Place {
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

/// Tells what happens, and renders what is durable.
struct Narrator<'a> {
    store: &'a StoreArgs,
    /// Why following was interrupted, already told.
    interrupted: &'a Mutex<Option<String>>,
    path: PathBuf,
    target: Target,
    settings: Settings,
    node_name: Option<String>,
    /// Not under the policy `off`: then nothing is rendered, and nothing that is there is touched.
    rendering: bool,
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
    rendered_at: Instant,
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
            Status::Reach(Reach::Answering) | Status::Credentials { .. } | Status::FirstKey => "",
            Status::NoCredentials(_) | Status::Note(Note::GetOnly { .. } | Note::NoServices(_)) => "note: ",
            Status::Reach(Reach::Silent(_) | Reach::Refusing(_))
            | Status::CredentialsKept(_)
            | Status::Certificate(_)
            | Status::Note(_) => "warning: ",
        };
        say(format_args!("{level}{status}"));
        if let Status::Credentials { warnings, .. } = status {
            warnings.iter().for_each(|warning| say(format_args!("warning: {warning}")));
            *self.interrupted.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
    }

    fn committed(&mut self, batch: &Committed<Batch<Told>>, look: Look<'_>) {
        let Batch { items, update } = batch.get();
        for rejected in &update.rejected {
            let problem = format!("error: {} was not stored: {}", rejected.object, rejected.problem);
            if self.problems.insert(problem.clone()) {
                say(format_args!("{problem}"));
            }
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
        let (stored, removed) = (update.stored.len(), update.removed.len());
        if stored + removed > 0 {
            tracing::info!(revision = update.revision.0, stored, removed, "committed");
        }
        let listed = self.answering && items.iter().any(|told| matches!(told, Told::Step(Step::Listing { .. })));
        let first = listed && !self.listed;
        self.listed |= listed;
        if !first && stored + removed == 0 {
            return;
        }
        if first || self.rendering {
            match look() {
                Ok(snapshot) => {
                    if first {
                        say(format_args!("in step with the API server: {}", about(&self.path, snapshot.get())));
                    }
                    self.render(&snapshot);
                }
                Err(error) => say(format_args!("warning: cannot look into the store: {}", chain(&error.into()))),
            }
        }
    }

    fn tick(&mut self, look: Look<'_>) {
        if self.rendering
            && self.rendered_at.elapsed() >= RENDER_AGAIN
            && let Ok(snapshot) = look()
        {
            self.render(&snapshot);
        }
    }
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
            say(format_args!(
                "warning: more objects can't be read (each is tried again; with RUST_LOG=ckpt_db=info they are named)"
            ));
        }
        *count <= NAMED_AT_ONCE
    }

    /// Keeps trees and prepared manifests in line with what is durable.
    fn render(&mut self, snapshot: &Committed<Snapshot>) {
        self.rendered_at = Instant::now();
        if !self.rendering {
            return;
        }
        match self.try_render(snapshot) {
            Ok(rendered) => {
                report_problems(&rendered.report);
                let prepared = rendered.report.outcomes.len();
                tracing::info!(revision = snapshot.get().revision().0, "{prepared} pod{} prepared", plural(prepared));
            }
            Err(error) => say(format_args!("error: {}", chain(&error))),
        }
    }

    fn try_render(&self, snapshot: &Committed<Snapshot>) -> anyhow::Result<Rendered> {
        let network = node::network(&self.store.layout()?, &self.target);
        let own = self.node_name.as_deref();
        Ok(render(snapshot, &self.settings, own, network, &self.target, now_unix_ms() / 1000)?)
    }
}
