//! What was measured: a table for people, and everything for programs.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use crate::Bench;

/// What a figure has to be.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Target {
    AtMost(f64),
    AtLeast(f64),
    /// Nobody asked for it; it is for comparison.
    None,
}

impl Target {
    fn is_met(self, value: f64) -> Option<bool> {
        match self {
            Self::AtMost(most) => Some(value <= most),
            Self::AtLeast(least) => Some(value >= least),
            Self::None => None,
        }
    }

    fn shown(self) -> String {
        match self {
            Self::AtMost(most) => format!("<= {most}"),
            Self::AtLeast(least) => format!(">= {least}"),
            Self::None => String::new(),
        }
    }
}

struct Row {
    section: &'static str,
    what: String,
    value: f64,
    unit: &'static str,
    target: Target,
    /// What it is made of: the times behind a ratio.
    details: String,
}

pub(crate) struct Report {
    rows: Vec<Row>,
    json: Map<String, Value>,
}

impl Report {
    pub(crate) fn new(bench: &Bench) -> Self {
        let machine = json!({
            "processors": std::thread::available_parallelism().map_or(0, usize::from),
            "processor": line_of("/proc/cpuinfo", "model name"),
            "memory": line_of("/proc/meminfo", "MemTotal"),
            "kernel": std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim(),
            "file_system": file_system(&bench.scratch),
            "debug_build": cfg!(debug_assertions),
            "short": bench.short,
        });
        Self { rows: Vec::new(), json: Map::from_iter([("machine".to_owned(), machine)]) }
    }

    /// One line of the table: a ratio (`x`) or an amount.
    pub(crate) fn row(
        &mut self,
        section: &'static str,
        what: impl Into<String>,
        (value, unit): (f64, &'static str),
        target: Target,
        details: impl Into<String>,
    ) {
        let row = Row { section, what: what.into(), value, unit, target, details: details.into() };
        eprintln!("  {}: {:.3} {} {}", row.what, value, unit, row.details);
        self.rows.push(row);
    }

    /// Everything that a section has measured.
    pub(crate) fn details(&mut self, section: &str, value: Value) {
        self.json.insert(section.to_owned(), value);
    }

    pub(crate) fn table(&self) -> String {
        let mut text = String::from("| | measured | target | | details |\n|---|---|---|---|---|\n");
        for Row { section, what, value, unit, target, details } in &self.rows {
            let met = target.is_met(*value).map_or("", |met| if met { "reached" } else { "missed" });
            writeln!(text, "| {section}: {what} | {value:.2} {unit} | {} | {met} | {details} |", target.shown())
                .unwrap();
        }
        text
    }

    pub(crate) fn json(&self) -> Value {
        let rows: Vec<Value> = self
            .rows
            .iter()
            .map(|row| {
                json!({
                    "section": row.section, "what": row.what, "value": row.value, "unit": row.unit,
                    "target": row.target.shown(), "reached": row.target.is_met(row.value),
                })
            })
            .collect();
        let mut json = self.json.clone();
        json.insert("figures".to_owned(), rows.into());
        json.into()
    }
}

fn line_of(file: &str, key: &str) -> String {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with(key)).unwrap_or_default();
    line.split_once(':').map_or("", |(_, value)| value).trim().to_owned()
}

/// Type and options of the file system that a directory lies on.
fn file_system(directory: &std::path::Path) -> String {
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    let directory = std::fs::canonicalize(directory).unwrap();
    let fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let over = fields.filter(|fields| fields.len() > 3 && directory.starts_with(fields[1]));
    over.max_by_key(|fields| fields[1].len()).map_or(String::new(), |fields| format!("{} {}", fields[2], fields[3]))
}
