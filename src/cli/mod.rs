//! The command line: parse, dispatch, and the one place that prints errors and chooses the exit code.

mod adopt;
mod args;
mod backup;
mod bootstrap;
mod completion;
mod config;
mod diff;
mod dump;
mod env_file;
mod export;
mod follow;
mod gates;
mod hold;
mod import;
mod keeping;
mod key;
mod key_look;
mod log;
mod logging;
mod metrics;
mod node;
mod open;
mod output;
#[cfg(test)]
mod pages;
mod plan;
mod progress;
mod prompt;
mod rebuilt;
mod redact;
#[cfg(test)]
mod reference;
mod render;
mod report;
mod restore;
mod run;
mod status;
mod table;
mod uninstall;
mod unlock;
mod verdicts;
mod verify;
mod whose;

use std::io::{self, IsTerminal as _, Write};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use ckpt_db::agent::is_full;
use ckpt_db::ops;
use ckpt_db::ops::log::{Severity, line};
use clap::{Parser, Subcommand};

use self::config::{Invocation, Refused};

/// `EX_USAGE` of sysexits(3).
const USAGE: u8 = 64;

/// Exit codes; also in `--help` and README.
const EXIT_CODES: &str = "\
Exit codes:
  0   fine
  1   done, with findings (see the output)
  2   could not be done
  64  wrong usage";

/// Keep a Kubernetes node's pods across a power cut, with no API server
///
/// Every pod of the node, and every ConfigMap and Secret it names, is kept in one encrypted, transactional file. After a
/// reboot static pod manifests are rendered from that file alone.
#[derive(Debug, Parser)]
#[command(name = "ckpt-db", version, after_help = EXIT_CODES, after_long_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(Box<run::Run>),
    Status(status::StatusCommand),
    Log(log::Log),
    Hold(hold::Hold),
    Release(hold::Release),
    Dump(dump::Dump),
    Plan(plan::PlanCommand),
    Diff(diff::Diff),
    Render(render::Render),
    Verify(verify::Verify),
    Backup(backup::Backup),
    Restore(restore::Restore),
    Export(export::Export),
    Import(import::Import),
    Key(key::KeyCommand),
    Adopt(adopt::Adopt),
    Config(config::ConfigCommand),
    Uninstall(uninstall::Uninstall),
    Completion(completion::Completion),
    /// Not for people: its arguments stand in manifests.
    #[command(hide = true)]
    EnvFile(env_file::EnvFile),
}

/// How a command ended that could be carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Nothing to report.
    Fine,
    /// It was done, and something is not as it should be.
    Findings,
    /// It could not be done; why is printed already.
    Failed,
}

impl Exit {
    fn findings(any: bool) -> Self {
        if any { Self::Findings } else { Self::Fine }
    }

    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Failed, _) | (_, Self::Failed) => Self::Failed,
            (Self::Findings, _) | (_, Self::Findings) => Self::Findings,
            (Self::Fine, Self::Fine) => Self::Fine,
        }
    }
}

/// Parses the arguments, runs the command, prints what failed.
pub(crate) fn main() -> ExitCode {
    let cli = match Invocation::of_process().parse() {
        Ok(cli) => cli,
        Err(Refused::Arguments(error)) => {
            // Help and version are answers, not errors.
            let code = if error.use_stderr() { USAGE } else { 0 };
            let _ = error.print();
            return ExitCode::from(code);
        }
        Err(Refused::Config(error)) => {
            error.lines().iter().for_each(|line| say(format_args!("error: {line}")));
            return ExitCode::from(2);
        }
    };
    let mut out = io::BufWriter::new(io::stdout().lock());
    let result = match cli.command {
        Command::Run(command) => command.run(&mut out),
        Command::Status(command) => command.run(&mut out),
        Command::Log(command) => command.run(&mut out),
        Command::Hold(command) => command.run(&mut out),
        Command::Release(command) => command.run(&mut out),
        Command::Dump(command) => command.run(&mut out),
        Command::Plan(command) => command.run(&mut out),
        Command::Diff(command) => command.run(&mut out),
        Command::Render(command) => command.run(&mut out),
        Command::Verify(command) => command.run(&mut out),
        Command::Backup(command) => command.run(&mut out),
        Command::Restore(command) => command.run(&mut out),
        Command::Export(command) => command.run(&mut out),
        Command::Import(command) => command.run(&mut out),
        Command::Key(command) => command.run(&mut out),
        Command::Adopt(command) => command.run(&mut out),
        Command::Config(command) => command.run(&mut out),
        Command::Uninstall(command) => command.run(&mut out),
        Command::Completion(command) => command.run(&mut out),
        Command::EnvFile(command) => command.run(),
    };
    let result = result.and_then(|exit| {
        out.flush()?;
        Ok(exit)
    });
    let code = end(result);
    ops::log::flush_all();
    code
}

/// Says what failed, and chooses the exit code.
fn end(result: anyhow::Result<Exit>) -> ExitCode {
    match result {
        Ok(Exit::Fine) => ExitCode::SUCCESS,
        Ok(Exit::Findings) => ExitCode::from(1),
        Ok(Exit::Failed) => ExitCode::from(2),
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) if error.is::<clap::Error>() => {
            say(format_args!("error: {}", error.root_cause().to_string().trim_start_matches("error: ").trim_end()));
            ExitCode::from(USAGE)
        }
        Err(error) => {
            say(format_args!("error: {}", chain(&error)));
            ExitCode::from(2)
        }
    }
}

/// Arguments that do not go together in a way that the parser can't tell.
pub(crate) fn usage(message: &str) -> anyhow::Error {
    clap::Error::raw(clap::error::ErrorKind::ArgumentConflict, message).into()
}

/// The reader of a pipe has seen enough; that is no failure of ours.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .any(|cause| cause.downcast_ref::<io::Error>().is_some_and(|cause| cause.kind() == io::ErrorKind::BrokenPipe))
}

/// An error and its causes on one line, fit for a terminal.
pub(crate) fn chain(error: &anyhow::Error) -> String {
    chain_of(&**error)
}

/// The same of a typed error.
pub(crate) fn chain_of(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = String::new();
    for cause in std::iter::successors(Some(error), |error| error.source()) {
        let cause = cause.to_string();
        // Wrappers that repeat their cause say nothing new.
        if !text.ends_with(&cause) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&cause);
        }
    }
    if is_full(error) {
        text.push_str("; make room there");
    }
    output::printable(&text)
}

/// One line to standard error, or to the log if there is one; when nobody reads it there is nobody to tell.
pub(crate) fn say(said: std::fmt::Arguments<'_>) {
    let said = said.to_string();
    if ops::log::is_installed() {
        ops::log::say(&said);
        return;
    }
    let (severity, text) = Severity::split(&said);
    let begun = line::begun(severity, output::may_colour(io::stderr().is_terminal()));
    let _ = writeln!(io::stderr(), "{begun}{}", output::printable(text));
}

/// The wall clock, read here and handed down.
pub(crate) fn now_unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
