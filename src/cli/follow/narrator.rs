//! Tells, in a line each, what following the API server comes to: once, however often it comes again.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use ckpt_db::agent::{Batch, Look, Observer, SlotNews, Status};
use ckpt_db::ops::log::events;
use ckpt_db::source::api::collect::Step;
use ckpt_db::source::api::feed::{Note, Told};
use ckpt_db::source::api::reach::Reach;
use ckpt_db::store::Committed;

use super::teller::committed;
use crate::cli::report::about;
use crate::cli::{chain, say};

/// Objects that can't be read are named one by one, but not hundreds of them.
const NAMED_AT_ONCE: usize = 5;

/// So many things that were said once are remembered, not to be said again.
const REMEMBERED_MAX: usize = 1000;

/// After this long a few more are named.
const NAMED_AGAIN: Duration = Duration::from_secs(60);

/// Tells what following comes to.
pub(super) struct Narrator<'a> {
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

impl<'a> Narrator<'a> {
    /// Has told nothing. `path`: where the store is, as it is shown.
    pub(super) fn new(interrupted: &'a Mutex<Option<Interruption>>, path: PathBuf) -> Self {
        Self {
            interrupted,
            path,
            answering: false,
            listed: false,
            unsealed: BTreeSet::new(),
            problems: BTreeSet::new(),
            outage: Outage::default(),
            named: (Instant::now(), 0),
        }
    }
}

/// What following ended with.
pub(super) struct Interruption {
    pub(super) why: String,
    /// Whether the store failed, rather than what was to be stored in it.
    pub(super) by_the_store: bool,
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
