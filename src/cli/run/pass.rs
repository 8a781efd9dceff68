//! One pass of `ckpt-db run` after another: what the store holds is rendered, what the files of a source say is stored.

use std::io::{self, Write};
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};

use ckpt_db::agent::{
    Bootstrap, Follow, Keeper, Keeping, Kept, Renewed, Seeded, SlotNews, SlotsTold, Target, Tick, in_memory,
    keep_slots, seed,
};
use ckpt_db::checkpoint::lifecycle::Rules;
use ckpt_db::checkpoint::object::{Kind, Object, ObjectKey};
use ckpt_db::checkpoint::settings::Settings;
use ckpt_db::source::manifests::{self, Input, Loaded, SourceError};
use ckpt_db::source::stamp::{Stamp, stamp};
use ckpt_db::store::{Backend, Committed, LockState, Snapshot, StoreError, Update, open_offline};

use super::super::bootstrap;
use super::super::dump::{say_sealed, why_closed};
use super::super::key_look::KeyLook;
use super::super::output::{line, plural};
use super::super::report::{about, contents, report_problems, tally};
use super::super::unlock::Keys;
use super::super::{Exit, chain, follow, now_unix_ms, rebuilt, say, verdicts};
use super::Run;
use super::reload::InForce;

/// What stays the same from pass to pass.
pub(super) struct Pass<'a> {
    run: &'a Run,
    path: PathBuf,
    target: Target,
    settings: Settings,
    /// The feature gate: without it everything stays in memory, and nothing is rendered.
    checkpointing: bool,
    /// Remembers from pass to pass.
    keeper: Option<Keeper>,
    /// Kept open by a resident agent: its lock keeps a second one out.
    store: Option<Box<dyn Backend>>,
    /// The files of bootstrap checkpointing, if they are asked for.
    bootstrap: Option<Arc<Bootstrap>>,
    /// Whether the cold start found a store that no key at hand opens.
    locked: bool,
    /// The node that it belongs to.
    stored_name: Option<String>,
    /// Whether the source has Secrets that could not be stored without a key.
    keyless: bool,
    /// The keys at hand, to be named where none opens the store.
    tried: String,
    keys: KeyLook,
    /// What was said of key slots that could not be made.
    slots_told: SlotsTold,
}

impl<'a> Pass<'a> {
    pub(super) fn new(run: &'a Run, path: PathBuf, target: Target, settings: Settings, checkpointing: bool) -> Self {
        Self {
            run,
            path,
            target,
            settings,
            checkpointing,
            keeper: None,
            store: None,
            bootstrap: None,
            locked: false,
            stored_name: None,
            keyless: false,
            tried: String::new(),
            keys: KeyLook::new(&run.store),
            slots_told: SlotsTold::default(),
        }
    }

    /// The store.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn keys(&mut self) -> anyhow::Result<Keys> {
        if !self.checkpointing {
            return Ok(Keys::default());
        }
        let keys = self.keys.look()?;
        self.tried = keys.tried();
        Ok(keys)
    }

    /// Renders from the store, if there is one, and the feature gate is on. Contacts nothing.
    pub(super) fn cold_start(&mut self, out: &mut dyn Write) -> anyhow::Result<Option<Exit>> {
        if !self.checkpointing {
            return Ok(None);
        }
        let keys = self.keys()?;
        self.bootstrap = self.run.bootstrap.begin(&bootstrap::Start {
            path: &self.path,
            keys: &keys,
            place: &follow::place(self.run.kubeconfig.clone(), self.run.store.layout()?.root()),
            node_name: self.run.translate.node_name.as_deref(),
            require_authentication: self.settings.require_authentication,
        })?;
        let snapshot = match open_offline(&self.path, &keys.secrets()) {
            Ok(snapshot) => snapshot,
            Err(StoreError::NotFound(_)) => return Ok(None),
            // The source fills the one that is made in its place.
            Err(error) if error.is_damage() && self.run.manifests.is_some() => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let empty = !snapshot.get().populated() && snapshot.get().objects().next().is_none();
        if empty && self.run.manifests.is_none() {
            bail!("the store {} was never filled; give --manifests PATH", self.path.display());
        }
        self.locked = snapshot.get().lock_state() == LockState::Locked;
        self.stored_name = snapshot.get().node_name().map(str::to_owned);
        let kept = self.pass(&snapshot)?;
        line(out, format_args!("cold start from {}", about(&self.path, snapshot.get())))?;
        self.account(out, snapshot.get(), &kept, self.run.manifests.is_none()).map(Some)
    }

    /// Brings back what is durable, but what runs already.
    fn pass(&mut self, snapshot: &Committed<Snapshot>) -> anyhow::Result<Kept> {
        let keeper = match &mut self.keeper {
            Some(keeper) => keeper,
            None => {
                let own_name = self.run.translate.node_name.clone();
                let (settings, target) = (self.settings.clone(), self.target.clone());
                let keeping = self.run.keep.keeping(&self.run.store, settings, own_name, target, true)?;
                let keeping = Keeping { acts: self.checkpointing, ..keeping };
                self.keeper.insert(Keeper::new(keeping, Some(snapshot.get())))
            }
        };
        Ok(keeper.pass_now(snapshot, now_unix_ms() / 1000)?)
    }

    /// Stores what the source says, then renders from what is durable.
    pub(super) fn store_and_render(&mut self, input: &Input, out: &mut dyn Write) -> anyhow::Result<Exit> {
        let loaded = read(input)?;
        for problem in &loaded.problems {
            say(format_args!("{problem}"));
        }
        let skipped = loaded.problems.iter().any(|problem| problem.severity == manifests::Severity::Skipped);
        if skipped && self.run.strict {
            bail!("nothing was stored: --strict refuses the source for the documents skipped above");
        }
        let keys = self.keys()?;
        let now = now_unix_ms();
        let Seeded { update, elsewhere, complete } = {
            let store = self.open(&loaded, &keys, now)?;
            seed(store, loaded.objects, !skipped, now)?
        };
        for (pod, node) in &elsewhere {
            say(format_args!("note: {pod} is bound to node {node}: not stored"));
        }
        for rejected in &update.get().rejected {
            say(format_args!("error: {} was not stored: {}", rejected.object, rejected.problem));
        }
        let unreferenced = update.get().unreferenced.len();
        if unreferenced > 0 {
            say(format_args!(
                "note: no pod of this node names {unreferenced} of the ConfigMaps and Secrets: not stored"
            ));
        }
        let unsealed = update.get().unsealed.len();
        self.keyless = unsealed > 0;
        if self.keyless {
            say(format_args!(
                "warning: no node key yet: Secrets are not stored ({unsealed} left out), and pods that need one do not come back"
            ));
        }
        if !complete {
            say(format_args!("note: since documents were skipped, nothing was removed for not being in the source"));
        }
        let (exit, decided) = {
            let store = self.store.as_deref().expect("it was opened above");
            let snapshot = store.snapshot()?;
            let kept = self.pass(&snapshot)?;
            self.tell(out, update.get(), snapshot.get())?;
            (self.account(out, snapshot.get(), &kept, true)?, kept.changes)
        };
        self.record(decided, now);
        let rejected = !update.get().rejected.is_empty() || !update.get().unsealed.is_empty();
        Ok(exit.and(Exit::findings(skipped || rejected)))
    }

    /// What one transaction did.
    fn tell(&self, out: &mut dyn Write, update: &Update, snapshot: &Snapshot) -> anyhow::Result<()> {
        if !self.checkpointing {
            return Ok(line(out, format_args!("would store: {}", contents(snapshot)))?);
        }
        let (stored, removed, unchanged) = (update.stored.len(), update.removed.len(), update.unchanged);
        line(out, format_args!("stored {stored} object{}, removed {removed}, {unchanged} unchanged", plural(stored)))?;
        Ok(line(out, format_args!("store {}", about(&self.path, snapshot)))?)
    }

    fn open(&mut self, loaded: &Loaded, keys: &Keys, now: u64) -> anyhow::Result<&mut dyn Backend> {
        if self.store.is_none() && !self.checkpointing {
            let node_name = self.node_name(&loaded.objects)?;
            self.store = Some(Box::new(in_memory(&node_name, now)?));
        }
        if self.store.is_none() {
            let has_secrets = loaded.objects.iter().any(|object| object.key.kind() == Kind::Secret);
            if self.run.once && keys.found.is_empty() && has_secrets && !self.path.exists() {
                let places: Vec<String> =
                    keys.absent.iter().chain(&keys.unusable).map(|path| path.display().to_string()).collect();
                bail!(
                    "no node key to encrypt Secrets with (looked at {}); name one with --node-key FILE, or try things out with --root DIR --generate-node-key",
                    places.join(", ")
                );
            }
            // What can be refused is refused before the file is opened for writing, which leaves traces in it.
            if self.locked {
                self.refuse_locked(open_offline(&self.path, &keys.secrets())?.get())?;
            }
            let node_name = match &self.stored_name {
                Some(name) => name.clone(),
                None => self.node_name(&loaded.objects)?,
            };
            refuse_other_nodes(&loaded.objects, &node_name)?;
            let authentic = self.settings.require_authentication;
            let store = Box::new(rebuilt::open(&self.path, &keys.secrets(), authentic, &node_name)?);
            let store = bootstrap::mirrored(store, self.bootstrap.as_ref())?;
            self.refuse_locked(store.snapshot()?.get())?;
            for source in keys.sources.iter().filter(|source| source.open_to_others) {
                say(format_args!("warning: key {} can be read by others; its mode should be 0600", source.name));
            }
            self.store = Some(store);
        }
        if self.checkpointing {
            self.keep_slots(keys, now)?;
        }
        let store = self.store.as_deref_mut().expect("it was opened above");
        refuse_other_nodes(&loaded.objects, &store.identity().node_name)?;
        Ok(store)
    }

    /// Gives the current keys their slots in the store, if it is open.
    fn keep_slots(&mut self, keys: &Keys, now: u64) -> anyhow::Result<()> {
        let Some(store) = &mut self.store else { return Ok(()) };
        match keep_slots(&mut **store, keys.at_hand(), self.run.slots(), &mut self.slots_told, now)? {
            Some(news @ (SlotNews::FirstKey | SlotNews::Changed { .. })) => say(format_args!("note: {news}")),
            Some(news @ SlotNews::NotKept(_)) => say(format_args!("warning: {news}")),
            None => {}
        }
        Ok(())
    }

    fn refuse_locked(&self, snapshot: &Snapshot) -> anyhow::Result<()> {
        if snapshot.lock_state() == LockState::Locked {
            bail!("cannot write to {}: {}", self.path.display(), why_closed(snapshot, &self.tried));
        }
        Ok(())
    }

    /// Whose pods these are: as told, else as the one Node or the pods in the source say, else the host's name.
    fn node_name(&self, objects: &[Object]) -> anyhow::Result<String> {
        let name = self.guess_node_name(objects)?;
        ObjectKey::new(Kind::Node, "", &name)
            .with_context(|| format!("{name:?} is no node's name; give --node-name"))?;
        Ok(name)
    }

    fn guess_node_name(&self, objects: &[Object]) -> anyhow::Result<String> {
        if let Some(name) = &self.run.translate.node_name {
            return Ok(name.clone());
        }
        if let Some(name) = manifests::node_name_of(objects) {
            return Ok(name);
        }
        let mut bound: Vec<String> =
            objects.iter().filter(|object| object.key.kind() == Kind::Pod).filter_map(manifests::bound_to).collect();
        bound.sort();
        bound.dedup();
        match bound.as_slice() {
            [] => {
                let name = rustix::system::uname();
                Ok(name.nodename().to_str().context("the host's name is not UTF-8; give --node-name")?.to_lowercase())
            }
            [one] => Ok(one.clone()),
            several => bail!(
                "the source has pods of {} nodes ({}); say with --node-name which one this is",
                several.len(),
                several.join(", ")
            ),
        }
    }

    /// Records what was decided. It is recomputed at the next start, so that a full disk costs nothing here.
    fn record(&mut self, decided: Vec<ckpt_db::store::Change>, now: u64) {
        let Some(store) = &mut self.store else { return };
        if let Err(error) = store.update(decided, now).map(Committed::into_inner) {
            say(format_args!("warning: what was decided could not be recorded: {}", chain(&error.into())));
            self.store = None;
        }
    }

    /// Tells what came of a pass.
    fn account(&self, out: &mut dyn Write, snapshot: &Snapshot, kept: &Kept, full: bool) -> anyhow::Result<Exit> {
        for finding in snapshot.findings() {
            say(format_args!("warning: {finding}"));
        }
        say_sealed(snapshot, &self.tried);
        // Asked for by hand, it always renders.
        let report = kept.report.clone().unwrap_or_default();
        let problems = report_problems(&report);
        if full {
            writeln!(out)?;
            verdicts::write(out, &kept.decision, |_| true)?;
            writeln!(out, "\n{}", verdicts::summary(&kept.decision, |_| true))?;
        }
        if full && self.checkpointing {
            for (what, path) in [
                ("static pod manifests", &self.target.roots.manifests),
                ("prepared manifests", &self.target.roots.prepared),
                ("Secret trees", &self.target.roots.secrets),
                ("ConfigMap trees", &self.target.roots.configmaps),
            ] {
                line(out, format_args!("{:<22}{}", format!("{what}:"), path.display()))?;
            }
        }
        if self.checkpointing {
            writeln!(out, "ready: {}", tally(&report))?;
        } else {
            writeln!(out, "nothing was stored or rendered: the feature gate Checkpointing is off")?;
        }
        out.flush()?;
        let sealed = snapshot.lock_state() == LockState::Locked;
        Ok(Exit::findings(problems || sealed || !snapshot.findings().is_empty()))
    }

    /// Follows the source until a signal says stop. Trouble with one pass is said, and the next one tries again.
    pub(super) fn follow(&mut self, source: &Path, mut follow: Follow, out: &mut dyn Write) -> anyhow::Result<Exit> {
        let input = Input::Path(source.to_owned());
        let interval = Duration::from_secs(self.run.file_check_frequency);
        let mut reloading = self.run.reloading(&self.keys, &self.target.roots, self.checkpointing);
        let (mut read, mut seen) = (false, None);
        let mut said = None;
        loop {
            let now = stamp(source).ok();
            let done = if !read || now != seen || self.store.is_none() || self.key_came()? {
                let done = self.store_and_render(&input, out);
                if done.is_ok() {
                    (read, seen) = (true, now.clone());
                }
                done.map(drop)
            } else {
                self.render_again()
            };
            match done {
                Ok(()) => said = None,
                Err(error) => {
                    self.failed(&error, (&mut said, now));
                    // Whatever is wrong with the source: files that someone changed are put right all the same.
                    if let Err(error) = self.render_again() {
                        say(format_args!("error: {}", chain(&error)));
                    }
                }
            }
            loop {
                ckpt_db::ops::log::flush();
                match follow.next(interval) {
                    Tick::Due => break,
                    Tick::Keys => {
                        let kept = self.keys().and_then(|keys| self.keep_slots(&keys, now_unix_ms()));
                        if let Err(error) = kept {
                            self.failed(&error, (&mut said, seen.clone()));
                        }
                        // A key may have come for which the store or the source waits.
                        if self.store.is_none() || self.key_came()? {
                            break;
                        }
                    }
                    Tick::Reload => {
                        // What is wrong with a file is said; the settings stay.
                        if let Ok(Some(in_force)) = reloading.again() {
                            self.renew(in_force);
                        }
                        read = false;
                        break;
                    }
                    // Nothing is removed: what runs from the rendered files goes on running.
                    Tick::Stop => return Ok(Exit::Fine),
                }
            }
        }
    }

    /// From the next pass on these settings hold.
    fn renew(&mut self, InForce { settings, rules, .. }: InForce) {
        self.settings = settings.clone();
        if let Some(keeper) = &mut self.keeper {
            // Who gives manifests asks for the copies.
            keeper.renew(Renewed { settings, rules: Rules { break_glass: true, ..rules } });
        }
    }

    /// Says what is wrong, once for each state of the source: it is tried again and again.
    fn failed(&mut self, error: &anyhow::Error, (said, seen): (&mut Option<(String, Option<Stamp>)>, Option<Stamp>)) {
        let news = Some((chain(error), seen));
        if *said != news {
            say(format_args!("error: {}", chain(error)));
            *said = news;
        }
        if is_store_failure(error) {
            // The handle may be of no use any more; the next pass opens the file anew, after checking it.
            self.store = None;
        }
    }

    /// Whether Secrets of a source that has not changed can be stored now.
    fn key_came(&mut self) -> anyhow::Result<bool> {
        Ok(self.keyless && !self.keys()?.found.is_empty())
    }

    /// Puts files right that someone else changed, and removes trees whose time has come.
    fn render_again(&mut self) -> anyhow::Result<()> {
        let Some(store) = &self.store else { return Ok(()) };
        let snapshot = store.snapshot()?;
        let kept = self.pass(&snapshot)?;
        report_problems(&kept.report.unwrap_or_default());
        Ok(())
    }
}

/// Whether the store itself failed, rather than refused what it was asked to do.
fn is_store_failure(error: &anyhow::Error) -> bool {
    error.chain().filter_map(|cause| cause.downcast_ref::<StoreError>()).any(|error| {
        !matches!(
            error,
            StoreError::EmptyListing { .. }
                | StoreError::OtherCluster { .. }
                | StoreError::OtherNode { .. }
                | StoreError::NoKeyOpens
                | StoreError::NoPublicKey
        )
    })
}

/// A source in which every pod is another node's is not this node's.
fn refuse_other_nodes(objects: &[Object], own: &str) -> anyhow::Result<()> {
    let pods = || objects.iter().filter(|object| object.key.kind() == Kind::Pod);
    let mut others: Vec<String> = pods().filter_map(manifests::bound_to).filter(|node| node != own).collect();
    if others.is_empty() || others.len() < pods().count() {
        return Ok(());
    }
    others.sort();
    others.dedup();
    bail!("nothing was stored: this is node {own}, and all pods of the source are bound to {}", others.join(", "))
}

fn read(input: &Input) -> anyhow::Result<Loaded> {
    manifests::read(input, &mut io::stdin().lock()).map_err(|error| {
        let is_empty = matches!(error, SourceError::Empty { .. });
        let said = chain(&anyhow::Error::new(error));
        let found = match input {
            Input::Path(path) => std::fs::metadata(path).ok(),
            Input::Stdin => None,
        };
        match found {
            Some(found) if found.file_type().is_fifo() => {
                anyhow!("{said}; a pipe is only read as standard input (--manifests - < PIPE)")
            }
            Some(found) if found.is_dir() && is_empty => anyhow!("{said}; its *.yaml, *.yml and *.json files are read"),
            Some(_) | None => anyhow!(said),
        }
    })
}
