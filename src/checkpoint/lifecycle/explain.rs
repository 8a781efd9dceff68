//! Why a pod runs as a copy or does not, and what an operator can do about it: values, with one sentence each.

use std::fmt;

use super::life::Life;
use super::parent::{Class, CopyStatus};
use super::state::{Presence, Running, State};
use crate::checkpoint::look::{Answers, Look};
use crate::checkpoint::rendering::{Activity, PodName};
use crate::checkpoint::verdict::{NotMeant, Note, Verdict};

/// Reasons of a kubelet that found no place for a pod (`pkg/kubelet/lifecycle/predicate.go`); the pod stays failed.
const REJECTIONS: [&str; 4] = ["OutOf", "NodePorts", "UnexpectedAdmissionError", "NodeAffinity"];

/// Where one pod stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The pod.
    pub pod: PodName,
    /// Its UID.
    pub uid: String,
    /// Where its checkpoint stands.
    pub state: State,
    /// Whether the parent runs.
    pub running: Running,
    /// How its copy does, if it is active.
    pub copy: Option<CopyStatus>,
    /// When its copy goes.
    pub class: Class,
    /// Why it stands there.
    pub why: Why,
    /// When something is due, in milliseconds since boot.
    pub deadline_ms: Option<u64>,
    /// `spec.priority`.
    pub priority: i64,
}

/// Why a pod runs as a copy, or does not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// Its copy stands in.
    StandsIn,
    /// It is the agent's own.
    Own,
    /// The parent runs.
    ParentRuns,
    /// The kubelet knows the parent, and restarts it.
    ParentHeld,
    /// Whether the parent runs is not known.
    RunningUnknown,
    /// The API server answers: the parent is the kubelet's business.
    Answering,
    /// Something answers in the API server's place, and gives no facts.
    Refusing,
    /// The API server has not been silent for long enough.
    Delay {
        /// When it has, in milliseconds since boot.
        until_ms: u64,
    },
    /// The parent has no sandbox, but its kubelet may be about to make one.
    Settling {
        /// When that would have happened, in milliseconds since boot.
        until_ms: u64,
    },
    /// Others are being started.
    Wave {
        /// When it is looked at again, in milliseconds since boot.
        until_ms: u64,
    },
    /// The node has no place for another pod.
    NoRoom,
    /// The operator holds it.
    Held,
    /// It is rendered, but not to be activated, as its verdict says.
    Contested,
    /// It would not come back, or is not meant to, as its verdict says.
    Verdict,
    /// The parent has taken over.
    HandedOver,
    /// The API server has given a sign of life, and beside its copy the parent would be rejected.
    MakesWay {
        /// When it is not waited for any more, in milliseconds since boot.
        until_ms: u64,
    },
    /// The parent is gone, or about to; the copy runs through the grace period.
    Grace,
    /// The grace period stands still while the API server does not answer.
    GraceStopped,
    /// The grace period is over.
    Over,
}

impl Why {
    /// When it is no reason any more, in milliseconds since boot.
    const fn until_ms(&self) -> Option<u64> {
        match self {
            Self::Delay { until_ms }
            | Self::Settling { until_ms }
            | Self::Wave { until_ms }
            | Self::MakesWay { until_ms } => Some(*until_ms),
            Self::StandsIn
            | Self::Own
            | Self::ParentRuns
            | Self::ParentHeld
            | Self::RunningUnknown
            | Self::Answering
            | Self::Refusing
            | Self::NoRoom
            | Self::Held
            | Self::Contested
            | Self::Verdict
            | Self::HandedOver
            | Self::Grace
            | Self::GraceStopped
            | Self::Over => None,
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::StandsIn => "its copy stands in for it",
            Self::Own => "it is this agent's own copy",
            Self::ParentRuns => "the parent runs",
            Self::ParentHeld => "the kubelet knows the parent and restarts it",
            Self::RunningUnknown => "whether the parent runs is not known",
            Self::Answering => "the API server answers: its kubelet starts it",
            Self::Refusing => "the API server refuses, which is not silence",
            Self::Delay { .. } => "the API server has not been silent for long enough",
            Self::Settling { .. } => "its kubelet may be about to restart it",
            Self::Wave { .. } => "other copies are being started",
            Self::NoRoom => "the node takes no more pods (allocatable.pods)",
            Self::Held => "held by the operator (ckpt-db release ends it)",
            Self::Contested => "rendered, but not to be activated",
            Self::Verdict => "it would not come back",
            Self::HandedOver => "the parent has taken over",
            Self::MakesWay { .. } => "the API server takes connections: its copy makes way before it answers",
            Self::Grace => "the parent is gone: grace period",
            Self::GraceStopped => {
                "the parent is gone: grace period, which stands still while the API server does not answer"
            }
            Self::Over => "the parent is gone, and the grace period is over",
        })
    }
}

/// What should wake somebody up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Alarm {
    /// The kubelet has rejected a parent for good.
    ParentRejected {
        /// The parent.
        pod: PodName,
        /// Its UID.
        uid: String,
        /// Phase and reason.
        ended: String,
    },
}

impl fmt::Display for Alarm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::ParentRejected { pod, ended, .. } = self;
        write!(
            f,
            "the kubelet has rejected {pod} ({ended}), which is final: delete it, so that its controller makes another"
        )
    }
}

impl Life<'_> {
    /// Why it stands where it stands.
    pub(super) fn why(&self, look: &Look) -> Why {
        if let Some(until_ms) = self.way_until_ms.filter(|_| self.has_made_way()) {
            return Why::MakesWay { until_ms };
        }
        match self.next {
            State::SelfActive => Why::Own,
            State::Active => Why::StandsIn,
            State::HandedOver { .. } => Why::HandedOver,
            State::Removed => Why::Over,
            State::ActiveGrace { .. } | State::InactiveGrace { .. } if self.presence == Presence::Unknown => {
                Why::GraceStopped
            }
            State::ActiveGrace { .. } | State::InactiveGrace { .. } => Why::Grace,
            State::None | State::Inactive => self.why_inactive(look),
        }
    }

    fn why_inactive(&self, look: &Look) -> Why {
        if self.held {
            return Why::Held;
        }
        match (self.running, self.wanted) {
            (Running::Yes, _) => Why::ParentRuns,
            (Running::Held, _) => Why::ParentHeld,
            (_, None) => Why::Verdict,
            (_, Some(Activity::Prepared)) => Why::Contested,
            (Running::Unknown, _) => Why::RunningUnknown,
            (Running::No, _) => match look.api.reach {
                Answers::Answering if self.only_waits(look) => self.wait.clone().unwrap_or(Why::Answering),
                Answers::Answering => Why::Answering,
                Answers::Refusing => Why::Refusing,
                Answers::Silent => self.wait.clone().unwrap_or(Why::Contested),
            },
        }
    }

    /// When something is due.
    pub(super) fn deadline_ms(&self, look: &Look, why: &Why) -> Option<u64> {
        let waits = self.wait.as_ref().filter(|_| self.only_waits(look)).and_then(Why::until_ms);
        let ends = match (why, self.next) {
            (
                Why::Grace | Why::HandedOver,
                State::ActiveGrace { left_ms } | State::InactiveGrace { left_ms } | State::HandedOver { left_ms },
            ) => Some(look.now_ms.saturating_add(left_ms)),
            _ => None,
        };
        [waits, ends].into_iter().flatten().min()
    }

    /// A parent that was rejected although, or because, its copy was there.
    pub(super) fn alarm(&self) -> Option<Alarm> {
        let handed_over = matches!(self.next, State::HandedOver { .. });
        let ended = self.checkpoint.ended.as_deref().filter(|_| self.before.is_active() || handed_over)?;
        let reason = ended.strip_prefix("Failed: ")?;
        let rejected = REJECTIONS.iter().any(|rejection| reason.starts_with(rejection));
        rejected.then(|| Alarm::ParentRejected {
            pod: self.checkpoint.examined.pod.clone(),
            uid: self.checkpoint.examined.uid.clone(),
            ended: ended.to_owned(),
        })
    }
}

impl Standing {
    /// The first thing to do for a pod that does not run, if there is one.
    #[must_use]
    pub fn todo(&self, verdict: &Verdict) -> Option<String> {
        match (&self.why, &self.copy) {
            (_, Some(CopyStatus::Failing(reason))) => {
                Some(format!("look at the copy: {reason} (crictl ps -a; journalctl -u kubelet)"))
            }
            (Why::Verdict, _) => match verdict {
                Verdict::NotRecoverable { reasons } => reasons.first().map(ToString::to_string),
                Verdict::NotMeant(why @ NotMeant::PolicyOff) => {
                    Some(format!("{why}; activationPolicy: all, or annotated, brings pods back"))
                }
                Verdict::Recoverable { .. } | Verdict::WhenNetworkIs { .. } | Verdict::NotMeant(_) => None,
            },
            (Why::Contested, _) => match verdict {
                Verdict::Recoverable { notes } | Verdict::WhenNetworkIs { notes } => notes
                    .iter()
                    .find(|note| {
                        matches!(
                            note,
                            Note::HostPortContested { .. } | Note::StatefulSetNotActivated | Note::NotAnnotated
                        )
                    })
                    .map(|note| {
                        format!("{note}; annotate it checkpointer.alpha.coreos.com/checkpoint=true to have it")
                    }),
                Verdict::NotRecoverable { .. } | Verdict::NotMeant(_) => None,
            },
            (Why::RunningUnknown, _) => Some(
                "make the container runtime answer, or run `ckpt-db run --feature-gates=Checkpointing=true --once` if the pod does \
                 not run"
                    .to_owned(),
            ),
            (Why::Refusing, _) => Some(
                "mend what answers in the API server's place, or run `ckpt-db run --feature-gates=Checkpointing=true --once` to start \
                 the copies now"
                    .to_owned(),
            ),
            (Why::NoRoom, _) => Some("raise the kubelet's maxPods, or hold another copy".to_owned()),
            (Why::Held, _) => Some(format!("ckpt-db release {}", self.pod)),
            _ => None,
        }
    }
}
