//! Tells in a line whatever a round changes, and a commit.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ckpt_db::agent::{Kept, PassError, Watcher};
use ckpt_db::checkpoint::lifecycle::{Record, State};
use ckpt_db::checkpoint::look::Boot;
use ckpt_db::checkpoint::node::Fact;
use ckpt_db::ops::log::{self, Severity, events};
use ckpt_db::store::{Snapshot, StoreError, Update};

use crate::cli::output::plural;
use crate::cli::report::problems;
use crate::cli::{chain_of, say};

/// Tells what rounds come to: what changed with a pod, once, and what went wrong, once.
#[derive(Default)]
pub(super) struct Teller {
    /// What was wrong at the last round, already told.
    problems: BTreeSet<String>,
    /// Those of files, as of the last round that touched any.
    files: BTreeSet<String>,
    runtime_unknown: bool,
    /// Not under the policy `off`: then nothing depends on what runs.
    rendering: Arc<AtomicBool>,
}

impl Teller {
    /// Has told nothing. `rendering`: whether the policy is another than `off`.
    pub(super) fn new(rendering: Arc<AtomicBool>) -> Self {
        Self { rendering, ..Self::default() }
    }

    /// Tells what was not wrong a round ago.
    fn tell(&mut self, problems: BTreeSet<String>) {
        for problem in problems.difference(&self.problems) {
            match Severity::split(problem) {
                (Severity::Error, problem) => tracing::error!(name: events::PROBLEM, "{problem}"),
                (_, problem) => tracing::warn!(name: events::PROBLEM, "{problem}"),
            }
        }
        self.problems = problems;
    }
}

impl Watcher for Teller {
    fn kept(&mut self, kept: &Kept, snapshot: &Snapshot) {
        log::flush();
        let revision = snapshot.revision().0;
        for news in &kept.news {
            let Record { pod, uid, state, why, .. } = news;
            let (state, done) = (state.code(), said(*state));
            tracing::info!(
                name: events::CHECKPOINT_STATE, %pod, uid, revision, state, cause = why, "{pod}: {done} ({why})"
            );
        }
        for (pod, uid) in &kept.ended {
            let cause = "its parent is gone, and the grace period is over";
            tracing::info!(name: events::CHECKPOINT_ENDED, %pod, uid, revision, cause, "{pod}: removed ({cause})");
        }
        if let Some(report) = &kept.report {
            self.files = problems(report);
            let rendered = report.outcomes.len();
            tracing::info!(revision, "{rendered} pod{} rendered", plural(rendered));
        }
        let mut problems = self.files.clone();
        problems.extend(kept.alarms.iter().map(|alarm| format!("warning: {alarm}")));
        problems.extend(kept.left_over.iter().map(|left_over| format!("warning: {left_over}")));
        problems.extend(snapshot.findings().iter().map(|finding| format!("warning: {finding}")));
        match &kept.look.runtime {
            Fact::Known(_) => self.runtime_unknown = false,
            // Nothing can run yet, and that is enough to start copies.
            Fact::Unknown(_) if kept.look.boot == Fact::Known(Boot::New { kubelet_ran: false }) => {}
            Fact::Unknown(why) if self.rendering.load(Ordering::Relaxed) && !self.runtime_unknown => {
                say(format_args!("warning: nobody knows what runs here, so no copy is started: {why}"));
                self.runtime_unknown = true;
            }
            Fact::Unknown(_) => {}
        }
        self.tell(problems);
    }

    fn failed(&mut self, error: &PassError) {
        self.tell(BTreeSet::from([format!("error: {}", chain_of(error))]));
    }

    fn recorded(&mut self, update: &Update) {
        committed(update);
    }

    fn not_recorded(&mut self, error: &StoreError) {
        self.tell(BTreeSet::from([format!("warning: what was decided could not be recorded: {}", chain_of(error))]));
    }
}

/// One line a commit, for whoever wants to see them.
pub(super) fn committed(update: &Update) {
    let (stored, removed) = (update.stored.len(), update.removed.len());
    if stored + removed > 0 {
        tracing::info!(revision = update.revision.0, stored, removed, "committed");
        for object in &update.stored {
            tracing::debug!(revision = update.revision.0, %object, "stored");
        }
        for object in &update.removed {
            tracing::debug!(revision = update.revision.0, %object, "removed");
        }
    }
}

/// A state in the words of a log line.
fn said(state: State) -> &'static str {
    match state {
        State::None | State::Inactive => "no copy runs",
        State::InactiveGrace { .. } => "no copy runs; kept for the grace period",
        State::Active => "copy started",
        State::ActiveGrace { .. } => "copy runs on for the grace period",
        State::HandedOver { .. } => "copy removed",
        State::SelfActive => "copy of this agent started",
        State::Removed => "removed",
    }
}
