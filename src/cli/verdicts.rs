//! The verdicts as a table and as a document; `run`, `plan` and `render` show the same.

use std::io::{self, Write};

use serde_json::{Value, json};

use ckpt_db::checkpoint::decide::Decision;
use ckpt_db::checkpoint::rendering::{Activity, PodName};
use ckpt_db::checkpoint::verdict::Verdict;

use super::output::plural;
use super::table;

/// The verdicts, one row a pod.
pub(crate) fn write(out: &mut dyn Write, decision: &Decision, wanted: impl Fn(&PodName) -> bool) -> io::Result<()> {
    let rows: Vec<Vec<String>> = decision
        .verdicts
        .iter()
        .filter(|(pod, _, _)| wanted(pod))
        .map(|(pod, _, verdict)| {
            let manifest = activity(decision, pod);
            let (answer, why) = sentence(verdict, manifest);
            let manifest = manifest.unwrap_or("-");
            vec![pod.namespace.clone(), pod.name.clone(), answer.to_owned(), manifest.to_owned(), why]
        })
        .collect();
    if rows.is_empty() {
        return Ok(());
    }
    table::write(out, &["NAMESPACE", "NAME", "COMES BACK", "MANIFEST", "WHY / NOTES"], &rows)
}

/// The verdicts as values.
pub(crate) fn values(decision: &Decision, wanted: impl Fn(&PodName) -> bool) -> Vec<Value> {
    decision
        .verdicts
        .iter()
        .filter(|(pod, _, _)| wanted(pod))
        .map(|(pod, uid, verdict)| {
            let coded = |code: &str, text: String| json!({"code": code, "message": text});
            let (notes, reasons): (Vec<Value>, Vec<Value>) = match verdict {
                Verdict::Recoverable { notes } | Verdict::WhenNetworkIs { notes } => {
                    (notes.iter().map(|note| coded(note.code(), note.to_string())).collect(), Vec::new())
                }
                Verdict::NotRecoverable { reasons } => {
                    (Vec::new(), reasons.iter().map(|reason| coded(reason.code(), reason.to_string())).collect())
                }
                Verdict::NotMeant(why) => (Vec::new(), vec![coded(why.code(), why.to_string())]),
            };
            json!({
                "namespace": pod.namespace,
                "name": pod.name,
                "uid": uid,
                "verdict": code(verdict),
                "manifest": activity(decision, pod),
                "reasons": reasons,
                "notes": notes,
            })
        })
        .collect()
}

/// Pods that should come back and can't.
pub(crate) fn lost(decision: &Decision, wanted: impl Fn(&PodName) -> bool) -> usize {
    let lost = |verdict: &Verdict| matches!(verdict, Verdict::NotRecoverable { .. });
    decision.verdicts.iter().filter(|(pod, _, verdict)| wanted(pod) && lost(verdict)).count()
}

/// How many pods there are, and what becomes of them.
#[derive(Default)]
struct Counts {
    pods: usize,
    active: usize,
    prepared: usize,
    off: usize,
    lost: usize,
    not_meant: usize,
}

impl Counts {
    fn of(decision: &Decision, wanted: impl Fn(&PodName) -> bool) -> Self {
        let mut counts = Self::default();
        for (pod, _, verdict) in decision.verdicts.iter().filter(|(pod, _, _)| wanted(pod)) {
            counts.pods += 1;
            let count = match (verdict, activity(decision, pod)) {
                (Verdict::NotMeant(_), _) => &mut counts.not_meant,
                (Verdict::NotRecoverable { .. }, _) => &mut counts.lost,
                (Verdict::Recoverable { .. } | Verdict::WhenNetworkIs { .. }, Some("active")) => &mut counts.active,
                (Verdict::Recoverable { .. } | Verdict::WhenNetworkIs { .. }, Some(_)) => &mut counts.prepared,
                (Verdict::Recoverable { .. } | Verdict::WhenNetworkIs { .. }, None) => &mut counts.off,
            };
            *count += 1;
        }
        counts
    }
}

/// `4 of 6 pods would come back; 1 prepared only, 1 can't come back; 1 more is not meant to`
pub(crate) fn summary(decision: &Decision, wanted: impl Fn(&PodName) -> bool) -> String {
    let Counts { pods, active, prepared, off, lost, not_meant } = Counts::of(decision, wanted);
    let meant = pods - not_meant;
    let mut text = format!("{active} of {meant} pod{} would come back", plural(meant));
    let others = [(prepared, "prepared only"), (off, "held back by the policy"), (lost, "can't come back")];
    let others: Vec<String> =
        others.into_iter().filter(|(some, _)| *some > 0).map(|(some, what)| format!("{some} {what}")).collect();
    if !others.is_empty() {
        text.push_str(&format!("; {}", others.join(", ")));
    }
    match not_meant {
        0 => {}
        1 => text.push_str("; 1 more is not meant to"),
        more => text.push_str(&format!("; {more} more are not meant to")),
    }
    text
}

/// Pods that could come back, and that the policy holds back.
pub(crate) fn held_back(decision: &Decision, wanted: impl Fn(&PodName) -> bool) -> usize {
    Counts::of(decision, wanted).off
}

/// The same as values.
pub(crate) fn counts(decision: &Decision, wanted: impl Fn(&PodName) -> bool) -> Value {
    let Counts { pods, active, prepared, off, lost, not_meant } = Counts::of(decision, wanted);
    json!({
        "pods": pods,
        "wouldComeBack": active,
        "preparedOnly": prepared,
        "heldBack": off,
        "cannotComeBack": lost,
        "notMeantTo": not_meant,
    })
}

fn activity(decision: &Decision, pod: &PodName) -> Option<&'static str> {
    let planned = decision.plan.pods.iter().find(|planned| planned.rendering.pod == *pod)?;
    Some(match planned.activity {
        Activity::Active => "active",
        Activity::Prepared => "prepared",
        Activity::AsItIs => "as it is",
    })
}

fn code(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Recoverable { .. } => "Recoverable",
        Verdict::WhenNetworkIs { .. } => "RecoverableWithNetwork",
        Verdict::NotRecoverable { .. } => "NotRecoverable",
        Verdict::NotMeant(_) => "NotMeant",
    }
}

/// Whether it comes back, and why or with what to know.
fn sentence(verdict: &Verdict, manifest: Option<&str>) -> (&'static str, String) {
    fn joined(items: &[impl ToString]) -> String {
        items.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    }
    match verdict {
        Verdict::Recoverable { notes } | Verdict::WhenNetworkIs { notes } if manifest.is_none() => {
            ("held back", joined(notes))
        }
        Verdict::Recoverable { notes } | Verdict::WhenNetworkIs { notes } if manifest == Some("prepared") => {
            ("prepared only", joined(notes))
        }
        Verdict::Recoverable { notes } => ("yes", joined(notes)),
        Verdict::WhenNetworkIs { notes } => ("with network", joined(notes)),
        Verdict::NotRecoverable { reasons } => ("no", joined(reasons)),
        Verdict::NotMeant(why) => ("not meant to", why.to_string()),
    }
}
