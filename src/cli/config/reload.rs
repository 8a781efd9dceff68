//! A reload: the file is read again, and what differs is told apart by whether it takes a restart.

use std::ffi::OsString;

use clap::ArgMatches;

use super::fields::{Change, FIELDS, Field, Shape};
use super::invocation::{InsteadOf, Invocation, Refused, root};
use super::last_good::LastGood;
use super::settings::Settings;
use crate::cli::Command;
use crate::cli::run::Run;

/// How a process was started, and which values are in force in it.
#[derive(Clone, Debug)]
pub(crate) struct Reload {
    invocation: Invocation,
    in_force: Effective,
    /// The file that says so; `None` without one.
    text: Option<String>,
    /// Whether another file should, but is wrong.
    instead_of: Option<InsteadOf>,
    last_good: LastGood,
}

/// What was read.
pub(crate) struct Read {
    /// The options, with what the file sets below them.
    pub(crate) run: Box<Run>,
    /// Fields with another value than what was in force, which now are.
    pub(crate) changed: Vec<&'static str>,
    /// Fields with another value than what is in force, and stays so.
    pub(crate) restart: Vec<&'static str>,
}

impl Reload {
    pub(super) fn new(
        invocation: Invocation,
        matches: &ArgMatches,
        settings: &Settings,
        instead_of: Option<InsteadOf>,
    ) -> Self {
        Self {
            invocation,
            in_force: Effective::of(matches, settings),
            text: settings.text().map(str::to_owned),
            instead_of,
            last_good: LastGood::below(&root(matches)),
        }
    }

    /// What is wrong with the file, where the process has begun with other settings.
    pub(crate) fn instead_of(&self) -> Option<&InsteadOf> {
        self.instead_of.as_ref()
    }

    /// What was read is in force: a start that finds the file wrong begins with it.
    pub(crate) fn keep(&self) {
        if let Err(error) = self.last_good.keep(self.text.as_deref()) {
            // A help and no promise: on a disk that is read-only the one of before is as good.
            tracing::info!("cannot keep a copy of the settings at {}: {error}", self.last_good.path().display());
        }
    }

    /// Reads the file again.
    ///
    /// # Errors
    /// [`Refused`]; what is in force stays.
    pub(crate) fn again(&mut self) -> Result<Option<Read>, Refused> {
        let Command::Run(run) = self.invocation.again()?.command else { return Ok(None) };
        let Some(read) = run.reload() else { return Ok(None) };
        let now = read.in_force.clone();
        self.text.clone_from(&read.text);
        self.instead_of = None;
        let (mut changed, mut restart) = (Vec::new(), Vec::new());
        for ((field, was), (_, is)) in self.in_force.0.iter_mut().zip(now.0) {
            match (*was == is, field.change) {
                (true, _) => {}
                (false, Change::Restart) => restart.push(field.name),
                (false, Change::Reload) => {
                    changed.push(field.name);
                    *was = is;
                }
            }
        }
        Ok(Some(Read { run, changed, restart }))
    }
}

/// The values of every field.
#[derive(Clone, Debug)]
struct Effective(Vec<(&'static Field, Vec<OsString>)>);

impl Effective {
    fn of(matches: &ArgMatches, settings: &Settings) -> Self {
        let values = |field: &'static Field| {
            // The names that options have in the program.
            let id = field.option.replace('-', "_");
            let raw = matches.try_get_raw(&id).ok().flatten().unwrap_or_default();
            let mut values: Vec<OsString> = raw.map(OsString::from).collect();
            if field.shape == Shape::Gates {
                // They are merged under the option.
                values.extend(settings.gates().iter().map(|(gate, on)| format!("{gate}={on}").into()));
            }
            (field, values)
        };
        Self(FIELDS.iter().map(values).collect())
    }
}
