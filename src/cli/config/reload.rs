//! A reload: the file is read again, and what differs is told apart by whether it takes a restart.

use std::ffi::OsString;

use clap::ArgMatches;

use super::fields::{Change, FIELDS, Field, Shape};
use super::invocation::{Invocation, Refused};
use super::settings::Settings;
use crate::cli::Command;
use crate::cli::run::Run;

/// How a process was started, and which values are in force in it.
#[derive(Clone, Debug)]
pub(crate) struct Reload {
    invocation: Invocation,
    in_force: Effective,
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
    pub(super) fn new(invocation: Invocation, matches: &ArgMatches, settings: &Settings) -> Self {
        Self { invocation, in_force: Effective::of(matches, settings) }
    }

    /// Reads the file again.
    ///
    /// # Errors
    /// [`Refused`]; what is in force stays.
    pub(crate) fn again(&mut self) -> Result<Option<Read>, Refused> {
        let Command::Run(run) = self.invocation.parse()?.command else { return Ok(None) };
        let Some(read) = run.reload() else { return Ok(None) };
        let now = read.in_force.clone();
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
