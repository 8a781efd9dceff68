//! What a pass came to, in the words of its output.

use std::collections::BTreeSet;
use std::path::Path;

use ckpt_db::checkpoint::object::Kind;
use ckpt_db::materialize::{PodOutcome, Report};
use ckpt_db::store::Snapshot;

use super::output::plural;
use super::{chain_of, say};

/// `FILE: revision 3, node edge-1, 9 pods, 4 ConfigMaps, 5 Secrets`
pub(crate) fn about(path: &Path, snapshot: &Snapshot) -> String {
    format!("{}: revision {}, {}", path.display(), snapshot.revision(), contents(snapshot))
        .trim_end_matches(", ")
        .to_owned()
}

/// `node edge-1, 9 pods, 4 ConfigMaps, 5 Secrets`
pub(crate) fn contents(snapshot: &Snapshot) -> String {
    let mut parts = Vec::new();
    if let Some(node) = snapshot.node_name().filter(|name| !name.is_empty()) {
        parts.push(format!("node {node}"));
    }
    for kind in Kind::ALL {
        let count = snapshot.objects().filter(|object| object.key.kind() == kind).count();
        if count > 0 {
            parts.push(format!("{count} {kind}{}", if count == 1 { "" } else { "s" }));
        }
    }
    parts.join(", ")
}

/// Says what went wrong with files; whether anything did.
pub(crate) fn report_problems(report: &Report) -> bool {
    let problems = problems(report);
    problems.iter().for_each(|problem| say(format_args!("{problem}")));
    !problems.is_empty()
}

/// What went wrong with files, a line each.
pub(crate) fn problems(report: &Report) -> BTreeSet<String> {
    let failed = report.outcomes.iter().filter_map(|(pod, outcome)| match outcome {
        PodOutcome::Failed(error) => Some(format!("error: Pod {pod} was not rendered: {}", chain_of(error))),
        PodOutcome::Published { .. } => None,
    });
    failed.chain(report.problems.iter().map(|problem| format!("warning: {}", chain_of(problem)))).collect()
}

/// `9 pods rendered, 1 failed`
pub(crate) fn tally(report: &Report) -> String {
    let failed = report.outcomes.iter().filter(|(_, outcome)| outcome.is_failure()).count();
    let rendered = report.outcomes.len() - failed;
    let mut text = format!("{rendered} pod{} rendered", plural(rendered));
    for (count, what) in [
        (failed, "failed"),
        (report.left.len(), "left as they are"),
        (report.removed.len(), "removed"),
        (report.waiting.len(), "trees wait to be removed"),
    ] {
        if count > 0 {
            text.push_str(&format!(", {count} {what}"));
        }
    }
    text
}
