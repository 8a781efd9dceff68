//! A pass that would do nothing is cut short: what the last whole one found is good for a while.

use super::told::Told;
use super::{Kept, changes};
use crate::checkpoint::decide::{Decision, PodNetwork};
use crate::checkpoint::images::NodeImages;
use crate::checkpoint::lifecycle::{Checkpoint, Lives, Rules, Timeline, decide};
use crate::checkpoint::look::Look;
use crate::checkpoint::rendering::{Activity, Manifest, Plan, PlannedPod, PodName, Rendering};
use crate::clear::Clear;
use crate::store::Revision;

/// What the last whole pass found, without a rendering: enough to see whether anything would be done otherwise.
pub(super) struct Assessed {
    pub(super) revision: Revision,
    pub(super) images: NodeImages,
    pub(super) network: PodNetwork,
    /// Whether copies of before the policy was `off` were left.
    pub(super) drains: bool,
    pub(super) decision: Decision,
    pub(super) checkpoints: Vec<Checkpoint>,
    /// What was carried out.
    pub(super) activities: Vec<(PodName, Activity)>,
    /// Until when it is good enough, in milliseconds since boot: then files that someone else changed are put right.
    pub(super) until_ms: u64,
}

/// What a pass comes to if it would do nothing: what is decided is what was carried out.
pub(super) fn unchanged(
    known: &Assessed,
    told: &Told,
    timeline: &Timeline,
    look: &Look,
    rules: &Rules,
) -> Option<(Kept, Timeline)> {
    let mut timeline = timeline.clone();
    let lives = decide(known.decision.clone(), &known.checkpoints, look, rules, &mut timeline);
    let Lives { plan, standings, records, removed, released, alarms, next_ms, yielding } = lives;
    let nothing = records.iter().all(|record| told.has(record)) && removed == told.removed && released.is_empty();
    if !nothing || activities(&plan) != known.activities {
        return None;
    }
    let kept = Kept {
        decision: Decision { verdicts: known.decision.verdicts.clone(), plan },
        active: standings.iter().any(|standing| standing.state.is_active()),
        standings,
        news: Vec::new(),
        ended: Vec::new(),
        alarms,
        left_over: None,
        report: None,
        // Should the store take commits again, they are made up for.
        changes: changes(&records, &removed),
        look: look.clone(),
        next_ms,
        yielding,
    };
    Some((kept, timeline))
}

/// The same decision without what would be written.
pub(super) fn unrendered(decision: &Decision) -> Decision {
    let planned = |planned: &PlannedPod| {
        let Rendering { pod, uid, .. } = &planned.rendering;
        let manifest = Manifest { json: Clear::default(), carries_secret: false };
        let rendering = Rendering { pod: pod.clone(), uid: uid.clone(), manifest, trees: Vec::new() };
        PlannedPod { rendering, activity: planned.activity }
    };
    let plan = Plan { pods: decision.plan.pods.iter().map(planned).collect(), ..Plan::default() };
    let plan = Plan { untouched: decision.plan.untouched.clone(), unsure: decision.plan.unsure.clone(), ..plan };
    Decision { verdicts: decision.verdicts.clone(), plan }
}

pub(super) fn activities(plan: &Plan) -> Vec<(PodName, Activity)> {
    plan.pods.iter().map(|planned| (planned.rendering.pod.clone(), planned.activity)).collect()
}
