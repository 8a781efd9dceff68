//! What is written elsewhere about the command line, compared with it; `SNAPSHOTS=overwrite` writes it.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use clap::CommandFactory as _;

use super::Cli;

/// Compares a file of this repository with what it should be.
pub(crate) fn same(path: &str, want: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    let found = fs::read_to_string(&file).unwrap_or_default();
    if found == want {
        return;
    }
    if std::env::var("SNAPSHOTS").is_ok_and(|what| what == "overwrite") {
        fs::write(&file, want).unwrap();
        return;
    }
    let differs = found.lines().zip(want.lines()).enumerate().find(|(_, (found, want))| found != want);
    let (at, lines) = differs.map_or((0, ("", "")), |(at, lines)| (at + 1, lines));
    panic!(
        "{path} is not what the program says, from line {at} on:\n- {}\n+ {}\nSNAPSHOTS=overwrite writes it",
        lines.0, lines.1
    );
}

/// The same of what stands between `<!-- generated: NAME -->` and `<!-- end: NAME -->`.
pub(crate) fn same_between(path: &str, name: &str, want: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    let text = fs::read_to_string(&file).unwrap();
    let (begin, end) = (format!("<!-- generated: {name} -->\n"), format!("<!-- end: {name} -->\n"));
    let (before, rest) = text.split_once(&begin).unwrap();
    let (_, after) = rest.split_once(&end).unwrap();
    same(path, &format!("{before}{begin}\n{want}\n{end}{after}"));
}

#[test]
fn the_reference_of_commands_is_true() {
    let mut text = String::new();
    let mut cli = Cli::command();
    cli.build();
    for command in cli.get_subcommands().filter(|command| !command.is_hide_set()) {
        describe(&mut text, command);
    }
    same_between("docs/reference/cli.md", "commands", text.trim_end_matches('\n'));
}

/// A command, and those below it.
fn describe(text: &mut String, command: &clap::Command) {
    let name = command.get_bin_name().unwrap_or_else(|| command.get_name());
    if name.ends_with(" help") {
        return;
    }
    let about = command.get_long_about().or(command.get_about()).map(ToString::to_string).unwrap_or_default();
    let _ = writeln!(text, "## {name}\n\n{about}\n");
    let usage = command.clone().color(clap::ColorChoice::Never).render_usage().to_string();
    let _ = writeln!(text, "```text\n{}\n```\n", usage.trim_start_matches("Usage: ").trim_end());
    let shown =
        |argument: &&clap::Arg| !argument.is_hide_set() && !["help", "version"].contains(&argument.get_id().as_str());
    for argument in command.get_arguments().filter(shown) {
        option(text, argument);
    }
    if let Some(after) = command.get_after_long_help().or(command.get_after_help()) {
        let after = after.to_string();
        match after.contains("\n  ") {
            true => drop(writeln!(text, "\n```text\n{}\n```", after.trim_end())),
            false => drop(writeln!(text, "\n{}", after.trim_end())),
        }
    }
    text.push('\n');
    for below in command.get_subcommands().filter(|command| !command.is_hide_set()) {
        describe(text, below);
    }
}

fn option(text: &mut String, argument: &clap::Arg) {
    let mut names: Vec<String> = argument.get_short().map(|short| format!("-{short}")).into_iter().collect();
    names.extend(argument.get_long().map(|long| format!("--{long}")));
    let value = argument.get_value_names().map(|names| names.join(" ")).unwrap_or_default();
    let takes = argument.get_action().takes_values();
    let mut shown = match (names.is_empty(), takes) {
        (true, _) => value.clone(),
        (false, true) if argument.get_num_args().is_some_and(|range| range.min_values() == 0) => {
            format!("{}[={value}]", names.join(", "))
        }
        (false, true) => format!("{} {value}", names.join(", ")),
        (false, false) => names.join(", "),
    };
    shown = shown.trim().to_owned();
    let help = argument.get_long_help().or(argument.get_help()).map(ToString::to_string).unwrap_or_default();
    let paragraphs: Vec<&str> = help.split("\n\n").map(str::trim).collect();
    let mut help = paragraphs.join(if paragraphs[0].ends_with(['.', ']']) { " " } else { ". " }).replace('\n', " ");
    let values: Vec<String> = match takes && !argument.is_hide_possible_values_set() {
        true => argument.get_possible_values().iter().map(|value| format!("`{}`", value.get_name())).collect(),
        false => Vec::new(),
    };
    if !help.ends_with(['.', ']']) {
        help.push('.');
    }
    if !values.is_empty() {
        let _ = write!(help, " One of {}.", values.join(", "));
    }
    let default: Vec<_> = argument.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
    if !default.is_empty() && takes && !argument.is_hide_default_value_set() {
        let _ = write!(help, " Default: `{}`.", default.join(","));
    }
    if let Some(variable) = argument.get_env() {
        let _ = write!(help, " Environment: `{}`.", variable.to_string_lossy());
    }
    let _ = writeln!(text, "- `{shown}`: {help}");
}
