//! The configuration as text: what the defaults are, and the sample with a comment on each field.

use std::fmt::Write as _;
use std::path::Path;

use ckpt_db::layout::Layout;

use super::fields::{Change, FIELDS, Field, Shape, Unset};
use super::invocation::run_options;
use super::settings::{API_VERSION, KIND};

/// Columns of a comment.
const WIDTH: usize = 100;

/// What holds where nobody sets the field, as YAML; `Err`: there is no value, and why.
pub(super) fn default_of(field: &Field, run: &clap::Command, root: &Path) -> Result<String, &'static str> {
    match field.default {
        Unset::Option => {
            let values = option_of(field, run).map(clap::Arg::get_default_values).unwrap_or_default();
            Ok(values.iter().map(|value| scalar(&value.to_string_lossy())).collect::<Vec<_>>().join(", "))
        }
        Unset::Is(text) => Ok(text.to_owned()),
        Unset::Path(path) => Ok(scalar(&path(&Layout::new(root)).to_string_lossy())),
        Unset::None(why) => Err(why),
    }
}

/// The option that a field stands for.
pub(super) fn option_of<'a>(field: &Field, run: &'a clap::Command) -> Option<&'a clap::Arg> {
    run.get_arguments().find(|argument| argument.get_long() == Some(field.option))
}

/// What an option is for.
fn help_of(field: &Field, run: &clap::Command) -> String {
    let help = option_of(field, run).and_then(clap::Arg::get_help).map(ToString::to_string).unwrap_or_default();
    // What holds without it stands beside it, and so does that it is a list.
    let help = help.split(" [default:").next().unwrap_or_default();
    let help = help.split("; may be given several times").next().unwrap_or_default();
    help.trim_end().trim_end_matches('.').to_owned()
}

/// The values that an option takes, with what each means.
fn values_of(field: &Field, run: &clap::Command) -> Vec<(String, String)> {
    let values = option_of(field, run).map(clap::Arg::get_possible_values).unwrap_or_default();
    let explained = values.iter().filter_map(|value| Some((scalar(value.get_name()), value.get_help()?.to_string())));
    explained.collect()
}

/// A text as YAML reads it back. Some parsers take `off` for a boolean.
fn scalar(text: &str) -> String {
    if ["off", "on", "yes", "no", "y", "n", ""].contains(&text) { format!("{text:?}") } else { text.to_owned() }
}

/// Every field that has a default value, with it.
pub(super) fn defaults(root: &Path) -> String {
    let run = run_options();
    let mut text = format!("apiVersion: {API_VERSION}\nkind: {KIND}\n");
    let mut group = "";
    let mut without = Vec::new();
    for field in FIELDS {
        match default_of(field, &run, root) {
            Ok(value) => text.push_str(&line(field, &value, &mut group)),
            Err(_) => without.push(field.name),
        }
    }
    let _ = writeln!(text, "# No value unless one is set: {}", without.join(", "));
    text
}

/// The sample: each field with what it is for, commented out, so that a version with other defaults changes the node's.
pub(super) fn sample() -> String {
    let run = run_options();
    let mut text = String::from(
        "# Settings of ckpt-db on this node. This is /etc/ckpt-db/config.yaml, which the agent and every other command read\n\
         # if it is there; --config names another file. Options of the command line override it.\n\
         #\n\
         # Every field is here with its default value. 'ckpt-db config check' says what is wrong with the file, all at once;\n\
         # 'systemctl reload ckpt-db' has the agent read it again, and tells what takes a restart.\n\n",
    );
    let _ = writeln!(text, "apiVersion: {API_VERSION}\nkind: {KIND}");
    let mut group = "";
    for field in FIELDS {
        text.push('\n');
        let mut comment = help_of(field, &run);
        let value = match default_of(field, &run, Path::new("/")) {
            Ok(value) => value,
            Err(why) => {
                let _ = write!(comment, ". Without it: {why}");
                example(field).to_owned()
            }
        };
        comment.push_str(match field.change {
            Change::Reload => ".",
            Change::Restart => ". Takes a restart.",
        });
        for line in wrapped(&comment) {
            let _ = writeln!(text, "# {line}");
        }
        for (value, meaning) in values_of(field, &run) {
            let _ = writeln!(text, "# - {value}: {meaning}");
        }
        for line in line(field, &value, &mut group).lines() {
            let _ = writeln!(text, "#{line}");
        }
    }
    text
}

/// A line of the file, after that of the mapping that it begins.
fn line(field: &Field, value: &str, group: &mut &'static str) -> String {
    let Some((outer, name)) = field.name.split_once('.') else { return format!("{}: {value}\n", field.name) };
    let begins = if *group == outer { String::new() } else { format!("{outer}:\n") };
    *group = outer;
    format!("{begins}  {name}: {value}\n")
}

/// What a field without a default value looks like.
fn example(field: &Field) -> &'static str {
    match field.shape {
        Shape::Value => "\"\"",
        Shape::Path => "/path",
        Shape::Endpoint => "unix:///path",
        Shape::Values | Shape::Paths => "[]",
        Shape::Gates => "{}",
    }
}

/// The words of a text in lines.
fn wrapped(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.len() + 1 + word.len() <= WIDTH => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// The table of the reference, in Markdown.
#[cfg(test)]
pub(super) fn table() -> String {
    let run = run_options();
    let mut text = String::from(
        "| field | option | holds | default | another value comes into force | meaning |\n|---|---|---|---|---|---|\n",
    );
    for field in FIELDS {
        let default = match default_of(field, &run, Path::new("/")) {
            Ok(value) => format!("`{value}`"),
            Err(why) => why.to_owned(),
        };
        let shape = match field.shape {
            Shape::Value => "a value",
            Shape::Path => "an absolute path",
            Shape::Endpoint => "an absolute path, or `unix://` and one",
            Shape::Values => "a list",
            Shape::Paths => "a list of absolute paths",
            Shape::Gates => "a mapping",
        };
        let change = match field.change {
            Change::Reload => "at a reload",
            Change::Restart => "at a restart",
        };
        let mut help = help_of(field, &run);
        for (at, (value, meaning)) in values_of(field, &run).iter().enumerate() {
            let _ = write!(help, "{} `{value}`: {meaning}", if at == 0 { "." } else { ";" });
        }
        let help = help.replace('|', "\\|");
        let _ = writeln!(text, "| `{}` | `--{}` | {shape} | {default} | {change} | {help} |", field.name, field.option);
    }
    text
}
