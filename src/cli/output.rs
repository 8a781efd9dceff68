//! Output formats of kubectl's kind, and the one place where text of unknown origin becomes fit for a terminal.

use std::fmt;
use std::io::{self, Write};

use anyhow::Context as _;
use clap::ValueEnum;
use serde_json::Value;

use ckpt_db::ops::log::line::acts_on_terminal;
pub(crate) use ckpt_db::ops::log::printable;

/// `-o`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Aligned columns
    Table,
    /// More columns
    Wide,
    /// JSON
    Json,
    /// YAML
    Yaml,
    /// kind/name, one a line
    Name,
}

/// Whether output is coloured: on terminals, unless `NO_COLOR` (no-color.org) or a dumb terminal say otherwise.
pub(crate) fn may_colour(is_terminal: bool) -> bool {
    let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    is_terminal && !is_set("NO_COLOR") && std::env::var_os("TERM").is_some_and(|term| term != "dumb")
}

/// Writes one line; what it says may come from the store.
pub(crate) fn line(out: &mut dyn Write, text: fmt::Arguments<'_>) -> io::Result<()> {
    writeln!(out, "{}", printable(&text.to_string()))
}

/// Output of a program that goes on when nobody listens: a resident agent must not end with the reader of its log.
pub(crate) struct Unheard<'a>(pub(crate) &'a mut dyn Write);

impl Write for Unheard<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(self.0.write(bytes).unwrap_or(bytes.len()))
    }

    fn flush(&mut self) -> io::Result<()> {
        let _ = self.0.flush();
        Ok(())
    }
}

/// The ending of a noun.
pub(crate) fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}

/// Writes a document as JSON or YAML.
pub(crate) fn document(out: &mut dyn Write, format: Format, value: &Value) -> anyhow::Result<()> {
    match format {
        Format::Yaml => {
            let text = serde_saphyr::to_string(value).context("cannot write YAML")?;
            // A double-quoted scalar escapes what a terminal acts on; should one come through, JSON is YAML too.
            let plain = text.chars().all(|c| c == '\n' || !acts_on_terminal(c));
            if plain { out.write_all(text.as_bytes())? } else { json(out, value)? }
        }
        Format::Json | Format::Table | Format::Wide | Format::Name => json(out, value)?,
    }
    Ok(())
}

/// JSON in which every character that a terminal acts on is escaped; serde_json does so for those below U+0020 only.
fn json(out: &mut dyn Write, value: &Value) -> anyhow::Result<()> {
    let text = serde_json::to_string_pretty(value).context("cannot write JSON")?;
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if c != '\n' && acts_on_terminal(c) {
            // All of them lie in the basic plane: one escape each.
            shown.push_str(&format!("\\u{:04x}", u32::from(c)));
        } else {
            shown.push(c);
        }
    }
    shown.push('\n');
    out.write_all(shown.as_bytes())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_terminal_acts_on_gets_out() {
        let hostile = "a\u{1b}[31m\u{9b}31m\u{7f}\u{202e}b\r\u{7}";
        for format in [Format::Json, Format::Yaml] {
            let mut out = Vec::new();
            let value = serde_json::json!({"key": hostile, hostile: [hostile]});
            document(&mut out, format, &value).unwrap();
            let text = String::from_utf8(out).unwrap();
            assert!(text.chars().all(|c| c == '\n' || !acts_on_terminal(c)), "{text:?}");
            let back: Value = serde_saphyr::from_str(&text).unwrap();
            assert_eq!(back, value, "and it still means the same");
        }
        assert!(printable(hostile).chars().all(|c| !acts_on_terminal(c)));
    }
}
