//! When a stored pod stands in for its parent: one look in, an ordered plan and what has to be recorded out.
//!
//! The first stage, [`super::decide::decide`], weighs pods against each other and says which would be activated if their
//! parents did not run. This one says which are, and why not.

#[cfg(test)]
mod activation_tests;
mod explain;
#[cfg(test)]
mod hand_over_tests;
mod life;
mod parent;
#[cfg(test)]
mod sign_tests;
mod state;
#[cfg(test)]
mod testing;
mod timeline;

pub use explain::{Alarm, Standing, Why};
pub use parent::{Class, CopyStatus};
pub use state::{HANDED_OVER_MS, Presence, Running, Seen, State};
pub use timeline::Timeline;

use std::collections::{BTreeMap, BTreeSet};

use super::decide::Decision;
use super::examine::Examined;
use super::look::{Answers, Look};
use super::node::Fact;
use super::rendering::{Activity, Plan, PodName, Untouched};
use life::{Life, START_MS, way_until};
use parent::Knowledge;

/// How long a copy that does not run yet counts among those that are being started.
const WAVE_PATIENCE_MS: u64 = 15_000;

/// What the operator and the node allow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// How long a checkpoint outlives its parent, while the API server answers.
    pub grace_ms: u64,
    /// For how long without a break the API server has to be silent before pods are activated that are neither annotated
    /// nor critical to the system.
    pub activation_delay_ms: u64,
    /// Without a route to the API server: at the latest this long after the first attempt.
    pub without_route_ms: u64,
    /// How many copies are started at the same time.
    pub wave: usize,
    /// The operator says that the API server is away and the kubelet has forgotten its pods: there is no delay, and not
    /// knowing what runs counts as nothing running. A parent that is seen running is left alone all the same.
    pub break_glass: bool,
    /// `Node.status.allocatable.pods`, as stored.
    pub pods_max: Option<u32>,
    /// Pods of the node that are no parents: static pods of others, by their mirror pods.
    pub others: u32,
    /// The agent's own pod, where it runs as one.
    pub own_pod: Option<PodName>,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            grace_ms: 60_000,
            activation_delay_ms: 30_000,
            without_route_ms: 120_000,
            wave: 20,
            break_glass: false,
            pods_max: None,
            others: 0,
            own_pod: None,
        }
    }
}

/// One stored pod, and what is on record of its checkpoint.
#[derive(Clone)]
pub struct Checkpoint {
    /// The pod as the first stage sees it.
    pub examined: Examined,
    /// What was recorded last.
    pub state: State,
    /// Whether the parent is proven to be gone.
    pub gone: bool,
    /// Whether the operator holds its copy.
    pub held: bool,
    /// How often its copy was published anew.
    pub republished: u32,
    /// How the parent has ended, if it has: `Succeeded`, or `Failed` with a reason.
    pub ended: Option<String>,
}

/// Something to be recorded of a pod, after it was acted on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The pod.
    pub pod: PodName,
    /// Its UID.
    pub uid: String,
    /// Where its checkpoint stands now.
    pub state: State,
    /// How often its copy was published anew.
    pub republished: u32,
    /// Why, in one sentence.
    pub why: String,
}

/// What one look leads to.
#[derive(Clone)]
pub struct Lives {
    /// What the rendered files should be.
    pub plan: Plan,
    /// Where each stored pod stands, sorted by name.
    pub standings: Vec<Standing>,
    /// What has to be recorded after acting.
    pub records: Vec<Record>,
    /// Checkpoints that end: pod and UID, to be deleted from the store after acting.
    pub removed: Vec<(PodName, String)>,
    /// Pods whose hold ends, since the API server answers.
    pub released: Vec<PodName>,
    /// What should wake somebody up.
    pub alarms: Vec<Alarm>,
    /// When the next look is due although nothing happens, in milliseconds since boot.
    pub next_ms: Option<u64>,
    /// Whether a copy is active that must go before its parent comes, or has made way for it: then the API server is asked each
    /// second.
    pub yielding: bool,
}

/// Decides. The same look again leads to nothing new; `timeline` remembers what looks in a row have in common.
#[must_use]
pub fn decide(
    decision: Decision,
    checkpoints: &[Checkpoint],
    look: &Look,
    rules: &Rules,
    timeline: &mut Timeline,
) -> Lives {
    // What was before the API server began to answer, or ceased to, counts for neither.
    let elapsed_ms = timeline.elapsed_ms(look.now_ms).min(look.now_ms.saturating_sub(look.api.since_ms));
    timeline.looked_ms = Some(look.now_ms);
    timeline.pods.retain(|pod, _| checkpoints.iter().any(|checkpoint| checkpoint.examined.pod == *pod));
    let wanted: BTreeMap<&PodName, Activity> =
        decision.plan.pods.iter().map(|planned| (&planned.rendering.pod, planned.activity)).collect();

    let mut lives: BTreeMap<PodName, Life<'_>> = BTreeMap::new();
    for checkpoint in checkpoints {
        let pod = &checkpoint.examined.pod;
        let past = timeline.pods.entry(pod.clone()).or_default();
        lives.insert(pod.clone(), Life::look(checkpoint, wanted.get(pod).copied(), look, rules, past));
    }
    yield_for_room(&mut lives, look, rules);

    for life in lives.values_mut().filter(|life| life.before.is_active()) {
        life.step(look, rules, elapsed_ms);
    }
    // In the order of activation, so that the first pods get the places that there are.
    let mut places = Places::count(&lives, timeline, look, rules);
    let mut order: Vec<PodName> = decision.plan.pods.iter().map(|planned| planned.rendering.pod.clone()).collect();
    order.extend(lives.keys().filter(|pod| !wanted.contains_key(pod)).cloned());
    for pod in &order {
        let (Some(life), Some(past)) = (lives.get_mut(pod), timeline.pods.get(pod)) else { continue };
        if life.before.is_active() {
            continue;
        }
        life.wait = life.wait(look, rules, past, &places);
        life.step(look, rules, elapsed_ms);
        if life.next.is_active() {
            life.is_due(look.now_ms, look.now_ms + START_MS);
            places.take(life);
        }
    }
    own_goes_last(&mut lives, rules);
    finish(decision, &lives, look, rules, timeline)
}

/// As many copies as there are pods too many on the node, those of the lowest priority first, go before their parents come:
/// the kubelet rejects a parent that finds no place, for good.
///
/// While nobody answers, the parents that come are all that are known; their copies go when the API server gives a sign of
/// life.
fn yield_for_room(lives: &mut BTreeMap<PodName, Life<'_>>, look: &Look, rules: &Rules) {
    let Some(room) = rules.pods_max else { return };
    let answers = look.api.reach == Answers::Answering;
    let comes = |pod: &PodName, life: &Life<'_>| match answers {
        true => look.api.sighted.contains_key(pod),
        false => life.is_known_parent(),
    };
    // One that is gone takes its place until its sandbox is gone too.
    let present =
        lives.iter().filter(|(pod, life)| life.presence == Presence::Present || life.has_sandbox() || comes(pod, life));
    let present: Vec<PodName> = present.map(|(pod, _)| pod.clone()).collect();
    let parents: BTreeSet<PodName> = look.api.sighted.keys().cloned().chain(present).collect();
    let copies = lives.values().filter(|life| life.before.is_active()).count();
    let surplus = (parents.len() + copies + others(lives, look, rules)).saturating_sub(room as usize);
    let going = |life: &Life<'_>| match answers {
        true => life.class == Class::YieldFirst && life.yields_ms <= look.now_ms,
        false => life.class == Class::YieldFirst && !life.checkpoint.examined.host_network,
    };
    let mut copies: Vec<&mut Life<'_>> = lives
        .iter_mut()
        .filter(|(pod, life)| life.before.is_active() && comes(pod, life))
        .filter(|(pod, life)| {
            rules.own_pod.as_ref() != Some(pod) && (answers || !life.checkpoint.examined.host_network)
        })
        .map(|(_, life)| life)
        .collect();
    let gone = copies.iter().filter(|life| going(life)).count();
    copies.retain(|life| !going(life));
    copies.sort_by_key(|life| (life.checkpoint.examined.annotated, life.checkpoint.examined.priority));
    for life in copies.into_iter().take(surplus.saturating_sub(gone)) {
        if answers {
            life.class = Class::YieldFirst;
            life.yields_ms = 0;
        } else {
            life.takes_room = true;
            life.makes_way(look, rules);
        }
    }
}

/// How many copies have a sandbox though they are not to be active, whomever they stand in for.
fn leaving(active: &[&Life<'_>], look: &Look) -> usize {
    let Fact::Known(runtime) = &look.runtime else { return 0 };
    let copies = runtime.sandboxes.iter().filter(|sandbox| sandbox.ready && sandbox.parent_uid.is_some());
    copies.filter(|sandbox| active.iter().all(|life| !life.has_copy(sandbox))).count()
}

/// How many pods there are that are neither parents nor copies.
fn others(lives: &BTreeMap<PodName, Life<'_>>, look: &Look, rules: &Rules) -> usize {
    let Fact::Known(runtime) = &look.runtime else { return rules.others as usize };
    let parents: BTreeSet<&str> = lives.values().map(|life| life.checkpoint.examined.uid.as_str()).collect();
    let is_other = |uid: &str| !parents.contains(uid) && look.api.sighted.values().all(|sighted| sighted != uid);
    let sandboxes = runtime.sandboxes.iter().filter(|sandbox| sandbox.ready && sandbox.parent_uid.is_none());
    let others: BTreeSet<&str> = sandboxes.map(|sandbox| sandbox.uid.as_str()).filter(|uid| is_other(uid)).collect();
    others.len().max(rules.others as usize)
}

/// When the agent's own pod is no longer scheduled, all other checkpoints go first.
fn own_goes_last(lives: &mut BTreeMap<PodName, Life<'_>>, rules: &Rules) {
    let Some(own) = &rules.own_pod else { return };
    if lives.get(own).is_none_or(|life| life.next != State::Removed) {
        return;
    }
    let others = lives.len() > 1;
    for (pod, life) in lives {
        life.next = match (pod == own && others, life.before.is_active()) {
            (true, true) => State::ActiveGrace { left_ms: 1 },
            (true, false) => State::InactiveGrace { left_ms: 1 },
            (false, _) => State::Removed,
        };
    }
}

/// How many copies may be started now: the wave, and the places for pods on the node.
struct Places {
    knowledge: Knowledge,
    wave: usize,
    starting: usize,
    free: Option<usize>,
}

impl Places {
    fn count(lives: &BTreeMap<PodName, Life<'_>>, timeline: &Timeline, look: &Look, rules: &Rules) -> Self {
        let starts = |(pod, life): &(&PodName, &Life<'_>)| {
            let published_ms = timeline.pods.get(*pod).and_then(|past| past.published_ms);
            life.before.is_active()
                && life.copy != CopyStatus::Running
                && published_ms.is_some_and(|at_ms| look.now_ms.saturating_sub(at_ms) < WAVE_PATIENCE_MS)
        };
        let uids = lives.values().map(|life| life.checkpoint.examined.uid.as_str()).collect();
        let knowledge = Knowledge::of(look, &uids);
        // A copy that has to go takes its place until it is gone.
        let active: Vec<&Life<'_>> = lives.values().filter(|life| life.next.is_active()).collect();
        let copies = active.len() + leaving(&active, look);
        // A kubelet counts the pods that it knows, whether they have a sandbox or not, and may know all of them soon.
        let knows = knowledge == Knowledge::Knows || way_until(look, rules).is_some();
        let known = lives.values().filter(|life| knows && life.is_known_parent());
        let mut parents: BTreeSet<&str> = known.map(|life| life.checkpoint.examined.uid.as_str()).collect();
        parents.extend(look.api.sighted.values().map(String::as_str));
        for life in lives.values().filter(|life| life.has_sandbox()) {
            parents.insert(&life.checkpoint.examined.uid);
        }
        let taken = copies + parents.len() + others(lives, look, rules);
        Self {
            knowledge,
            wave: rules.wave.max(1),
            starting: lives.iter().filter(starts).count(),
            free: rules.pods_max.map(|room| (room as usize).saturating_sub(taken)),
        }
    }

    /// Why one more copy has to wait. What is urgent is not started in waves.
    fn wait(&self, life: &Life<'_>, now_ms: u64, urgent: bool) -> Option<Why> {
        match self.free {
            Some(0) if !life.copy_has_sandbox() => Some(Why::NoRoom),
            _ if !urgent && self.starting >= self.wave => Some(Why::Wave { until_ms: now_ms + 1000 }),
            _ => None,
        }
    }

    fn take(&mut self, life: &Life<'_>) {
        self.starting += 1;
        // A copy that was on its way out has its place still.
        let more = usize::from(!life.copy_has_sandbox());
        self.free = self.free.map(|free| free.saturating_sub(more));
    }
}

fn finish(
    decision: Decision,
    lives: &BTreeMap<PodName, Life<'_>>,
    look: &Look,
    rules: &Rules,
    timeline: &mut Timeline,
) -> Lives {
    let mut plan = decision.plan;
    plan.pods.retain_mut(|planned| {
        let Some(life) = lives.get(&planned.rendering.pod) else {
            // Of a pod without a checkpoint nobody knows whether it runs.
            planned.activity = Activity::AsItIs;
            return true;
        };
        planned.activity = life.activity(look, rules);
        life.next != State::Removed
    });
    if let Untouched::Only(untouched) = &mut plan.untouched {
        for (pod, life) in lives {
            if life.next.is_active() && life.wanted.is_none() {
                untouched.insert(pod.clone());
            } else if life.before.is_active() && !life.next.is_active() || life.next == State::Removed {
                untouched.remove(pod);
            }
        }
    }
    let mut out = Lives {
        plan,
        standings: Vec::new(),
        records: Vec::new(),
        removed: Vec::new(),
        released: Vec::new(),
        alarms: Vec::new(),
        next_ms: way_until(look, rules),
        yielding: lives.values().any(Life::hastens),
    };
    for (pod, life) in lives {
        let checkpoint = life.checkpoint;
        if let Some(past) = timeline.pods.get_mut(pod) {
            past.step(look, life);
        }
        let why = life.why(look);
        if life.next == State::Removed {
            out.removed.push((pod.clone(), checkpoint.examined.uid.clone()));
        } else if life.is_worth_recording() {
            out.records.push(Record {
                pod: pod.clone(),
                uid: checkpoint.examined.uid.clone(),
                state: life.next,
                republished: checkpoint.republished.saturating_add(life.republish.into()),
                why: why.to_string(),
            });
        }
        if checkpoint.held && !life.held {
            out.released.push(pod.clone());
        }
        out.alarms.extend(life.alarm());
        let standing = Standing {
            pod: pod.clone(),
            uid: checkpoint.examined.uid.clone(),
            state: life.next,
            running: life.running,
            copy: life.next.is_active().then(|| life.copy.clone()),
            class: life.class,
            priority: checkpoint.examined.priority,
            deadline_ms: life.deadline_ms(look, &why),
            why,
        };
        out.next_ms = [out.next_ms, standing.deadline_ms, life.due_ms].into_iter().flatten().min();
        out.standings.push(standing);
    }
    out
}
