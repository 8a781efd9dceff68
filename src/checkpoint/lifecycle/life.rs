//! One pod in the middle of a decision: what a look shows of it, and why its copy waits.

use std::collections::BTreeSet;

use super::explain::Why;
use super::parent::{Class, CopyStatus, Knowledge, LONGEST_PAUSE_MS, Sandboxes, parent_running};
use super::state::{Presence, Running, Seen, State};
use super::timeline::Past;
use super::{Checkpoint, Places, Rules};
use crate::checkpoint::examine::Examined;
use crate::checkpoint::look::{Answers, Boot, Kubelet, Look, Sandbox};
use crate::checkpoint::node::Fact;
use crate::checkpoint::rendering::Activity;
use crate::checkpoint::verdict::{NotMeant, Reason, Verdict};

/// How long the parent of an overlapping copy has to run without a restart before the copy goes.
const RUNS_WELL_MS: u64 = 10_000;

/// How long a copy may take to get a sandbox.
pub(super) const START_MS: u64 = 60_000;

/// Between one attempt at publishing a copy anew and the next: this, doubled each time.
const REPUBLISH_MS: u64 = 60_000;

/// And this at most.
const REPUBLISH_LONGEST_MS: u64 = 30 * 60_000;

/// How exactly what is left of a period is recorded: a crash costs at most this much of it.
const RECORDED_EACH_MS: u64 = 10_000;

/// For how long a parent whose kubelet may know it has to have no sandbox: a kubelet makes a new one within seconds.
const SETTLE_MS: u64 = 30_000;

/// For how long at least copies make way after a sign of life: a kubelet that has failed for long asks again after 30 s.
const MAKES_WAY_MS: u64 = 30_000;

/// How long a kubelet takes at most to see its pods and to start them when the API server is back.
const SEES_PODS_MS: u64 = 45_000;

/// One pod in the middle of a decision.
pub(super) struct Life<'a> {
    pub(super) checkpoint: &'a Checkpoint,
    /// Whether the first stage would activate it, if it gave it a place in the plan.
    pub(super) wanted: Option<Activity>,
    sandboxes: Option<Sandboxes<'a>>,
    pub(super) before: State,
    pub(super) next: State,
    pub(super) class: Class,
    pub(super) running: Running,
    pub(super) presence: Presence,
    pub(super) copy: CopyStatus,
    /// Whether the operator holds its copy; an API server that answers ends that.
    pub(super) held: bool,
    /// Why it has to wait, if its copy would be started otherwise.
    pub(super) wait: Option<Why>,
    pub(super) republish: bool,
    /// The containers of the parent that run, and since when they are these.
    ran: (BTreeSet<(String, String)>, u64),
    /// Its containers that say nothing of a kubelet that knows it.
    stale: BTreeSet<String>,
    /// Whether there is no place for its parent beside the copies, should all parents come.
    pub(super) takes_room: bool,
    /// Until when no copy of it is active, since the API server has given a sign of life.
    pub(super) way_until_ms: Option<u64>,
    /// Whether its copy has made way, and nobody has answered since.
    made_way: bool,
    /// When the parent's name is enough for its copy to go, in milliseconds since boot.
    pub(super) yields_ms: u64,
    /// When something is due though nothing happens, in milliseconds since boot.
    pub(super) due_ms: Option<u64>,
}

impl<'a> Life<'a> {
    pub(super) fn look(
        checkpoint: &'a Checkpoint,
        wanted: Option<Activity>,
        look: &'a Look,
        rules: &Rules,
        past: &mut Past,
    ) -> Self {
        let Examined { pod, uid, .. } = &checkpoint.examined;
        if past.uid != *uid {
            *past = Past { uid: uid.clone(), ..Past::default() };
        }
        let manifest = match &look.manifests {
            Fact::Known(manifests) => Some(manifests.get(pod)),
            Fact::Unknown(_) => None,
        };
        let copied = manifest.flatten().filter(|copied| !copied.is_empty()).unwrap_or(uid);
        let sandboxes = Sandboxes::of(look, pod, uid, copied);
        past.parent(look, sandboxes.as_ref());
        let running = match parent_running(look, sandboxes.as_ref(), past.idle_ms(look.now_ms)) {
            Running::Unknown if rules.break_glass && sandboxes.as_ref().is_none_or(|all| !all.namesake_runs()) => {
                Running::No
            }
            running => running,
        };
        past.answer(look.now_ms, running);
        let before = match past.state.unwrap_or(checkpoint.state) {
            // It could not be deleted from the store. Nobody says that it is gone still.
            State::Removed => State::InactiveGrace { left_ms: 0 },
            state => state,
        };
        let before = manifest.map_or(before, |manifest| before.seen_as(manifest.is_some()));
        let mut life = Self {
            checkpoint,
            wanted,
            sandboxes,
            before,
            next: before,
            class: class(&checkpoint.examined),
            running,
            presence: presence(checkpoint, look),
            copy: CopyStatus::Unknown,
            held: checkpoint.held && !(look.api.reach == Answers::Answering && look.api.in_step),
            wait: None,
            republish: false,
            ran: past.running.clone(),
            stale: past.stale.clone().unwrap_or_default(),
            takes_room: false,
            way_until_ms: None,
            made_way: past.made_way && look.api.reach != Answers::Answering,
            yields_ms: look.api.since_ms.saturating_add(past.patience_ms),
            due_ms: None,
        };
        // On the node's network no parent is rejected, and there may be what the API server itself needs to come up.
        let in_the_way = life.class == Class::YieldFirst && !checkpoint.examined.host_network;
        if life.made_way || in_the_way {
            life.makes_way(look, rules);
        }
        if matches!(running, Running::Held | Running::Unknown) && look.api.reach != Answers::Answering {
            let idle_since_ms = look.now_ms.saturating_sub(past.idle_ms(look.now_ms)).max(look.api.since_ms);
            life.is_due(look.now_ms, idle_since_ms.saturating_add(LONGEST_PAUSE_MS));
        }
        life.look_after_copy(look, past);
        life
    }

    /// No copy of it is active for a while if the API server has given a sign of life.
    pub(super) fn makes_way(&mut self, look: &Look, rules: &Rules) {
        self.way_until_ms = way_until(look, rules);
        if let Some(until_ms) = self.way_until_ms.filter(|_| self.made_way || self.before.is_active()) {
            self.is_due(look.now_ms, until_ms);
        }
    }

    /// Whether its copy makes way now, or has.
    pub(super) fn has_made_way(&self) -> bool {
        let went = self.before.is_active() && !self.next.is_active();
        self.way_until_ms.is_some() && (went || self.made_way)
    }

    /// Whether the API server is waited for with haste.
    pub(super) fn hastens(&self) -> bool {
        let in_the_way = self.class == Class::YieldFirst || self.takes_room;
        self.next.is_active() && in_the_way || self.has_made_way()
    }

    /// Whether its copy has made way for nothing, and comes back.
    fn returns(&self) -> bool {
        self.made_way && self.way_until_ms.is_none()
    }

    /// Takes in that something is due at `at_ms`, unless that is over.
    pub(super) fn is_due(&mut self, now_ms: u64, at_ms: u64) {
        if at_ms > now_ms {
            self.due_ms = Some(self.due_ms.map_or(at_ms, |due_ms| due_ms.min(at_ms)));
        }
    }

    /// How the copy does, and whether it is to be published anew.
    fn look_after_copy(&mut self, look: &Look, past: &mut Past) {
        if !self.before.is_active() {
            (past.published_ms, past.dead_since_ms) = (None, None);
            return;
        }
        let published_ms = *past.published_ms.get_or_insert(look.now_ms);
        let Some(sandboxes) = &self.sandboxes else { return };
        if sandboxes.copy_lives() {
            past.dead_since_ms = None;
            let late_ms = published_ms.saturating_add(START_MS);
            let late = look.now_ms >= late_ms;
            let runs = sandboxes.copy_runs();
            if !runs {
                self.is_due(look.now_ms, late_ms);
            }
            self.copy = match runs {
                true => {
                    past.attempts = 0;
                    CopyStatus::Running
                }
                false if late => CopyStatus::Failing("it has a sandbox, but none of its containers runs".to_owned()),
                false => CopyStatus::Starting,
            };
            return;
        }
        // A kubelet has its time from when it starts.
        let kubelet_ms = match look.kubelet {
            Fact::Known(Kubelet::Running { since_ms }) => since_ms,
            Fact::Known(Kubelet::NotRunning) | Fact::Unknown(_) => 0,
        };
        let dead_since_ms = (*past.dead_since_ms.get_or_insert(look.now_ms)).max(published_ms).max(kubelet_ms);
        let dead_ms = look.now_ms.saturating_sub(dead_since_ms);
        if dead_ms < START_MS {
            self.copy = CopyStatus::Starting;
            self.is_due(look.now_ms, dead_since_ms.saturating_add(START_MS));
            return;
        }
        let Fact::Known(Kubelet::Running { .. }) = look.kubelet else {
            self.copy = CopyStatus::Failing("no kubelet runs that could start it".to_owned());
            return;
        };
        self.copy = CopyStatus::Failing(format!("the kubelet has made no sandbox for it in {} s", dead_ms / 1000));
        let pause = REPUBLISH_MS.saturating_mul(2_u64.saturating_pow(past.attempts)).min(REPUBLISH_LONGEST_MS);
        if dead_ms >= pause {
            self.republish = true;
            past.attempts += 1;
            past.published_ms = Some(look.now_ms);
            past.dead_since_ms = Some(look.now_ms);
        }
        // What is published anew is so by the next look, when it is on record.
        self.is_due(look.now_ms, if self.republish { look.now_ms + 1000 } else { dead_since_ms.saturating_add(pause) });
    }

    /// Whether a kubelet that knows its pods counts the parent among them.
    pub(super) fn is_known_parent(&self) -> bool {
        let over =
            matches!(self.checkpoint.examined.verdict, Verdict::NotMeant(NotMeant::Finished | NotMeant::Deleting));
        !over && !self.checkpoint.gone
    }

    /// Whether the parent has a ready sandbox.
    pub(super) fn has_sandbox(&self) -> bool {
        self.sandboxes.as_ref().is_some_and(Sandboxes::ready)
    }

    /// Whether a copy of it has a ready sandbox, be it on its way out.
    pub(super) fn copy_has_sandbox(&self) -> bool {
        self.sandboxes.as_ref().is_some_and(Sandboxes::copy_lives)
    }

    /// Whether this is the sandbox of a copy of it.
    pub(super) fn has_copy(&self, sandbox: &Sandbox) -> bool {
        self.sandboxes.as_ref().is_some_and(|sandboxes| sandboxes.copy.iter().any(|copy| copy.id == sandbox.id))
    }

    /// Whether a copy may be started at all, now or later.
    fn startable(&self) -> bool {
        self.wanted == Some(Activity::Active) && !self.held
    }

    /// Whether a copy that runs has to stop although its parent does not take over.
    fn stops(&self) -> bool {
        if self.held {
            return true;
        }
        if let Some(wanted) = self.wanted {
            return wanted == Activity::Prepared;
        }
        match &self.checkpoint.examined.verdict {
            Verdict::Recoverable { .. } | Verdict::WhenNetworkIs { .. } => false,
            // A parent that was made anew may be unknown to this node; its predecessor's copy is handed over.
            Verdict::NotRecoverable { reasons } => {
                !reasons.iter().all(|reason| reason.is_ignorance() || *reason == Reason::NeverRan)
            }
            Verdict::NotMeant(NotMeant::Finished | NotMeant::Deleting) => false,
            Verdict::NotMeant(NotMeant::RunsOnce | NotMeant::OptedOut | NotMeant::PolicyOff | NotMeant::NotAParent) => {
                true
            }
        }
    }

    /// Whether the parent takes over from a copy now.
    fn takes_over(&mut self, look: &Look) -> bool {
        let answers = look.api.reach == Answers::Answering;
        let comes = match self.running {
            Running::Yes => true,
            Running::Held => self.sandboxes.as_ref().is_some_and(|sandboxes| sandboxes.comes(&self.stale)),
            Running::No | Running::Unknown => false,
        };
        if self.way_until_ms.is_some() {
            return true;
        }
        match self.class {
            Class::YieldFirst => {
                let sighted = answers && look.api.sighted.contains_key(&self.checkpoint.examined.pod);
                if sighted && self.before.is_active() {
                    self.is_due(look.now_ms, self.yields_ms);
                }
                comes || sighted && look.now_ms >= self.yields_ms
            }
            Class::HostNetwork => comes,
            // Where the copy does not run either, its going leaves no gap.
            Class::Overlap => self.runs_well(look) || comes && self.copy_is_down(),
        }
    }

    fn copy_is_down(&self) -> bool {
        self.sandboxes.as_ref().is_some_and(|sandboxes| !sandboxes.copy_runs())
    }

    fn runs_well(&mut self, look: &Look) -> bool {
        let Examined { containers, ready, .. } = &self.checkpoint.examined;
        let (running, since_ms) = &self.ran;
        let all = containers.iter().all(|name| running.iter().any(|(running, _)| running == name));
        if running.is_empty() || !all {
            return false;
        }
        // What the API server calls ready are these very containers, and not those of before.
        let are_ready = ready.as_ref().is_some_and(|ready| running.iter().all(|(_, id)| ready.contains(id)));
        let until_ms = since_ms.saturating_add(RUNS_WELL_MS);
        if self.before.is_active() {
            self.is_due(look.now_ms, until_ms);
        }
        are_ready || look.now_ms >= until_ms
    }

    /// The next state.
    pub(super) fn step(&mut self, look: &Look, rules: &Rules, elapsed_ms: u64) {
        let seen = self.seen(look, rules, elapsed_ms);
        self.next = self.before.next(&seen, rules.grace_ms);
    }

    fn seen(&mut self, look: &Look, rules: &Rules, elapsed_ms: u64) -> Seen {
        Seen {
            api: look.api.reach,
            parent: self.presence,
            running: self.running,
            sandbox: self.has_sandbox(),
            takes_over: self.takes_over(look),
            own: rules.own_pod.as_ref() == Some(&self.checkpoint.examined.pod),
            annotated: self.checkpoint.examined.annotated,
            startable: self.startable(),
            due: self.wait.is_none(),
            stop: self.stops(),
            returns: self.returns(),
            elapsed_ms,
        }
    }

    /// Whether its copy would be started but for what it waits for.
    pub(super) fn only_waits(&self, look: &Look) -> bool {
        let asked = self.checkpoint.examined.annotated && self.presence == Presence::Present;
        let silent = look.api.reach == Answers::Silent || self.returns();
        let unanswered = silent && self.presence == Presence::Unknown;
        self.running == Running::No && self.startable() && (unanswered || asked) && !self.next.is_active()
    }

    /// Why a copy that would be started has to wait, and until when that may be over.
    pub(super) fn wait(&self, look: &Look, rules: &Rules, past: &Past, places: &Places) -> Option<Why> {
        let Examined { annotated, system_critical, .. } = self.checkpoint.examined;
        let own = rules.own_pod.as_ref() == Some(&self.checkpoint.examined.pod);
        if rules.break_glass || own {
            return None;
        }
        if let Some(until_ms) = self.way_until_ms {
            return Some(Why::MakesWay { until_ms });
        }
        if places.knowledge != Knowledge::Forgot {
            let seen_ms = match look.api.reach {
                Answers::Answering => look.api.since_ms.saturating_add(SEES_PODS_MS),
                Answers::Silent | Answers::Refusing => 0,
            };
            let until_ms = past.no_since_ms.map(|since_ms| since_ms.saturating_add(SETTLE_MS).max(seen_ms));
            if let Some(until_ms) = until_ms.filter(|until_ms| look.now_ms < *until_ms) {
                return Some(Why::Settling { until_ms });
            }
        }
        if !annotated && !system_critical && !self.returns() && look.api.reach != Answers::Answering {
            let until_ms = delay_until(look, rules);
            if look.now_ms < until_ms {
                return Some(Why::Delay { until_ms });
            }
        }
        places.wait(self, look.now_ms, annotated || system_critical)
    }
}

impl Life<'_> {
    /// Where the manifest belongs.
    pub(super) fn activity(&self, look: &Look, rules: &Rules) -> Activity {
        if !self.next.is_active() {
            return Activity::Prepared;
        }
        let lives = match (&self.sandboxes, &look.boot) {
            (Some(sandboxes), _) => sandboxes.copy_lives(),
            // Nothing that lies there was started in this boot.
            (None, Fact::Known(Boot::New { kubelet_ran: false })) => false,
            (None, _) => !rules.break_glass,
        };
        // What runs is not restarted for a change; its trees follow.
        if lives && self.before.is_active() { Activity::AsItIs } else { Activity::Active }
    }

    /// Whether the row in the store says something else.
    pub(super) fn is_worth_recording(&self) -> bool {
        let left = |state| match state {
            State::InactiveGrace { left_ms } | State::ActiveGrace { left_ms } | State::HandedOver { left_ms } => {
                left_ms
            }
            State::None | State::Inactive | State::Active | State::SelfActive | State::Removed => 0,
        };
        let recorded = self.checkpoint.state;
        // A new pod is inactive, and so is its row.
        let same = recorded.code() == self.next.code()
            || matches!((recorded, self.next), (State::Active, State::SelfActive) | (State::None, State::Inactive));
        self.republish || !same || left(recorded).abs_diff(left(self.next)) >= RECORDED_EACH_MS
    }
}

/// Until when copies make way, if they do: the API server has given a sign of life, and no answer yet. One that has not come
/// by then is not waited for, and no further sign counts in the same outage.
pub(super) fn way_until(look: &Look, rules: &Rules) -> Option<u64> {
    let waited_for = look.api.reach != Answers::Answering && !rules.break_glass;
    let sign_ms = look.api.sign_ms.filter(|_| waited_for)?;
    let until_ms = sign_ms.saturating_add(rules.activation_delay_ms.max(MAKES_WAY_MS));
    (look.now_ms < until_ms).then_some(until_ms)
}

/// When the API server has been silent for long enough.
fn delay_until(look: &Look, rules: &Rules) -> u64 {
    if rules.activation_delay_ms == 0 {
        return look.api.since_ms;
    }
    let at_the_latest = look.api.since_ms.saturating_add(rules.without_route_ms.max(rules.activation_delay_ms));
    let routed = look.api.routed_since_ms.map(|since_ms| since_ms.saturating_add(rules.activation_delay_ms));
    routed.map_or(at_the_latest, |until_ms| until_ms.min(at_the_latest))
}

fn class(examined: &Examined) -> Class {
    match (examined.yield_first, examined.host_network) {
        (true, _) => Class::YieldFirst,
        (false, true) => Class::HostNetwork,
        (false, false) => Class::Overlap,
    }
}

fn presence(checkpoint: &Checkpoint, look: &Look) -> Presence {
    let api = &look.api;
    if api.reach != Answers::Answering || !api.in_step {
        return Presence::Unknown;
    }
    let Examined { pod, uid, verdict, .. } = &checkpoint.examined;
    // What is seen is newer than what is stored.
    if api.sighted.get(pod).is_some_and(|sighted| checkpoint.gone || sighted != uid) {
        return Presence::Unknown;
    }
    match verdict {
        _ if checkpoint.gone => Presence::Absent,
        Verdict::NotMeant(NotMeant::Finished | NotMeant::Deleting) => Presence::Ending,
        Verdict::Recoverable { .. }
        | Verdict::WhenNetworkIs { .. }
        | Verdict::NotRecoverable { .. }
        | Verdict::NotMeant(NotMeant::RunsOnce | NotMeant::OptedOut | NotMeant::PolicyOff | NotMeant::NotAParent) => {
            Presence::Present
        }
    }
}
