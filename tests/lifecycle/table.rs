//! The complete table of [`State::next`]: every state under everything that can be seen, against rules that were written from
//! the design and not from the code; then properties that the rules do not state one by one.

use ckpt_db::checkpoint::lifecycle::{HANDED_OVER_MS, Presence, Running, Seen, State};
use ckpt_db::checkpoint::look::Answers;

use Presence::{Absent, Ending, Present};
use State::{Active, ActiveGrace, HandedOver, Inactive, InactiveGrace, Removed, SelfActive};

const STEP_MS: u64 = 10_000;
const GRACE_MS: u64 = 60_000;

/// What is left of a period: nothing, exactly one step, and more.
const LEFT_MS: [u64; 3] = [0, STEP_MS, 3 * STEP_MS];

/// One cell of the table: where a checkpoint stands, what is seen, and the grace period.
#[derive(Clone, Copy, Debug)]
struct Cell {
    state: State,
    seen: Seen,
    grace_ms: u64,
}

impl Cell {
    fn next(&self) -> State {
        self.state.next(&self.seen, self.grace_ms)
    }

    /// What the API server says of the parent: nothing, unless it answers.
    fn parent(&self) -> Presence {
        if self.seen.api == Answers::Answering { self.seen.parent } else { Presence::Unknown }
    }

    fn parent_is(&self, presence: Presence) -> bool {
        self.parent() == presence
    }

    /// What is left of the period after the time that has passed.
    fn left_ms(&self) -> u64 {
        left(self.state).saturating_sub(self.seen.elapsed_ms)
    }

    fn in_active_grace(&self) -> bool {
        matches!(self.state, ActiveGrace { .. })
    }

    fn in_inactive_grace(&self) -> bool {
        matches!(self.state, InactiveGrace { .. })
    }

    fn handed_over(&self) -> bool {
        matches!(self.state, HandedOver { .. })
    }

    /// A copy is active, and no grace period runs.
    fn stands_in(&self) -> bool {
        matches!(self.state, Active | SelfActive)
    }

    /// It has made way for a parent that did not come, and nobody answers.
    fn returns(&self) -> bool {
        self.seen.returns && self.seen.api != Answers::Answering
    }

    /// A copy may be started and it is time for it: the parent proven not to run, and either nobody heard of the API server,
    /// or it names the parent and the operator asked for a copy even then, or it has made way for nothing.
    fn starts(&self) -> bool {
        let Seen { api, running, takes_over, annotated, startable, due, stop, .. } = self.seen;
        let asked = api == Answers::Answering && self.parent_is(Present) && annotated;
        let may = api == Answers::Silent || asked || self.returns();
        running == Running::No && startable && due && !stop && !takes_over && may
    }

    /// A hand-over is waited for: as long as there is a sandbox, and as long as anything answers.
    fn waits_for_parent(&self) -> bool {
        self.handed_over()
            && self.left_ms() > 0
            && !self.returns()
            && (self.seen.sandbox || self.seen.api != Answers::Silent)
    }

    fn begin_grace(&self, active: bool) -> State {
        grace(self.grace_ms, active)
    }
}

/// A grace period that lasts `left_ms` more; over, the checkpoint is removed.
fn grace(left_ms: u64, active: bool) -> State {
    match (left_ms, active) {
        (0, _) => Removed,
        (left_ms, true) => ActiveGrace { left_ms },
        (left_ms, false) => InactiveGrace { left_ms },
    }
}

/// A rule: what it is about, when it holds, and what follows.
type Rule = (&'static str, fn(&Cell) -> bool, fn(&Cell) -> State);

/// In order: the first that holds decides.
#[rustfmt::skip]
const RULES: [Rule; 23] = [
    ("removed is final",
        |c| c.state == Removed, |_| Removed),

    // The agent's own copy: nothing but a proven absence of its parent ends it.
    ("own: the copy stays",
        |c| c.seen.own && c.stands_in() && !c.parent_is(Absent), |_| SelfActive),
    ("own: scheduled again",
        |c| c.seen.own && c.in_active_grace() && (c.parent_is(Present) || c.parent_is(Ending)), |_| SelfActive),
    ("own: silence changes nothing",
        |c| c.seen.own && c.in_active_grace() && c.parent_is(Presence::Unknown), |c| c.state),
    ("own: gone, the copy runs through the grace period",
        |c| c.seen.own && c.stands_in(), |c| c.begin_grace(true)),
    ("own: the grace period runs, and nothing shortens it",
        |c| c.seen.own && c.in_active_grace(), |c| grace(c.left_ms(), true)),
    ("own: always has a copy",
        |c| c.seen.own && c.seen.startable && matches!(c.state, State::None | Inactive | HandedOver { .. }) && !c.parent_is(Absent),
        |_| SelfActive),
    ("own: has a copy again",
        |c| c.seen.own && c.seen.startable && c.in_inactive_grace() && (c.parent_is(Present) || c.parent_is(Ending)),
        |_| SelfActive),

    // A copy is active.
    ("stopped, and the parent is gone",
        |c| c.stands_in() && c.seen.stop && c.parent_is(Absent), |c| c.begin_grace(false)),
    ("stopped in its grace period, which goes on",
        |c| c.in_active_grace() && c.seen.stop && c.parent_is(Absent), |c| grace(c.left_ms(), false)),
    ("stopped in its grace period, which stands still",
        |c| c.in_active_grace() && c.seen.stop && c.parent_is(Presence::Unknown),
        |c| InactiveGrace { left_ms: left(c.state) }),
    ("stopped",
        |c| c.state.is_active() && c.seen.stop, |_| Inactive),
    ("the parent is gone",
        |c| c.stands_in() && c.parent_is(Absent), |c| c.begin_grace(true)),
    ("the parent is gone, and the grace period runs",
        |c| c.in_active_grace() && c.parent_is(Absent), |c| grace(c.left_ms(), true)),
    ("handed over",
        |c| c.state.is_active() && c.seen.takes_over, |_| HandedOver { left_ms: HANDED_OVER_MS }),
    ("the parent has finished: a grace period for its successor to come",
        |c| c.state.is_active() && c.parent_is(Ending),
        |c| match if c.in_active_grace() { c.left_ms() } else { c.grace_ms } { 0 => Inactive, left_ms => ActiveGrace { left_ms } }),
    ("silence neither ends a grace period nor lets it run",
        |c| c.in_active_grace() && c.parent_is(Presence::Unknown), |c| c.state),
    ("the copy stands in",
        |c| c.state.is_active(), |_| Active),

    // There is no copy.
    ("gone",
        |c| c.parent_is(Absent), |c| if c.in_inactive_grace() { grace(c.left_ms(), false) } else { c.begin_grace(false) }),
    ("a hand-over takes its time",
        Cell::waits_for_parent, |c| HandedOver { left_ms: c.left_ms() }),
    ("a copy is started",
        Cell::starts, |c| if c.seen.own { SelfActive } else { Active }),
    ("nothing to do but wait",
        |c| (c.handed_over() && c.left_ms() > 0) || (c.in_inactive_grace() && c.parent_is(Presence::Unknown)),
        |c| if c.handed_over() { HandedOver { left_ms: c.left_ms() } } else { c.state }),
    ("the parent is the kubelet's business",
        |_| true, |_| Inactive),
];

fn left(state: State) -> u64 {
    match state {
        InactiveGrace { left_ms } | ActiveGrace { left_ms } | HandedOver { left_ms } => left_ms,
        State::None | Inactive | Active | SelfActive | Removed => 0,
    }
}

/// Every cell, in a fixed order.
fn cells() -> impl Iterator<Item = Cell> {
    let states = [State::None, Inactive, Active, SelfActive, Removed].into_iter().chain(
        LEFT_MS
            .into_iter()
            .flat_map(|left_ms| [InactiveGrace { left_ms }, ActiveGrace { left_ms }, HandedOver { left_ms }]),
    );
    let apis = [Answers::Answering, Answers::Silent, Answers::Refusing];
    let parents = [Present, Ending, Absent, Presence::Unknown];
    let runnings = [Running::Yes, Running::Held, Running::No, Running::Unknown];
    states.flat_map(move |state| {
        apis.into_iter().flat_map(move |api| {
            parents.into_iter().flat_map(move |parent| {
                runnings.into_iter().flat_map(move |running| {
                    (0_u16..1 << 10).map(move |bits| {
                        let bit = |at: u16| bits & 1 << at != 0;
                        let elapsed_ms = if bit(7) { STEP_MS } else { 0 };
                        #[rustfmt::skip]
                        let seen = Seen {
                            api, parent, running, sandbox: bit(0), takes_over: bit(1), own: bit(2), annotated: bit(3),
                            startable: bit(4), due: bit(5), stop: bit(6), returns: bit(9), elapsed_ms,
                        };
                        Cell { state, seen, grace_ms: if bit(8) { 0 } else { GRACE_MS } }
                    })
                })
            })
        })
    })
}

#[test]
fn every_cell_follows_from_the_first_rule_that_holds() {
    let mut used = [0_usize; RULES.len()];
    let mut count = 0;
    for cell in cells() {
        let rule = RULES.iter().position(|(_, holds, _)| holds(&cell)).unwrap();
        let (about, _, follows) = RULES[rule];
        assert_eq!(cell.next(), follows(&cell), "{about}: {cell:?}");
        used[rule] += 1;
        count += 1;
    }
    assert_eq!(count, 14 * 3 * 4 * 4 * 1024);
    for ((about, ..), used) in RULES.iter().zip(used) {
        assert!(used > 0, "no cell needs the rule: {about}");
    }
}

/// A rule that could be left out without notice would be no rule.
#[test]
fn every_rule_counts() {
    for (left_out, (about, ..)) in RULES.iter().enumerate().take(RULES.len() - 1) {
        let rules = || RULES.iter().enumerate().filter(|(rule, _)| *rule != left_out).map(|(_, rule)| rule);
        let differs = cells().any(|cell| {
            let (_, _, follows) = rules().find(|(_, holds, _)| holds(&cell)).unwrap();
            follows(&cell) != cell.next()
        });
        assert!(differs, "nothing depends on the rule: {about}");
    }
}

/// Asserts `holds` of every cell and what follows from it.
fn always(about: &str, holds: impl Fn(&Cell, State) -> bool) {
    for cell in cells() {
        let next = cell.next();
        assert!(holds(&cell, next), "{about}: {cell:?} leads to {next:?}");
    }
}

#[test]
fn the_same_again_changes_nothing() {
    always("twice", |cell, next| next.next(&Seen { elapsed_ms: 0, ..cell.seen }, cell.grace_ms) == next);
}

#[test]
fn only_a_parent_that_does_not_run_is_stood_in_for() {
    always("starts", |cell, next| {
        let starts = next.is_active() && !cell.state.is_active();
        !starts || cell.seen.own || cell.seen.running == Running::No
    });
}

#[test]
fn whoever_may_not_start_is_not_started() {
    always("not startable", |cell, next| cell.seen.startable || cell.state.is_active() || !next.is_active());
    always("not due", |cell, next| cell.seen.due || cell.seen.own || cell.state.is_active() || !next.is_active());
}

#[test]
fn without_an_answer_nothing_is_removed_and_no_grace_period_runs() {
    always("no answer", |cell, next| {
        if cell.seen.api == Answers::Answering && cell.seen.parent != Presence::Unknown {
            return true;
        }
        let removes = next == Removed && cell.state != Removed;
        let runs = match (cell.state, next) {
            (
                InactiveGrace { left_ms } | ActiveGrace { left_ms },
                InactiveGrace { left_ms: now } | ActiveGrace { left_ms: now },
            ) => left_ms != now,
            (_, InactiveGrace { .. } | ActiveGrace { .. }) => true,
            _ => false,
        };
        !removes && !runs
    });
}

#[test]
fn silence_stops_no_copy() {
    always("no answer", |cell, next| {
        let told = cell.parent_is(Absent) || cell.parent_is(Ending) || cell.seen.stop || cell.seen.takes_over;
        told || !cell.state.is_active() || next.is_active()
    });
}

#[test]
fn refusing_starts_nothing() {
    always("refusing", |cell, next| {
        cell.returns()
            || cell.seen.api != Answers::Refusing
            || cell.seen.own
            || cell.state.is_active()
            || !next.is_active()
    });
}

#[test]
fn without_an_annotation_only_silence_starts() {
    always("not annotated", |cell, next| {
        let starts = next.is_active() && !cell.state.is_active();
        !starts || cell.seen.annotated || cell.seen.own || cell.seen.api == Answers::Silent || cell.returns()
    });
}

#[test]
fn only_a_proven_absence_removes() {
    always("removed", |cell, next| next != Removed || cell.state == Removed || cell.parent_is(Absent));
    always("removed is final", |cell, next| cell.state != Removed || next == Removed);
}

#[test]
fn the_agents_own_copy_stays_unless_it_is_gone() {
    always("own", |cell, next| !cell.seen.own || !cell.state.is_active() || cell.parent_is(Absent) || next.is_active());
    always("own goes by its grace period only", |cell, next| {
        !cell.seen.own || !cell.state.is_active() || next.is_active() || next == Removed
    });
    always("only one's own copy is one's own", |cell, next| cell.seen.own || next != SelfActive);
}

#[test]
fn a_copy_that_is_told_to_stop_stops() {
    always("stop", |cell, next| !cell.seen.stop || cell.seen.own || !next.is_active());
}

/// A hand-over followed by the look at which the parent is gone again: the copy does not come back at once.
#[test]
fn no_copy_comes_back_right_after_a_hand_over() {
    for cell in cells().filter(|cell| matches!(cell.next(), HandedOver { left_ms: HANDED_OVER_MS })) {
        for running in [Running::Yes, Running::Held, Running::No, Running::Unknown] {
            for (api, sandbox) in [(Answers::Answering, false), (Answers::Silent, true), (Answers::Refusing, false)] {
                #[rustfmt::skip]
                let seen = Seen {
                    api, sandbox, running, takes_over: false, elapsed_ms: STEP_MS, stop: false, returns: false, ..cell.seen
                };
                let again = cell.next().next(&seen, cell.grace_ms);
                assert!(!again.is_active(), "{cell:?}, then {seen:?}");
            }
        }
    }
}
