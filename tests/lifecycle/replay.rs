//! The predecessor's transition table, row by row: we do what it did, but for the differences that are listed here.
//!
//! `tests/data/pod-checkpointer.json` has its 144 rows. What it could not see (a runtime that does not answer, a second pod of
//! the same name, finished work) is told apart by rows of our own: each says which of the 144 the predecessor would have
//! taken it for.

use std::collections::BTreeMap;

use ckpt_db::checkpoint::lifecycle::{Checkpoint, HANDED_OVER_MS, Presence, Rules, Running, Seen, State, Timeline};
use ckpt_db::checkpoint::look::{Answers, ContainerState, Kubelet};
use ckpt_db::checkpoint::node::Fact;
use serde_json::{Value, json};

use super::pods::{ANNOTATED, both_stages, checkpoint, dark, name, object, sandbox};

const GRACE_MS: u64 = 60_000;
/// Of a grace period that is not over.
const LEFT_MS: u64 = 30_000;

/// What the predecessor sees of a pod. It knows no other conditions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Conditions {
    state: &'static str,
    /// `None` where the state has no deadline.
    grace_expired: Option<bool>,
    api_available: bool,
    api_parent: bool,
    local_running: bool,
    local_parent: bool,
}

const STATES: [&str; 7] =
    ["SelfCheckpointActive", "None", "Inactive", "InactiveGracePeriod", "Active", "ActiveGracePeriod", "Remove"];

/// Its state and the action that it takes.
type Outcome = (String, String);

fn table() -> BTreeMap<Conditions, Outcome> {
    let file: Value = serde_json::from_str(include_str!("../data/pod-checkpointer.json")).unwrap();
    let rows = file["transitions"].as_array().unwrap();
    let table: BTreeMap<_, _> = rows
        .iter()
        .map(|row| {
            let text = |key: &str| row[key].as_str().unwrap().to_owned();
            let flag = |key: &str| row[key].as_bool().unwrap();
            let conditions = Conditions {
                state: STATES.into_iter().find(|state| row["state"] == **state).unwrap(),
                grace_expired: row["graceExpired"].as_bool(),
                api_available: flag("apiAvailable"),
                api_parent: flag("apiParent"),
                local_running: flag("localRunning"),
                local_parent: flag("localParent"),
            };
            (conditions, (text("next"), text("emitted")))
        })
        .collect();
    assert_eq!((rows.len(), table.len()), (144, 144));
    table
}

/// Our state for one of the predecessor's.
fn ours(state: &str, grace_expired: Option<bool>) -> State {
    let left_ms = if grace_expired == Some(true) { 0 } else { LEFT_MS };
    match state {
        "SelfCheckpointActive" => State::SelfActive,
        "None" => State::None,
        "Inactive" => State::Inactive,
        "InactiveGracePeriod" => State::InactiveGrace { left_ms },
        "Active" => State::Active,
        "ActiveGracePeriod" => State::ActiveGrace { left_ms },
        "Remove" => State::Removed,
        state => panic!("{state} is no state of the predecessor"),
    }
}

/// The predecessor's name for one of our states; the one that it does not know keeps its own.
fn theirs(state: State) -> &'static str {
    match state {
        State::None => "None",
        State::Inactive => "Inactive",
        State::InactiveGrace { .. } => "InactiveGracePeriod",
        State::Active => "Active",
        State::ActiveGrace { .. } => "ActiveGracePeriod",
        State::HandedOver { .. } => "HandedOver",
        State::SelfActive => "SelfCheckpointActive",
        State::Removed => "Remove",
    }
}

/// What is done about the files when one state follows on another: an action of another class, as the predecessor has it.
fn emitted(before: State, next: State) -> &'static str {
    let class = |state: State| match state {
        State::None => "nothing",
        State::Removed => "remove",
        state if state.is_active() => "start",
        _ => "stop",
    };
    if class(before) == class(next) { "nothing" } else { class(next) }
}

/// A pod at one moment: what the predecessor takes it for, and what we make of it.
struct Situation {
    about: String,
    conditions: Conditions,
    before: State,
    next: State,
}

/// One of the predecessor's rows as we see it: its parent is annotated, its copy overlaps, and it is time.
fn seen(conditions: Conditions) -> Seen {
    let Conditions { api_available, api_parent, local_running, .. } = conditions;
    Seen {
        api: if api_available { Answers::Answering } else { Answers::Silent },
        parent: match (api_available, api_parent) {
            (true, true) => Presence::Present,
            (true, false) => Presence::Absent,
            (false, _) => Presence::Unknown,
        },
        running: if local_running { Running::Yes } else { Running::No },
        sandbox: local_running,
        takes_over: local_running,
        own: conditions.state == "SelfCheckpointActive",
        annotated: true,
        startable: true,
        due: true,
        stop: false,
        returns: false,
        elapsed_ms: 0,
    }
}

/// The pod of a row, with something that the predecessor does not see.
fn twisted(about: &str, conditions: Conditions, before: State, twist: impl Fn(&mut Seen)) -> Situation {
    let mut seen = seen(conditions);
    twist(&mut seen);
    Situation { about: about.to_owned(), conditions, before, next: before.next(&seen, GRACE_MS) }
}

fn row(conditions: Conditions) -> Situation {
    twisted("", conditions, ours(conditions.state, conditions.grace_expired), |_| ())
}

const fn conditions(state: &'static str, api: Option<bool>, local_running: bool) -> Conditions {
    let (api_available, api_parent) = match api {
        Some(parent) => (true, parent),
        None => (false, false),
    };
    Conditions { state, grace_expired: None, api_available, api_parent, local_running, local_parent: true }
}

const SILENT: Option<bool> = None;
const PRESENT: Option<bool> = Some(true);

/// A stored pod on a machine that was switched on with nobody to ask, through both stages: what becomes of its checkpoint.
fn in_the_dark(about: &str, before: State, change: &Value, running_uid: Option<&str>) -> Situation {
    let pod = name("web");
    let annotations = change["metadata"]["annotations"].as_object();
    let checkpoint: Checkpoint = checkpoint(&object(&pod, "uid-now", change), before);
    let mut look = dark();
    let rules = Rules { activation_delay_ms: 0, ..Rules::default() };
    if let (Some(uid), Fact::Known(runtime)) = (running_uid, &mut look.runtime) {
        runtime.sandboxes.push(sandbox(&pod, uid, ContainerState::Running));
        look.kubelet = Fact::Known(Kubelet::Running { since_ms: 500 });
    }
    if before.is_active() {
        look.manifests = Fact::Known([(pod, "uid-now".to_owned())].into());
    }
    let mut timeline = Timeline::default();
    both_stages(std::slice::from_ref(&checkpoint), &look, &rules, &mut timeline);
    // Long enough for a parent that runs to run well.
    look.now_ms += 10_000;
    let lives = both_stages(&[checkpoint], &look, &rules, &mut timeline);
    let about = format!("{about} ({})", annotations.map_or("not annotated", |_| "annotated"));
    let conditions = conditions(theirs(before), SILENT, running_uid.is_some());
    Situation { about, conditions, before, next: lives.standings[0].state }
}

/// What the predecessor can't tell from something else.
fn unseen() -> Vec<Situation> {
    let mut all = Vec::new();
    // 2: a runtime that does not answer is an empty one to it, every error of the API server an outage.
    for state in ["None", "Inactive", "InactiveGracePeriod"] {
        let grace_expired = (state == "InactiveGracePeriod").then_some(false);
        for api in [SILENT, PRESENT] {
            let conditions = Conditions { grace_expired, ..conditions(state, api, false) };
            let before = ours(state, grace_expired);
            all.push(twisted("the runtime fails", conditions, before, |seen| seen.running = Running::Unknown));
        }
        let conditions = Conditions { grace_expired, ..conditions(state, SILENT, false) };
        let before = ours(state, grace_expired);
        all.push(twisted("the API server refuses", conditions, before, |seen| seen.api = Answers::Refusing));
    }
    // A sandbox without a running container, though, runs for both.
    for api in [SILENT, PRESENT] {
        all.push(twisted("a sandbox only", conditions("Inactive", api, true), State::Inactive, |seen| {
            (seen.running, seen.takes_over) = (Running::Held, false);
        }));
    }

    // 3: it knows pods by their names. For both, a pod of a name that runs is not doubled.
    all.push(in_the_dark("another pod of that name runs beside a copy", State::Active, &json!({}), Some("uid-before")));
    all.push(in_the_dark("this very pod runs beside a copy", State::Active, &json!({}), Some("uid-now")));
    all.push(in_the_dark("some pod of that name runs", State::Inactive, &json!({}), Some("uid-before")));
    all.push(in_the_dark("some pod of that name runs", State::Inactive, &json!({}), Some("uid-now")));

    // 4: it does not look at what became of a pod.
    let yes = |change: Value| {
        let mut change = change;
        change["metadata"]["annotations"][ANNOTATED] = json!("true");
        change
    };
    let status = |phase: &str, reason: &str| json!({"status": {"phase": phase, "reason": reason}});
    for finished in [
        status("Succeeded", ""),
        status("Failed", ""),
        status("Failed", "Evicted"),
        status("Failed", "Preempting"),
        status("Failed", "OutOfcpu"),
        status("Failed", "NodePorts"),
        status("Failed", "NodeAffinity"),
        status("Failed", "NodeLost"),
        json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}),
    ] {
        let about = format!("finished: {finished}");
        all.push(in_the_dark(&about, State::Inactive, &finished, None));
        all.push(in_the_dark(&about, State::Inactive, &yes(finished), None));
    }
    for policy in ["Never", "OnFailure"] {
        let runs_once = json!({"spec": {"restartPolicy": policy}});
        all.push(in_the_dark(&format!("finished: restartPolicy {policy}"), State::Inactive, &runs_once, None));
        all.push(in_the_dark(&format!("restartPolicy {policy}"), State::Inactive, &yes(runs_once), None));
    }
    for reason in ["Terminated", "NodeShutdown", "Shutdown"] {
        all.push(in_the_dark(&format!("node shut down: {reason}"), State::Inactive, &status("Failed", reason), None));
    }
    let never_ran = json!({"status": {"phase": "Pending"}});
    all.push(in_the_dark("finished: it never ran", State::Inactive, &never_ran, None));

    // 5: nor who made it.
    let owner = |kind: &str| json!([{"apiVersion": "apps/v1", "kind": kind, "name": "set", "uid": "u"}]);
    let set = json!({"metadata": {"ownerReferences": owner("StatefulSet")}});
    all.push(in_the_dark("at most one", State::Inactive, &set, None));
    all.push(in_the_dark("at most one", State::Inactive, &yes(set), None));
    let of_daemon = json!({"metadata": {"ownerReferences": owner("DaemonSet")}});
    all.push(in_the_dark("one for each node", State::Inactive, &of_daemon, None));

    // 6: its own copy takes the way of every other one, once it has begun to go.
    for (state, api) in [("Inactive", PRESENT), ("Inactive", SILENT), ("ActiveGracePeriod", PRESENT)] {
        let grace_expired = (state == "ActiveGracePeriod").then_some(false);
        let conditions = Conditions { grace_expired, ..conditions(state, api, true) };
        all.push(twisted("its own", conditions, ours(state, grace_expired), |seen| seen.own = true));
    }

    // 7: after a hand-over a pod is inactive like any other.
    for (about, running) in [("can't start", Running::Held), ("died", Running::No)] {
        let before = State::HandedOver { left_ms: LEFT_MS };
        let conditions = conditions("Inactive", PRESENT, running == Running::Held);
        let about = format!("the parent {about} after the hand-over");
        all.push(twisted(&about, conditions, before, |seen| {
            (seen.running, seen.sandbox, seen.takes_over) = (running, true, false);
        }));
    }

    // 8: the classes of a hand-over.
    for api in [SILENT, PRESENT] {
        all.push(twisted("overlap: a sandbox is not enough", conditions("Active", api, true), State::Active, |seen| {
            (seen.running, seen.takes_over) = (Running::Held, false);
        }));
        all.push(twisted("overlap: runs, not for long", conditions("Active", api, true), State::Active, |seen| {
            seen.takes_over = false;
        }));
    }
    let yields = |seen: &mut Seen| seen.takes_over = true;
    all.push(twisted("yield first: the parent is named", conditions("Active", PRESENT, false), State::Active, yields));
    all.push(twisted("yield first: no copy", conditions("Inactive", PRESENT, false), State::Inactive, yields));

    // 9: it has no pods that were not annotated, and 10: it waits for nothing.
    let unannotated = |seen: &mut Seen| seen.annotated = false;
    all.push(twisted("not annotated", conditions("Inactive", PRESENT, false), State::Inactive, unannotated));
    all.push(twisted("not annotated, silent", conditions("Inactive", SILENT, false), State::Inactive, unannotated));
    for api in [SILENT, PRESENT] {
        let early = |seen: &mut Seen| seen.due = false;
        all.push(twisted("not yet due", conditions("Inactive", api, false), State::Inactive, early));
    }

    // 11: nobody can tell it to stop.
    for api in [SILENT, PRESENT] {
        let held = |seen: &mut Seen| (seen.startable, seen.stop) = (false, true);
        all.push(twisted("held", conditions("Active", api, false), State::Active, held));
        all.push(twisted("held", conditions("Inactive", api, false), State::Inactive, held));
    }
    all
}

/// Where we do something else on purpose.
struct Difference {
    /// Up to 7 as in the list of the design; the rest follows from its text.
    number: u32,
    reason: &'static str,
    /// Which situations it is about.
    covers: fn(&Situation) -> bool,
    /// What we do instead: the state, and the action.
    instead: fn(&Situation) -> (State, &'static str),
}

const HANDED_OVER: State = State::HandedOver { left_ms: HANDED_OVER_MS };

fn is_about(situation: &Situation, about: &str) -> bool {
    situation.about.starts_with(about)
}

#[rustfmt::skip]
const DIFFERENCES: [Difference; 12] = [
    Difference {
        number: 1,
        reason: "nothing is removed, and no grace period ends, while the API server does not answer",
        covers: |s| {
            let Conditions { state, grace_expired, api_available, local_running, .. } = s.conditions;
            let over = grace_expired == Some(true) && !api_available;
            over && (state == "InactiveGracePeriod" && local_running || state == "ActiveGracePeriod" && !local_running)
        },
        instead: |s| (s.before, "nothing"),
    },
    Difference {
        number: 2,
        reason: "unknown is not no: a runtime that fails says nothing, and a 403 is not an outage",
        covers: |s| is_about(s, "the runtime fails") || is_about(s, "the API server refuses"),
        instead: |s| match (s.before, s.conditions.api_available) {
            (State::InactiveGrace { .. }, false) => (s.before, "nothing"),
            (State::None, _) => (State::Inactive, "stop"),
            _ => (State::Inactive, "nothing"),
        },
    },
    Difference {
        number: 3,
        reason: "identity is the UID: another pod of the same name is another parent",
        covers: |s| is_about(s, "another pod of that name runs"),
        instead: |_| (State::Active, "nothing"),
    },
    Difference {
        number: 4,
        reason: "finished work is never run again",
        covers: |s| is_about(s, "finished"),
        instead: |_| (State::Inactive, "nothing"),
    },
    Difference {
        number: 5,
        reason: "a StatefulSet's pod is at most one in the whole cluster",
        covers: |s| s.about == "at most one (not annotated)",
        instead: |_| (State::Inactive, "nothing"),
    },
    Difference {
        number: 6,
        reason: "the agent's own copy is active whatever else holds, unless its parent is gone",
        covers: |s| is_about(s, "its own"),
        instead: |s| (State::SelfActive, emitted(s.before, State::SelfActive)),
    },
    Difference {
        number: 7,
        reason: "a parent that took over is left alone for a while, or it flaps with its copy",
        covers: |s| {
            let Conditions { state, api_available, api_parent, local_running, .. } = s.conditions;
            let plain = s.about.is_empty() && local_running && (api_parent || !api_available);
            let copied = matches!(state, "Active" | "ActiveGracePeriod");
            plain && copied || is_about(s, "this very pod runs") || is_about(s, "the parent")
        },
        instead: |s| match s.before {
            State::HandedOver { .. } => (s.before, "nothing"),
            _ => (HANDED_OVER, "stop"),
        },
    },
    Difference {
        number: 8,
        reason: "what a hand-over waits for depends on what parent and copy can't share",
        covers: |s| is_about(s, "overlap") || is_about(s, "yield first"),
        instead: |s| match (s.about.as_str(), s.before) {
            ("yield first: the parent is named", _) => (HANDED_OVER, "stop"),
            (_, before) => (before, "nothing"),
        },
    },
    Difference {
        number: 9,
        reason: "all pods are stored; those that nobody annotated are the kubelet's business while the API server answers",
        covers: |s| s.about == "not annotated",
        instead: |_| (State::Inactive, "nothing"),
    },
    Difference {
        number: 10,
        reason: "an ordinary reboot must not start everything twice: the API server gets a while to answer",
        covers: |s| is_about(s, "not yet due"),
        instead: |_| (State::Inactive, "nothing"),
    },
    Difference {
        number: 11,
        reason: "the operator may hold a copy",
        covers: |s| is_about(s, "held"),
        instead: |s| (State::Inactive, emitted(s.before, State::Inactive)),
    },
    Difference {
        number: 12,
        reason: "nothing depends on the kubelet's /pods, which a current one keeps to itself: what is stored is known",
        covers: |s| {
            let Conditions { state, local_parent, local_running, .. } = s.conditions;
            state == "None" && !local_parent && !local_running
        },
        instead: |s| match s.conditions.api_available && !s.conditions.api_parent {
            true => (State::InactiveGrace { left_ms: GRACE_MS }, "stop"),
            false => (State::Active, "start"),
        },
    },
];

/// Whether `state` is what the predecessor's `name` means; a grace period that it begins is a whole one.
fn agrees(situation: &Situation, expected: &Outcome) -> bool {
    let Situation { before, next, .. } = *situation;
    let (state, action) = expected;
    let whole = match (before, next) {
        (
            State::InactiveGrace { left_ms: before } | State::ActiveGrace { left_ms: before },
            State::InactiveGrace { left_ms } | State::ActiveGrace { left_ms },
        ) => left_ms == before,
        (_, State::InactiveGrace { left_ms } | State::ActiveGrace { left_ms }) => left_ms == GRACE_MS,
        _ => true,
    };
    // Its own checkpoint's name is another one; the file is in the same place.
    whole && theirs(next) == state && emitted(before, next) == action
}

/// Which situations do not go as the predecessor's table or the given differences have it.
fn replay<'a>(situations: &'a [Situation], differences: &[&Difference]) -> Vec<(&'a Situation, String)> {
    let table = table();
    let mut wrong = Vec::new();
    for situation in situations {
        let expected = &table[&situation.conditions];
        let covering: Vec<_> = differences.iter().filter(|difference| (difference.covers)(situation)).collect();
        let problem = match covering[..] {
            [] if agrees(situation, expected) => continue,
            [] => format!("the predecessor: {expected:?}"),
            [difference] => {
                let (state, action) = (difference.instead)(situation);
                let no_difference = expected.0 == theirs(state) && expected.1 == action;
                if no_difference {
                    format!("difference {} is none here", difference.number)
                } else if (situation.next, emitted(situation.before, situation.next)) == (state, action) {
                    continue;
                } else {
                    format!("difference {} says {state:?}, {action}", difference.number)
                }
            }
            [..] => "more than one difference is about it".to_owned(),
        };
        wrong.push((situation, problem));
    }
    wrong
}

fn situations() -> Vec<Situation> {
    table().into_keys().map(row).chain(unseen()).collect()
}

fn shown(wrong: &[(&Situation, String)]) -> String {
    let line = |(Situation { about, conditions, before, next }, problem): &(&Situation, String)| {
        format!("{about} {conditions:?}: {before:?} became {next:?}; {problem}\n")
    };
    wrong.iter().map(line).collect()
}

#[test]
fn every_row_goes_as_it_did_or_differs_on_purpose() {
    let situations = situations();
    let wrong = replay(&situations, &DIFFERENCES.each_ref());
    assert!(wrong.is_empty(), "{}", shown(&wrong));
}

/// Each listed difference is real: without it, exactly the rows that it is about no longer fit.
#[test]
fn no_difference_can_be_left_out() {
    let situations = situations();
    for left_out in &DIFFERENCES {
        let rest: Vec<_> = DIFFERENCES.iter().filter(|difference| difference.number != left_out.number).collect();
        let wrong = replay(&situations, &rest);
        assert!(!wrong.is_empty(), "nothing shows difference {}: {}", left_out.number, left_out.reason);
        for (situation, problem) in &wrong {
            assert!((left_out.covers)(situation), "without difference {}: {}", left_out.number, problem);
        }
        let about = situations.iter().filter(|situation| (left_out.covers)(situation)).count();
        assert_eq!(wrong.len(), about, "without difference {}", left_out.number);
    }
}

/// How many of the 144 rows go as they did.
#[test]
fn most_rows_go_as_they_did() {
    let rows: Vec<_> = table().into_keys().map(row).collect();
    let differs = |number: u32| {
        let difference = DIFFERENCES.iter().find(|difference| difference.number == number).unwrap();
        rows.iter().filter(|situation| (difference.covers)(situation)).count()
    };
    let counts: Vec<_> = DIFFERENCES.iter().map(|difference| (difference.number, differs(difference.number))).collect();
    let counts: Vec<_> = counts.into_iter().filter(|(_, count)| *count > 0).collect();
    assert_eq!(counts, [(1, 8), (7, 18), (12, 4)]);
    assert_eq!(replay(&rows, &[]).len(), 30);
}
