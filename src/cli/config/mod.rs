//! `ckpt-db config`, and the configuration file: a `CheckpointerConfiguration` in the manner of Kubernetes' component
//! configuration.

mod document;
mod fields;
mod invocation;
mod last_good;
mod reload;
mod settings;
#[cfg(test)]
mod tests;
mod text;

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use ckpt_db::layout::Layout;

pub(crate) use self::invocation::{InsteadOf, Invocation, Refused};
pub(crate) use self::reload::Reload;
use self::settings::{ConfigError, Settings};
use super::output::line;
use super::{Exit, say};

/// Check the configuration file, or show the default settings
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  ckpt-db config check                          the file that the agent reads
  ckpt-db config check new.yaml                 another one, before it takes its place
  ckpt-db config defaults --comments            a sample, with what each field is for")]
pub(crate) struct ConfigCommand {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    Check(Check),
    Defaults(Defaults),
}

/// Say all that is wrong with a configuration file, each with its line
#[derive(Args, Debug)]
#[command(
    after_help = "Exit code 1 means that something is wrong: an agent that runs keeps the settings that it has, and one that \
                        starts takes those that held last.

Examples:
  ckpt-db config check                          the file that the agent reads
  ckpt-db config check new.yaml                 another one, before it takes its place"
)]
struct Check {
    /// Directory that all default paths, and those in the file, are below [default: /]
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,

    /// The file [default: /etc/ckpt-db/config.yaml below --root]
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
}

/// Print the settings that hold where nothing else is said, as a configuration file
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  ckpt-db config defaults                       what holds without a file
  ckpt-db config defaults --comments            a sample, with what each field is for")]
struct Defaults {
    /// Directory that all default paths are below [default: /]
    #[arg(long, value_name = "DIR", conflicts_with = "comments")]
    root: Option<PathBuf>,

    /// Every field, commented out, with what it is for
    #[arg(long)]
    comments: bool,
}

impl ConfigCommand {
    pub(crate) fn run(&self, out: &mut dyn Write) -> anyhow::Result<Exit> {
        match &self.what {
            What::Check(check) => check.run(out),
            What::Defaults(defaults) => defaults.run(out),
        }
    }
}

impl Check {
    fn run(&self, out: &mut dyn Write) -> anyhow::Result<Exit> {
        let root = self.root.as_deref().unwrap_or(Path::new("/"));
        let path = self.file.clone().unwrap_or_else(|| Layout::new(root).config());
        match Settings::read(&path, &invocation::run_options(), root) {
            Ok(settings) => {
                let at_odds = settings.at_odds();
                at_odds.iter().for_each(|problem| say(format_args!("error: {}", problem.at(&path))));
                if at_odds.is_empty() {
                    line(out, format_args!("{}: nothing is wrong", path.display()))?;
                }
                Ok(Exit::findings(!at_odds.is_empty()))
            }
            Err(ConfigError::Unreadable { error, .. }) if self.file.is_none() && error.is_absent() => {
                line(out, format_args!("{}: there is none, and the default settings hold", path.display()))?;
                Ok(Exit::Fine)
            }
            Err(error) => {
                error.lines().iter().for_each(|line| say(format_args!("error: {line}")));
                Ok(match error {
                    ConfigError::Unreadable { .. } => Exit::Failed,
                    ConfigError::Wrong { .. } => Exit::Findings,
                })
            }
        }
    }
}

impl Defaults {
    fn run(&self, out: &mut dyn Write) -> anyhow::Result<Exit> {
        let text = match self.comments {
            true => text::sample(),
            false => text::defaults(self.root.as_deref().unwrap_or(Path::new("/"))),
        };
        out.write_all(text.as_bytes())?;
        Ok(Exit::Fine)
    }
}
