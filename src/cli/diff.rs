//! `ckpt-db diff`: what is stored, compared with what the API server has now.
//!
//! Exit status, as of `kubectl diff`: 0 no difference, 1 differences, 2 it could not be found out.

use std::io::{self, IsTerminal as _, Write};

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use ckpt_db::agent::{Comparison, Difference, compare};
use ckpt_db::checkpoint::difference::{Field, Side};
use ckpt_db::source::api::credentials::Credentials;

use super::args::{ApiArgs, StoreArgs};
use super::dump::say_sealed;
use super::output::{Format, document, line, may_colour, plural, printable};
use super::{Exit, follow, say};

/// Compare the store with what the API server has now, and change neither
///
/// Reads this node's pods, and what they name, with the agent's credentials and by the agent's requests. Of Secrets only names of
/// keys are shown. Status, resourceVersion and managedFields are left out.
#[derive(Args, Debug)]
#[command(after_help = "Exit codes, as of kubectl diff:
  0   no difference
  1   differences
  2   it could not be found out, of some objects or of all
  64  wrong usage

Examples:
  ckpt-db diff                          - is stored, + is what the API server has
  ckpt-db diff -o json                  for scripts
  ckpt-db diff --store edge-1.db --kubeconfig admin.conf
                                        what a backup would lose, seen from elsewhere")]
pub(crate) struct Diff {
    #[command(flatten)]
    store: StoreArgs,

    #[command(flatten)]
    api: ApiArgs,

    /// Output format
    #[arg(short, long, value_enum, default_value_t = DiffFormat::Diff, value_name = "FORMAT")]
    output: DiffFormat,
}

/// `-o`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum DiffFormat {
    /// Two lines a field
    Diff,
    /// JSON
    Json,
    /// YAML
    Yaml,
    /// kind/name, one a line
    Name,
}

impl Diff {
    pub(crate) fn run(&self, out: &mut dyn Write) -> anyhow::Result<Exit> {
        let path = self.store.store()?;
        let keys = self.store.keys()?;
        let snapshot = self.store.snapshot(&keys)?.into_inner();
        for finding in snapshot.findings() {
            say(format_args!("warning: {finding}"));
        }
        say_sealed(&snapshot, &keys.tried());
        let place = self.api.place(&self.store)?;
        let credentials = Credentials::load(&place).context("cannot ask the API server")?;
        if let Some(other) = follow::foreign(&snapshot, &place) {
            bail!("{other}: there is nothing to compare");
        }
        let stored = snapshot.node_name().filter(|name| !name.is_empty());
        let node = match (self.api.node_name.as_deref(), stored) {
            (Some(told), Some(stored)) if told != stored => {
                bail!("--node-name says {told}, but {} is the store of node {stored}", path.display())
            }
            (Some(name), _) | (None, Some(name)) => name,
            (None, None) => credentials
                .node_name()
                .with_context(|| format!("the credentials ({}) name no node; give --node-name", credentials.user()))?,
        };
        let comparison = compare(&snapshot, node, &credentials)?;
        match self.output {
            DiffFormat::Diff => {
                write(out, &comparison)?;
                line(out, format_args!("{}", summary(&comparison, node, &credentials.server())))?;
            }
            DiffFormat::Name => {
                for key in comparison.differing.keys() {
                    line(out, format_args!("{}/{}", key.kind().row().name.to_lowercase(), key.name()))?;
                }
            }
            DiffFormat::Json => document(out, Format::Json, &value(&comparison, node))?,
            DiffFormat::Yaml => document(out, Format::Yaml, &value(&comparison, node))?,
        }
        for (key, why) in &comparison.untold {
            say(format_args!("error: {key} could not be compared: {why}"));
        }
        Ok(match comparison.untold.is_empty() {
            true => Exit::findings(!comparison.differing.is_empty()),
            false => Exit::Failed,
        })
    }
}

/// `38 objects of node edge-1 compared with https://10.0.0.1:6443: 2 differ`
fn summary(comparison: &Comparison, node: &str, server: &str) -> String {
    let Comparison { compared, differing, untold } = comparison;
    let differing = match differing.len() {
        0 => "no difference".to_owned(),
        1 => "1 differs".to_owned(),
        several => format!("{several} differ"),
    };
    let mut text = format!("{compared} object{} of node {node} compared with {server}: {differing}", plural(*compared));
    if !untold.is_empty() {
        text.push_str(&format!(", {} could not be compared", untold.len()));
    }
    text
}

fn write(out: &mut dyn Write, comparison: &Comparison) -> io::Result<()> {
    let colour = may_colour(io::stdout().is_terminal());
    let mut marked = |mark: char, text: &str| {
        let (begin, end) = match mark {
            '-' if colour => ("\u{1b}[31m", "\u{1b}[0m"),
            '+' if colour => ("\u{1b}[32m", "\u{1b}[0m"),
            _ => ("", ""),
        };
        writeln!(out, "{begin}{mark} {}{end}", printable(text))
    };
    for (key, difference) in &comparison.differing {
        match difference {
            Difference::NotStored => marked('+', &format!("{key}: not stored"))?,
            Difference::OnlyStored => marked('-', &format!("{key}: the API server does not have it"))?,
            Difference::NotNeeded => {
                marked('-', &format!("{key}: no pod that the API server has for this node names it"))?
            }
            Difference::Fields(fields) => {
                marked(' ', &format!("{key}:"))?;
                for Field { path, stored, there } in fields {
                    for (mark, side) in [('-', stored), ('+', there)] {
                        match side {
                            Side::Absent => {}
                            Side::Is(value) => marked(mark, &format!("  {path}: {value}"))?,
                            Side::Withheld => marked(mark, &format!("  {path}: <not shown>"))?,
                        }
                    }
                }
            }
        }
    }
    Ok(())
}

fn value(comparison: &Comparison, node: &str) -> Value {
    let side = |side: &Side| match side {
        Side::Absent => json!({"present": false}),
        Side::Is(value) => json!({"present": true, "value": value}),
        Side::Withheld => json!({"present": true, "withheld": true}),
    };
    let objects: Vec<Value> = comparison
        .differing
        .iter()
        .map(|(key, difference)| {
            let (change, fields) = match difference {
                Difference::NotStored => ("NotStored", Vec::new()),
                Difference::OnlyStored => ("OnlyStored", Vec::new()),
                Difference::NotNeeded => ("NotNeeded", Vec::new()),
                Difference::Fields(fields) => ("Modified", fields.iter().collect()),
            };
            let fields: Vec<Value> = fields
                .into_iter()
                .map(
                    |field| json!({"path": field.path, "stored": side(&field.stored), "apiServer": side(&field.there)}),
                )
                .collect();
            json!({
                "kind": key.kind().row().name, "namespace": key.namespace(), "name": key.name(), "change": change,
                "fields": fields,
            })
        })
        .collect();
    let untold: Vec<Value> = comparison
        .untold
        .iter()
        .map(|(key, why)| {
            json!({"kind": key.kind().row().name, "namespace": key.namespace(), "name": key.name(), "message": why})
        })
        .collect();
    json!({
        "apiVersion": "ckpt-db.io/v1alpha1",
        "kind": "Diff",
        "node": node,
        "compared": comparison.compared,
        "objects": objects,
        "notCompared": untold,
    })
}
