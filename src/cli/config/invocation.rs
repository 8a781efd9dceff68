//! The command line with the configuration file below it: what the file sets is the default value of an option.
//!
//! So a value is taken from the option, else from the environment, else from the file, else it is the built-in one; and each
//! command takes of a file what it has an option for.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{ArgMatches, Args as _, CommandFactory as _, FromArgMatches as _};

use ckpt_db::layout::Layout;

use super::last_good::LastGood;
use super::reload::Reload;
use super::settings::{ConfigError, Settings};
use crate::cli::run::Run;
use crate::cli::{Cli, Command, say};

/// The arguments of this process. They are read again at a reload, over a file that may have changed.
#[derive(Clone, Debug)]
pub(crate) struct Invocation(Vec<OsString>);

/// Why no command can be carried out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    /// The arguments are wrong; or help was asked for.
    #[error(transparent)]
    Arguments(#[from] clap::Error),
    /// The file is.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

impl Invocation {
    /// Of this process.
    pub(crate) fn of_process() -> Self {
        Self(std::env::args_os().collect())
    }

    /// What is to be done, with which settings. An agent that stays makes do with those that held last where its file is
    /// wrong: it may be the power cut that has made it so, and what the node ran has to come back.
    ///
    /// # Errors
    /// [`Refused`]. The commands that only ask the agent make do without a file that is wrong, and say so.
    pub(crate) fn parse(&self) -> Result<Cli, Refused> {
        self.read(true)
    }

    /// The same for a process that has its settings, and keeps them where the file is wrong.
    ///
    /// # Errors
    /// [`Refused`].
    pub(super) fn again(&self) -> Result<Cli, Refused> {
        self.read(false)
    }

    fn read(&self, begins: bool) -> Result<Cli, Refused> {
        let matches = Cli::command().try_get_matches_from(&self.0)?;
        let chosen = leaf(&matches);
        let Some(file) = File::of(chosen) else { return Ok(Cli::from_arg_matches(&matches)?) };
        let last_good = LastGood::below(&file.root);
        let (settings, instead_of) = match Settings::read(&file.path, &run_options(), &file.root) {
            Ok(settings) => (settings, None),
            Err(ConfigError::Unreadable { error, .. }) if !file.named && error.is_absent() => {
                return Ok(self.with(&Settings::default(), &matches, None)?);
            }
            Err(error) if begins && stays(&matches) => match last_good.read(&run_options()) {
                Some(settings) => {
                    (settings, Some(InsteadOf { wrong: error.lines(), path: last_good.path().to_owned() }))
                }
                None => return Err(error.into()),
            },
            Err(error) if chosen.try_contains_id("store").is_err() => {
                error.lines().iter().for_each(|line| say(format_args!("warning: {line}")));
                return Ok(Cli::from_arg_matches(&matches)?);
            }
            Err(error) => return Err(error.into()),
        };
        let matches = under(Cli::command(), &settings).try_get_matches_from(&self.0)?;
        Ok(self.with(&settings, &matches, instead_of)?)
    }

    /// With what no option has a default value for.
    fn with(
        &self,
        settings: &Settings,
        matches: &ArgMatches,
        instead_of: Option<InsteadOf>,
    ) -> Result<Cli, clap::Error> {
        let mut cli = Cli::from_arg_matches(matches)?;
        if let Command::Run(run) = &mut cli.command {
            run.configured(Reload::new(self.clone(), leaf(matches), settings, instead_of), settings.gates());
        }
        Ok(cli)
    }
}

/// What an agent has begun with although its file is wrong.
#[derive(Clone, Debug)]
pub(crate) struct InsteadOf {
    /// All that is wrong with the file, a line each; at least one.
    pub(crate) wrong: Vec<String>,
    /// Where the settings come from.
    pub(crate) path: PathBuf,
}

/// The file that a command reads its settings from.
struct File {
    path: PathBuf,
    /// Whether somebody named it: then it has to be there.
    named: bool,
    /// What its paths are below.
    root: PathBuf,
}

impl File {
    /// `None`: the command has no settings.
    fn of(matches: &ArgMatches) -> Option<Self> {
        matches.try_contains_id("config").ok()?;
        let (root, named) = (root(matches), path(matches, "config"));
        Some(Self { named: named.is_some(), path: named.unwrap_or_else(|| Layout::new(&root).config()), root })
    }
}

fn path(matches: &ArgMatches, option: &str) -> Option<PathBuf> {
    matches.try_get_one::<PathBuf>(option).ok().flatten().cloned()
}

/// What paths are below.
pub(super) fn root(matches: &ArgMatches) -> PathBuf {
    let root = path(matches, "root").unwrap_or_else(|| "/".into());
    // What can't be made absolute is refused by whoever uses it.
    std::path::absolute(&root).unwrap_or(root)
}

/// Whether this is an agent that stays, and nobody waits for its answer.
fn stays(matches: &ArgMatches) -> bool {
    matches.subcommand().is_some_and(|(name, run)| name == "run" && !run.get_flag("once"))
}

/// The matches of the command that was chosen.
fn leaf(matches: &ArgMatches) -> &ArgMatches {
    matches.subcommand().map_or(matches, |(_, matches)| leaf(matches))
}

/// The options of `ckpt-db run`, which the fields of a file stand for.
pub(super) fn run_options() -> clap::Command {
    Run::augment_args(clap::Command::new("run").no_binary_name(false))
}

/// The command, and those below it, with the settings as default values.
pub(super) fn under(command: clap::Command, settings: &Settings) -> clap::Command {
    let has = |name: &str| command.get_arguments().any(|argument| argument.get_long() == Some(name));
    // Where an option says what to add, what opens the store has another name.
    let name_of = |option: &str| {
        let with = format!("with-{option}");
        if has(&with) { with } else { option.to_owned() }
    };
    let options: Vec<(String, &Vec<OsString>)> =
        settings.options().iter().map(|(option, values)| (name_of(option), values)).collect();
    let command = command.mut_args(|argument| {
        let values = options.iter().find(|(option, _)| argument.get_long() == Some(option));
        match values {
            Some((_, values)) => argument.default_values(values.iter()),
            None => argument,
        }
    });
    command.mut_subcommands(|command| under(command, settings))
}
