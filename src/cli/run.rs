//! `ckpt-db run`: cold start from the store, then follow the source.

use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;

use ckpt_db::agent::{
    ColdStart, Follow, Ready, Rendered, Seeded, Target, Tick, cold_start, open_or_create, render, seed,
};
use ckpt_db::checkpoint::object::{Kind, Object};
use ckpt_db::checkpoint::settings::Settings;
use ckpt_db::crypto::generate_p256_pkcs8;
use ckpt_db::keys::write_generated;
use ckpt_db::materialize::{PodOutcome, Report};
use ckpt_db::source::manifests::{self, Input, Loaded};
use ckpt_db::source::stamp::stamp;
use ckpt_db::store::{Backend as _, Committed, LockState, RedbStore, Snapshot, StoreError, fingerprint};

use super::args::{Keys, StoreArgs, TargetArgs, TranslateArgs};
use super::dump::why_closed;
use super::{Exit, chain, node, now_unix_ms, say, verdicts};

/// Keep the node's pods: render what the store holds, then store what the source says and render that
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  ckpt-db run --once                            render everything from the store, with no source
  ckpt-db run --once --manifests DIR            store what DIR holds, then render it
  ckpt-db run --manifests DIR                   the same, and again when DIR changes (SIGHUP: at once)")]
pub(crate) struct Run {
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    translate: TranslateArgs,
    #[command(flatten)]
    target: TargetArgs,

    /// One pass, then exit
    #[arg(long)]
    once: bool,

    /// File or directory with the node's pods and their objects, YAML or JSON, or - for standard input
    ///
    /// It is the whole truth: what it no longer names is removed from the store. For example the output of 'kubectl get -o
    /// yaml'; pods bound to other nodes are left out.
    #[arg(long, value_name = "PATH")]
    manifests: Option<PathBuf>,

    /// Refuse the whole source if one document in it is bad
    #[arg(long, requires = "manifests")]
    strict: bool,

    /// How often the source is looked at again
    #[arg(long, value_name = "SECONDS", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..))]
    file_check_frequency: u64,

    /// Make a node key below --root, for trying things out; says what it is
    #[arg(long, requires = "root")]
    generate_node_key: bool,
}

impl Run {
    pub(crate) fn run(&self, out: &mut dyn Write) -> anyhow::Result<Exit> {
        if self.manifests.is_none() && !self.once {
            bail!(
                "following the API server is not built yet: give --manifests PATH, or --once to render from the store"
            );
        }
        let path = self.store.store()?;
        let target = self.target.target(&self.store)?;
        let settings = self.translate.settings(&target.roots)?;
        self.say_trial(&target);
        if self.generate_node_key {
            self.generate_key()?;
        }
        let mut pass = Pass { run: self, path, target, settings, store: None };
        let started = pass.cold_start(out)?;
        let Some(input) = self.input() else {
            return match started {
                Some(exit) => Ok(exit),
                None => {
                    bail!("there is no checkpoint store at {}; give --manifests PATH to make one", pass.path.display())
                }
            };
        };
        if self.once {
            return pass.store_and_render(&input, out);
        }
        pass.follow(&input, out)
    }

    fn input(&self) -> Option<Input> {
        self.manifests
            .as_ref()
            .map(|path| if path.as_os_str() == "-" { Input::Stdin } else { Input::Path(path.clone()) })
    }

    fn say_trial(&self, target: &Target) {
        if let Some(root) = &self.store.root {
            say(format_args!(
                "note: trial below {}: owners of files are not changed, and the secret root {} is a plain directory, not memory",
                root.display(),
                target.roots.secrets.display()
            ));
        }
    }

    fn generate_key(&self) -> anyhow::Result<()> {
        let path = self.store.layout()?.generated_key();
        match write_generated(&path, &generate_p256_pkcs8()?) {
            Ok(()) => say(format_args!(
                "note: made a node key at {}, for trying things out: whoever has this file and the store has the Secrets",
                path.display()
            )),
            // It was made by an earlier start.
            Err(ckpt_db::keys::KeyFileError::Exists(_)) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}

/// What stays the same from pass to pass.
struct Pass<'a> {
    run: &'a Run,
    path: PathBuf,
    target: Target,
    settings: Settings,
    /// Kept open by a resident agent: its lock keeps a second one out.
    store: Option<RedbStore>,
}

impl Pass<'_> {
    /// Renders from the store, if there is one. Contacts nothing.
    fn cold_start(&self, out: &mut dyn Write) -> anyhow::Result<Option<Exit>> {
        let keys = self.run.store.keys()?;
        let own_name = self.run.translate.node_name.as_deref();
        let network = node::network(&self.run.store.layout()?, &self.target);
        let now = now_unix_ms() / 1000;
        let started = cold_start(&self.path, &keys.secrets(), &self.settings, own_name, network, &self.target, now)?;
        let ready = match started {
            ColdStart::NoStore => return Ok(None),
            ColdStart::Ready(ready) => *ready,
        };
        let Ready { snapshot, rendered } = ready;
        if !snapshot.get().populated() && self.run.manifests.is_none() {
            bail!("the store {} was never filled; give --manifests PATH", self.path.display());
        }
        let rendered = rendered?;
        writeln!(out, "cold start from {}", about(&self.path, snapshot.get()))?;
        self.account(out, snapshot.get(), &rendered, self.run.manifests.is_none()).map(Some)
    }

    /// Stores what the source says, then renders from what is durable.
    fn store_and_render(&mut self, input: &Input, out: &mut dyn Write) -> anyhow::Result<Exit> {
        let loaded = manifests::read(input, &mut io::stdin().lock())?;
        for problem in &loaded.problems {
            say(format_args!("{problem}"));
        }
        let skipped = loaded.problems.iter().any(|problem| problem.severity == manifests::Severity::Skipped);
        if skipped && self.run.strict {
            bail!("nothing was stored: --strict refuses a source with bad documents");
        }
        let keys = self.run.store.keys()?;
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
        if !update.get().unsealed.is_empty() {
            say(format_args!(
                "note: {} Secrets were not stored: there is no node key yet",
                update.get().unsealed.len()
            ));
        }
        if !complete {
            say(format_args!("note: since documents were skipped, nothing was removed for not being in the source"));
        }
        let (exit, decided) = {
            let store = self.store.as_ref().expect("it was opened above");
            let snapshot = store.snapshot()?;
            let own_name = self.run.translate.node_name.as_deref();
            let network = node::network(&self.run.store.layout()?, &self.target);
            let rendered = render(&snapshot, &self.settings, own_name, network, &self.target, now / 1000)?;
            writeln!(
                out,
                "stored {} objects, removed {}, {} unchanged",
                update.get().stored.len(),
                update.get().removed.len(),
                update.get().unchanged
            )?;
            writeln!(out, "store {}", about(&self.path, snapshot.get()))?;
            (self.account(out, snapshot.get(), &rendered, true)?, rendered.decided)
        };
        self.record(decided, now);
        let rejected = !update.get().rejected.is_empty() || !update.get().unsealed.is_empty();
        Ok(exit.and(Exit::findings(skipped || rejected)))
    }

    fn open(&mut self, loaded: &Loaded, keys: &Keys, now: u64) -> anyhow::Result<&mut RedbStore> {
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
            let node_name = self.node_name(&loaded.objects)?;
            let opened = open_or_create(&self.path, &keys.secrets(), &node_name, now);
            let store = opened.map_err(|error| self.explain(error))?;
            if store.lock_state() == LockState::Locked {
                let snapshot = store.snapshot()?;
                bail!("cannot write to {}: {}", self.path.display(), why_closed(snapshot.get()));
            }
            for key in keys.found.iter().filter(|key| key.open_to_others) {
                say(format_args!(
                    "warning: node key {} can be read by others; its mode should be 0600",
                    key.source.display()
                ));
            }
            self.store = Some(store);
        }
        let store = self.store.as_mut().expect("it was opened above");
        if store.lock_state() == LockState::Keyless
            && let Some(key) = keys.found.iter().find(|key| fingerprint(&key.secret).is_some())
        {
            let _durable = store.add_first_key(&key.secret, now)?;
            say(format_args!("note: node key {} opens the store from now on", key.source.display()));
        }
        Ok(store)
    }

    /// Whose pods these are: as told, else as the one Node or the pods in the source say, else the host's name.
    fn node_name(&self, objects: &[Object]) -> anyhow::Result<String> {
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

    fn explain(&self, error: StoreError) -> anyhow::Error {
        let damage = error.is_damage();
        let error = anyhow::Error::new(error);
        if damage {
            let path = self.path.display();
            error.context(format!(
                "cannot write to the store; what still reads was rendered. Move {path} away to have it made anew from the source"
            ))
        } else {
            error
        }
    }

    /// Records what was decided. It is recomputed at the next start, so that a full disk costs nothing here.
    fn record(&mut self, decided: Vec<ckpt_db::store::Change>, now: u64) {
        let Some(store) = &mut self.store else { return };
        if let Err(error) = store.update(decided, now).map(Committed::into_inner) {
            say(format_args!("warning: what was decided could not be recorded: {}", chain(&error.into())));
        }
    }

    /// Tells what came of a pass.
    fn account(
        &self,
        out: &mut dyn Write,
        snapshot: &Snapshot,
        rendered: &Rendered,
        full: bool,
    ) -> anyhow::Result<Exit> {
        for finding in snapshot.findings() {
            say(format_args!("warning: {finding}"));
        }
        if snapshot.lock_state() == LockState::Locked {
            say(format_args!("warning: Secrets stay sealed: {}", why_closed(snapshot)));
        }
        let problems = report_problems(&rendered.report);
        if full {
            writeln!(out)?;
            verdicts::write(out, &rendered.decision, |_| true)?;
            writeln!(out, "\n{}", verdicts::summary(&rendered.decision))?;
            for (what, path) in [
                ("static pod manifests", &self.target.roots.manifests),
                ("prepared manifests", &self.target.roots.prepared),
                ("Secret trees", &self.target.roots.secrets),
                ("ConfigMap trees", &self.target.roots.configmaps),
            ] {
                writeln!(out, "{:<22}{}", format!("{what}:"), path.display())?;
            }
        }
        writeln!(out, "ready: {}", tally(&rendered.report))?;
        out.flush()?;
        let sealed = snapshot.lock_state() == LockState::Locked;
        Ok(Exit::findings(problems || sealed || !snapshot.findings().is_empty()))
    }

    /// Follows the source until a signal says stop. Trouble with one pass is said, and the next one tries again.
    fn follow(&mut self, input: &Input, out: &mut dyn Write) -> anyhow::Result<Exit> {
        let mut follow = Follow::new().context("cannot wait for signals")?;
        let interval = Duration::from_secs(self.run.file_check_frequency);
        let (mut read, mut seen) = (false, None);
        loop {
            // Standard input can be read once only; it is followed by what it said.
            let now = match input {
                Input::Stdin => None,
                Input::Path(path) => stamp(path).ok(),
            };
            if !read || (matches!(input, Input::Path(_)) && now != seen) {
                match self.store_and_render(input, out) {
                    Ok(_) => (read, seen) = (true, now),
                    Err(error) => say(format_args!("error: {}", chain(&error))),
                }
                out.flush()?;
            } else {
                self.render_again(out)?;
            }
            match follow.next(interval) {
                Tick::Due => {}
                Tick::Reload => read = false,
                // Nothing is removed: what runs from the rendered files goes on running.
                Tick::Stop => return Ok(Exit::Fine),
            }
        }
    }

    /// Puts files right that someone else changed, and removes trees whose time has come.
    fn render_again(&self, out: &mut dyn Write) -> anyhow::Result<()> {
        let Some(store) = &self.store else { return Ok(()) };
        let snapshot = store.snapshot()?;
        let own_name = self.run.translate.node_name.as_deref();
        let network = node::network(&self.run.store.layout()?, &self.target);
        let rendered = render(&snapshot, &self.settings, own_name, network, &self.target, now_unix_ms() / 1000)?;
        report_problems(&rendered.report);
        out.flush()?;
        Ok(())
    }
}

/// `FILE: revision 3, node edge-1, 9 pods, 4 ConfigMaps, 5 Secrets`
fn about(path: &std::path::Path, snapshot: &Snapshot) -> String {
    let mut text = format!("{}: revision {}", path.display(), snapshot.revision());
    if let Some(node) = snapshot.node_name() {
        text.push_str(&format!(", node {node}"));
    }
    for kind in Kind::ALL {
        let count = snapshot.objects().filter(|object| object.key.kind() == kind).count();
        if count > 0 {
            text.push_str(&format!(", {count} {kind}{}", if count == 1 { "" } else { "s" }));
        }
    }
    text
}

/// Says what went wrong with files; whether anything did.
pub(crate) fn report_problems(report: &Report) -> bool {
    let mut any = false;
    for (pod, outcome) in &report.outcomes {
        if let PodOutcome::Failed(error) = outcome {
            any = true;
            say(format_args!("error: Pod {pod} was not rendered: {}", chain(&anyhow::Error::new(error.clone()))));
        }
    }
    for problem in &report.problems {
        any = true;
        say(format_args!("warning: {}", chain(&anyhow::Error::new(problem.clone()))));
    }
    any
}

fn tally(report: &Report) -> String {
    let failed = report.outcomes.iter().filter(|(_, outcome)| outcome.is_failure()).count();
    let mut text = format!("{} pods rendered", report.outcomes.len() - failed);
    for (count, what) in
        [(failed, "failed"), (report.removed.len(), "removed"), (report.waiting.len(), "trees wait to be removed")]
    {
        if count > 0 {
            text.push_str(&format!(", {count} {what}"));
        }
    }
    text
}
