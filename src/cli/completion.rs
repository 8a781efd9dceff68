//! `ckpt-db completion`: scripts with which shells complete commands and options.

use std::io::Write;

use clap::{Args, CommandFactory as _, ValueEnum};
use clap_complete::aot::{Shell, generate};

use super::{Cli, Exit};

/// Print a script with which a shell completes commands and options
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  source <(ckpt-db completion bash)                                         in this shell
  ckpt-db completion bash > /etc/bash_completion.d/ckpt-db                  for all, in each new one
  ckpt-db completion zsh > \"${fpath[1]}/_ckpt-db\"
  ckpt-db completion fish > ~/.config/fish/completions/ckpt-db.fish")]
pub(crate) struct Completion {
    /// The shell
    #[arg(value_enum)]
    shell: ShellArg,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ShellArg {
    Bash,
    Zsh,
    Fish,
    #[value(name = "powershell")]
    PowerShell,
}

impl Completion {
    pub(crate) fn run(&self, out: &mut dyn Write) -> anyhow::Result<Exit> {
        let shell = match self.shell {
            ShellArg::Bash => Shell::Bash,
            ShellArg::Zsh => Shell::Zsh,
            ShellArg::Fish => Shell::Fish,
            ShellArg::PowerShell => Shell::PowerShell,
        };
        // What it writes to ends the program when it fails, and a closed pipe is no failure.
        let mut script = Vec::new();
        generate(shell, &mut Cli::command(), "ckpt-db", &mut script);
        out.write_all(&script)?;
        Ok(Exit::Fine)
    }
}
