//! `ckpt-db render`: the files that a cold start would write, below a directory of their own.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;

use ckpt_db::agent::{Target, render};
use ckpt_db::layout::Layout;
use ckpt_db::materialize::{Owners, SecretRootPolicy};

use super::args::{StoreArgs, TranslateArgs};
use super::dump::say_sealed;
use super::output::line;
use super::report::report_problems;
use super::{Exit, now_unix_ms, say, verdicts};

/// Render the static pods and trees of a store below a directory
///
/// For inspection, and for recovering a node by hand: the manifests name the paths that the files have on the node, so
/// that the directory can be copied over its root. Values of Secrets are written there in clear text.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  ckpt-db render --out /tmp/look            what would be rendered, in a directory of its own
  ckpt-db render --out /tmp/look --store edge-1.db")]
pub(crate) struct Render {
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    translate: TranslateArgs,

    /// Directory to render to; made if missing
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

impl Render {
    pub(crate) fn run(&self, out: &mut dyn Write) -> anyhow::Result<Exit> {
        let keys = self.store.keys()?;
        let snapshot = self.store.snapshot(&keys)?;
        let there = std::path::absolute(&self.out).with_context(|| format!("cannot use {}", self.out.display()))?;
        let there = Layout::new(&there);
        // Manifests name the paths of the node, or of the trial root, not of the directory they are rendered to.
        let node = self.store.layout()?;
        let roots = |layout: &Layout| ckpt_db::materialize::Roots {
            manifests: layout.manifests(),
            prepared: layout.prepared(),
            secrets: layout.secrets(),
            configmaps: layout.configmaps(),
        };
        let settings = self.translate.settings(&roots(&node))?;
        let target =
            Target { roots: roots(&there), secret_root: SecretRootPolicy::AllowDisk, owners: Owners::Unchanged };
        let own_name = self.translate.node_name.as_deref();
        let (decision, report) = render(&snapshot, &settings, own_name, &target, now_unix_ms() / 1000)?;
        for finding in snapshot.get().findings() {
            say(format_args!("warning: {finding}"));
        }
        say_sealed(snapshot.get(), &keys.tried());
        verdicts::write(out, &decision, |_| true)?;
        writeln!(out, "\n{}", verdicts::summary(&decision, |_| true))?;
        line(out, format_args!("rendered below {} (with clear text of Secrets)", there.root().display()))?;
        let problems = report_problems(&report);
        Ok(Exit::findings(problems || !snapshot.get().findings().is_empty()))
    }
}
