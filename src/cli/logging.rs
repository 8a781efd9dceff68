//! `--logging-format`, `--v` and `--vmodule`, named as Kubernetes' components name them.

use std::io::IsTerminal as _;

use clap::{Args, ValueEnum};

use ckpt_db::ops::log::levels;
use ckpt_db::ops::log::{self, Form, Levels};
use ckpt_db::source::api::may_be_logged;

use super::output::may_colour;

/// How the log on standard error is written. What is not given is as the configuration says, or as by default.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Logging")]
pub(crate) struct LogArgs {
    /// Form of the log on standard error [default: text]
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub(crate) logging_format: Option<FormatArg>,

    /// How much is said: 0 what changes and what is wrong, 2 each commit, 4 for debugging, 6 everything [default: 0]
    ///
    /// What libraries say below a warning, and values of Secrets, are never said. Without --v and --vmodule RUST_LOG counts
    /// (ckpt_db::source=debug).
    #[arg(short, long, value_name = "LEVEL", value_parser = clap::value_parser!(u8).range(0..=10))]
    pub(crate) v: Option<u8>,

    /// The same for single modules: source=4,store=2
    ///
    /// Modules are agent, cli, keys, materialize, node, ops, source and store, and what lies below them (source::api=6).
    #[arg(long, value_name = "MODULE=LEVEL,...", value_delimiter = ',', value_parser = levels::module)]
    pub(crate) vmodule: Option<Vec<(String, u8)>>,
}

/// The form of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum FormatArg {
    /// For people; lines begin with error:, warning: or note:
    Text,
    /// One object a line, with a time
    Json,
}

impl LogArgs {
    /// What is said, as these options, else `RUST_LOG`, else the default say it.
    pub(crate) fn levels(&self) -> Levels {
        if self.v.is_none() && self.vmodule.is_none() {
            let asked = std::env::var("RUST_LOG").ok().filter(|asked| !asked.is_empty());
            if let Some(levels) = asked.and_then(|asked| Levels::from_rust_log(&asked)) {
                return levels;
            }
        }
        Levels::new(self.v.unwrap_or_default(), self.vmodule.as_deref().unwrap_or_default())
    }

    /// Begins the log: from now on [`super::say`] writes to it.
    pub(crate) fn begin(&self) {
        let journal = log::is_journal(std::env::var("JOURNAL_STREAM").ok().as_deref());
        let settings = log::Settings {
            form: match self.logging_format.unwrap_or(FormatArg::Text) {
                FormatArg::Text => Form::Text,
                FormatArg::Json => Form::Json,
            },
            levels: self.levels(),
            priorities: journal,
            colour: may_colour(std::io::stderr().is_terminal()),
        };
        log::install(settings, may_be_logged);
    }
}
