//! Where one checkpoint stands, and where it stands after one look. Pure: any decision can be replayed from its arguments.
//!
//! The predecessor's transition table (the file-based pod-checkpointer's) is followed, with the deliberate differences that
//! `tests/lifecycle/` lists row by row. Looking twice at the same thing changes nothing the second time.

use std::fmt;

use crate::checkpoint::look::Answers;

/// For how long after a hand-over a copy is not started again while its parent has a sandbox: the kubelet's longest back-off
/// of a crashed container (5 minutes) and a start.
pub const HANDED_OVER_MS: u64 = 6 * 60 * 1000;

/// Where one checkpoint stands. What is left of a period is in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// It is stored, and nothing was decided yet.
    None,
    /// Rendered and ready; the parent is the kubelet's business.
    Inactive,
    /// The parent is proven to be gone; what is kept of it goes when the grace period is over.
    InactiveGrace {
        /// What is left of the grace period.
        left_ms: u64,
    },
    /// The copy's manifest is in the kubelet's directory.
    Active,
    /// The parent is gone, or about to; the copy runs on through the grace period.
    ActiveGrace {
        /// What is left of the grace period.
        left_ms: u64,
    },
    /// The parent has taken over from the copy.
    HandedOver {
        /// How long it is left alone yet.
        left_ms: u64,
    },
    /// The agent's own pod, where the agent runs as one: its copy stays active beside it.
    SelfActive,
    /// Nothing of it may remain.
    Removed,
}

impl State {
    /// Whether the copy's manifest belongs into the kubelet's directory.
    #[must_use]
    pub const fn is_active(self) -> bool {
        match self {
            Self::Active | Self::ActiveGrace { .. } | Self::SelfActive => true,
            Self::None | Self::Inactive | Self::InactiveGrace { .. } | Self::HandedOver { .. } | Self::Removed => false,
        }
    }

    /// The state that the kubelet's directory shows: a manifest that is there is active, whatever was recorded, and one that
    /// is not is none. So a crash between acting and recording leads nowhere else.
    #[must_use]
    pub const fn seen_as(self, active: bool) -> Self {
        match (self, active) {
            (Self::Active | Self::SelfActive, false) => Self::Inactive,
            (Self::ActiveGrace { left_ms }, false) => Self::InactiveGrace { left_ms },
            (Self::None | Self::Inactive | Self::HandedOver { .. }, true) => Self::Active,
            (Self::InactiveGrace { left_ms }, true) => Self::ActiveGrace { left_ms },
            (Self::Removed, _)
            | (Self::Active | Self::SelfActive | Self::ActiveGrace { .. }, true)
            | (Self::None | Self::Inactive | Self::HandedOver { .. } | Self::InactiveGrace { .. }, false) => self,
        }
    }

    /// A stable name for scripts, metrics and logs.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::None => "None",
            Self::Inactive => "Inactive",
            Self::InactiveGrace { .. } => "InactiveGrace",
            Self::Active => "Active",
            Self::ActiveGrace { .. } => "ActiveGrace",
            Self::HandedOver { .. } => "HandedOver",
            Self::SelfActive => "SelfActive",
            Self::Removed => "Removed",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

/// What the API server says of the parent. Anything but `Unknown` takes an API server that answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Presence {
    /// It is bound to this node.
    Present,
    /// It is there, but it is being deleted, or has finished: it will not run again.
    Ending,
    /// It is gone, which a second, consistent read has proven.
    Absent,
    /// Nobody says.
    Unknown,
}

/// Whether the parent runs on this node. Only `No` activates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Running {
    /// One of its containers runs.
    Yes,
    /// It has a sandbox, and the kubelet knows it and restarts its containers.
    Held,
    /// It does not, and nothing will start it.
    No,
    /// The container runtime does not say.
    Unknown,
}

/// Everything that one look shows of one pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// How the API server stands to us.
    pub api: Answers,
    /// What it says of the parent.
    pub parent: Presence,
    /// Whether the parent runs.
    pub running: Running,
    /// Whether the parent has a ready sandbox.
    pub sandbox: bool,
    /// Whether the parent takes over from a copy now, by the rule of the copy's hand-over class.
    pub takes_over: bool,
    /// Whether it is the agent's own pod.
    pub own: bool,
    /// Whether the operator asked for it by annotation.
    pub annotated: bool,
    /// Whether a copy of it may be started at all: policy, verdict, host ports.
    pub startable: bool,
    /// Whether it is time for that: activation delay, waves, capacity.
    pub due: bool,
    /// Whether a copy that runs has to stop although its parent does not take over: the operator holds it, has opted it
    /// out, or it can't be a copy any more.
    pub stop: bool,
    /// Whether its copy has made way for a parent that did not come, since the API server has given no answer after all: then
    /// it comes back, whoever refuses in the API server's place. Says nothing of an API server that answers.
    pub returns: bool,
    /// How much time has passed since the last look.
    pub elapsed_ms: u64,
}

impl State {
    /// The state after `seen`.
    #[must_use]
    pub fn next(self, seen: &Seen, grace_ms: u64) -> Self {
        let parent = match seen.api {
            Answers::Answering => seen.parent,
            // Difference 1: whoever does not answer says nothing of parents.
            Answers::Silent | Answers::Refusing => Presence::Unknown,
        };
        let seen = &Seen { parent, returns: seen.returns && seen.api != Answers::Answering, ..*seen };
        if seen.own { self.own(seen, grace_ms) } else { self.step(seen, grace_ms) }
    }

    /// Difference 6: the agent's own copy is there so that there is an agent after a reboot. Whatever else holds, nothing but
    /// the absence of its parent ends it.
    fn own(self, seen: &Seen, grace_ms: u64) -> Self {
        match (self, seen.parent) {
            (Self::Removed, _) => Self::Removed,
            (Self::Active | Self::SelfActive | Self::ActiveGrace { .. }, Presence::Absent) => {
                self.step(&Seen { takes_over: false, stop: false, ..*seen }, grace_ms)
            }
            (Self::Active | Self::SelfActive, _) => Self::SelfActive,
            (Self::ActiveGrace { .. }, Presence::Present | Presence::Ending) => Self::SelfActive,
            (Self::ActiveGrace { .. }, Presence::Unknown) => self,
            (
                Self::None | Self::Inactive | Self::HandedOver { .. },
                Presence::Present | Presence::Ending | Presence::Unknown,
            )
            | (Self::InactiveGrace { .. }, Presence::Present | Presence::Ending)
                if seen.startable =>
            {
                Self::SelfActive
            }
            (Self::None | Self::Inactive | Self::HandedOver { .. } | Self::InactiveGrace { .. }, _) => {
                match self.step(seen, grace_ms) {
                    Self::Active => Self::SelfActive,
                    state => state,
                }
            }
        }
    }

    fn step(self, seen: &Seen, grace_ms: u64) -> Self {
        match self {
            Self::Removed => Self::Removed,
            Self::None | Self::Inactive => self.resting(seen, grace_ms, false),
            Self::HandedOver { left_ms } => {
                let left_ms = left_ms.saturating_sub(seen.elapsed_ms);
                Self::HandedOver { left_ms }.resting(seen, grace_ms, left_ms > 0)
            }
            Self::InactiveGrace { left_ms } => match seen.parent {
                Presence::Present if starts(seen) => Self::Active,
                Presence::Present | Presence::Ending => Self::Inactive,
                Presence::Absent => match left_ms.saturating_sub(seen.elapsed_ms) {
                    0 => Self::Removed,
                    left_ms => Self::InactiveGrace { left_ms },
                },
                Presence::Unknown if starts(seen) => Self::Active,
                // Difference 1: silence neither removes anything nor lets time pass.
                Presence::Unknown => self,
            },
            Self::Active | Self::SelfActive => match seen.parent {
                Presence::Absent if seen.stop => Self::Inactive.resting(seen, grace_ms, false),
                _ if seen.stop => Self::Inactive,
                Presence::Absent => Self::ActiveGrace { left_ms: grace_ms }.unless_over(Presence::Absent),
                _ if seen.takes_over => Self::HandedOver { left_ms: HANDED_OVER_MS },
                Presence::Ending => Self::ActiveGrace { left_ms: grace_ms }.unless_over(Presence::Ending),
                Presence::Present | Presence::Unknown => Self::Active,
            },
            Self::ActiveGrace { left_ms } => match seen.parent {
                Presence::Present | Presence::Ending if seen.stop => Self::Inactive,
                Presence::Unknown if seen.stop => Self::InactiveGrace { left_ms },
                Presence::Absent if seen.stop => Self::InactiveGrace { left_ms }.step(seen, grace_ms),
                Presence::Absent => {
                    Self::ActiveGrace { left_ms: left_ms.saturating_sub(seen.elapsed_ms) }.unless_over(seen.parent)
                }
                _ if seen.takes_over => Self::HandedOver { left_ms: HANDED_OVER_MS },
                Presence::Ending => {
                    Self::ActiveGrace { left_ms: left_ms.saturating_sub(seen.elapsed_ms) }.unless_over(seen.parent)
                }
                Presence::Present => Self::Active,
                // Difference 1.
                Presence::Unknown => self,
            },
        }
    }

    /// From a state without a copy and without a deadline of its end.
    fn resting(self, seen: &Seen, grace_ms: u64, left_alone: bool) -> Self {
        match seen.parent {
            Presence::Absent if grace_ms == 0 => Self::Removed,
            Presence::Absent => Self::InactiveGrace { left_ms: grace_ms },
            // Difference 7: a parent that was handed over to gets the time that its kubelet takes.
            _ if left_alone && !seen.returns && (seen.sandbox || seen.api != Answers::Silent) => self,
            Presence::Present | Presence::Unknown if starts(seen) => Self::Active,
            _ if left_alone => self,
            Presence::Present | Presence::Ending | Presence::Unknown => Self::Inactive,
        }
    }

    /// The end of an active checkpoint's grace period.
    fn unless_over(self, parent: Presence) -> Self {
        match (self, parent) {
            (Self::ActiveGrace { left_ms: 0 }, Presence::Absent) => Self::Removed,
            // The API server still has it: it has finished, or was rejected.
            (Self::ActiveGrace { left_ms: 0 }, _) => Self::Inactive,
            (state, _) => state,
        }
    }
}

/// Whether a copy is started.
fn starts(seen: &Seen) -> bool {
    // Difference 2: not knowing is not "no".
    let wanted = seen.running == Running::No && seen.startable && seen.due && !seen.stop && !seen.takes_over;
    wanted
        && match seen.api {
            Answers::Silent => true,
            // As the predecessor does for its annotated parents; others are the kubelet's business.
            Answers::Answering => seen.annotated && seen.parent == Presence::Present,
            Answers::Refusing => seen.returns,
        }
}
