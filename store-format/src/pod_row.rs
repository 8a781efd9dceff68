//! What is known of each pod beyond its object: its lifecycle here, how it ended, what it lacks.

use crate::codec::{
    self, AbsentWire, LAYOUT_VERSION, PodRow1Wire, PodRowWire, fits, flag, limit, text, text_fits, versioned,
};
use crate::{DecodeError, EncodeError, RECORD_MAX_BYTES, Record};

/// The most absent objects that a pod row may name.
pub const ABSENT_MAX: usize = 4096;

/// The layout version octet of the pod rows that are written; those of layout 1 are read as well.
const LAYOUT_2: u8 = 2;

/// What was decided last for a pod: whether its copy runs as a static pod, and how long it still does or waits.
///
/// Times are seconds that are *left*, counted down while the API server answers: neither a restart nor a wrong clock
/// changes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lifecycle {
    /// No copy runs: the parent does, or nothing may.
    Inactive,
    /// No copy runs, and the parent is gone; what is stored of it is kept for its grace period.
    InactiveGrace {
        /// Seconds left of the grace period.
        left_s: u32,
    },
    /// The copy runs as a static pod.
    Active,
    /// The copy runs, and the parent is gone; it runs on for its grace period.
    ActiveGrace {
        /// Seconds left of the grace period.
        left_s: u32,
    },
    /// The copy was removed for its parent; it is not activated again for a while, as long as the parent's sandbox exists.
    HandedOver {
        /// Seconds left of that while.
        left_s: u32,
    },
}

impl Lifecycle {
    /// Which of them it is.
    #[must_use]
    pub const fn phase(self) -> Phase {
        match self {
            Self::Inactive => Phase::Inactive,
            Self::InactiveGrace { .. } => Phase::InactiveGrace,
            Self::Active => Phase::Active,
            Self::ActiveGrace { .. } => Phase::ActiveGrace,
            Self::HandedOver { .. } => Phase::HandedOver,
        }
    }

    /// Seconds that are left, where the phase has a time.
    #[must_use]
    pub const fn left_s(self) -> Option<u32> {
        match self {
            Self::Inactive | Self::Active => None,
            Self::InactiveGrace { left_s } | Self::ActiveGrace { left_s } | Self::HandedOver { left_s } => Some(left_s),
        }
    }

    /// Whether a copy runs.
    #[must_use]
    pub const fn runs(self) -> bool {
        match self {
            Self::Active | Self::ActiveGrace { .. } => true,
            Self::Inactive | Self::InactiveGrace { .. } | Self::HandedOver { .. } => false,
        }
    }

    /// `None` where seconds are left in a phase that has no time.
    const fn from_parts(phase: Phase, left_s: u32) -> Option<Self> {
        match (phase, left_s) {
            (Phase::Inactive, 0) => Some(Self::Inactive),
            (Phase::Active, 0) => Some(Self::Active),
            (Phase::Inactive | Phase::Active, _) => None,
            (Phase::InactiveGrace, left_s) => Some(Self::InactiveGrace { left_s }),
            (Phase::ActiveGrace, left_s) => Some(Self::ActiveGrace { left_s }),
            (Phase::HandedOver, left_s) => Some(Self::HandedOver { left_s }),
        }
    }
}

/// A [`Lifecycle`] without its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// [`Lifecycle::Inactive`].
    Inactive,
    /// [`Lifecycle::Active`].
    Active,
    /// [`Lifecycle::InactiveGrace`].
    InactiveGrace,
    /// [`Lifecycle::ActiveGrace`].
    ActiveGrace,
    /// [`Lifecycle::HandedOver`].
    HandedOver,
}

impl Phase {
    /// Every phase, by its code.
    pub const ALL: [Self; 5] = [Self::Inactive, Self::Active, Self::InactiveGrace, Self::ActiveGrace, Self::HandedOver];

    /// A word for people and scripts.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Inactive => "inactive",
            Self::Active => "active",
            Self::InactiveGrace => "inactive-grace",
            Self::ActiveGrace => "active-grace",
            Self::HandedOver => "handed-over",
        }
    }

    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::Inactive => 0,
            Self::Active => 1,
            Self::InactiveGrace => 2,
            Self::ActiveGrace => 3,
            Self::HandedOver => 4,
        }
    }

    pub(crate) fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|phase| phase.code() == code)
    }
}

/// Why an object that a pod names was not to be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Absence {
    /// The source says that it does not exist.
    NotFound,
    /// The source does not let this node read it.
    Forbidden,
}

impl Absence {
    const fn code(self) -> u8 {
        match self {
            Self::NotFound => 0,
            Self::Forbidden => 1,
        }
    }

    const fn from_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::NotFound),
            1 => Some(Self::Forbidden),
            _ => None,
        }
    }
}

/// An object that a pod names, in its own namespace, and that was not to be had.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AbsentObject {
    /// Kubernetes kind, e.g. `Secret`.
    pub kind: String,
    /// `metadata.name`.
    pub name: String,
    /// Why.
    pub why: Absence,
}

/// What is known of one pod beyond its object: table `pods`, key (namespace, name).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodRow {
    /// `metadata.uid` of the parent pod that the row is about. A row of another UID is about another pod.
    pub uid: String,
    /// Whether the parent was ever seen running on this node.
    pub ran: bool,
    /// What was decided last.
    pub lifecycle: Lifecycle,
    /// Whether the source has proven that the parent is gone. The pod and its objects are kept for its grace period.
    pub gone: bool,
    /// Whether an operator holds the copy down (`ckpt-db hold`).
    pub held: bool,
    /// How often the copy was published anew because it did not start; stands in its manifest.
    pub republished: u32,
    /// When the phase of `lifecycle` was decided, in milliseconds since 1970-01-01T00:00:00Z by the node's clock.
    pub decided_at_unix_ms: u64,
    /// How the parent ended here, for people: `Succeeded`, `Failed` or `Failed: <reason>`. Empty while it has not; never
    /// emptied again for the same UID.
    pub ended: String,
    /// Objects that it names and that were not to be had: by kind and name, each once. One that is stored means nothing.
    pub absent: Vec<AbsentObject>,
}

impl PodRow {
    const RECORD: Record = Record::PodRow;

    /// The payload of the record, in layout 2.
    ///
    /// # Errors
    /// A text, the absent objects or the whole is over its limit, or the absent objects are not sorted.
    pub fn encode(&self) -> Result<Vec<u8>, EncodeError> {
        text_fits(Self::RECORD, "uid", &self.uid)?;
        text_fits(Self::RECORD, "ended", &self.ended)?;
        fits(Self::RECORD, "absent objects", self.absent.len(), ABSENT_MAX)?;
        for object in &self.absent {
            text_fits(Self::RECORD, "absent kind", &object.kind)?;
            text_fits(Self::RECORD, "absent name", &object.name)?;
        }
        if !self.absent.is_sorted_by(|a, b| (&a.kind, &a.name) < (&b.kind, &b.name)) {
            return Err(EncodeError::Order { record: Self::RECORD, field: "absent objects" });
        }
        let absent = self.absent.iter().map(|object| AbsentWire {
            kind: &object.kind,
            name: &object.name,
            why: object.why.code(),
        });
        let wire = PodRowWire {
            uid: &self.uid,
            ran: u8::from(self.ran),
            phase: self.lifecycle.phase().code(),
            left_s: self.lifecycle.left_s().unwrap_or_default(),
            gone: u8::from(self.gone),
            held: u8::from(self.held),
            republished: self.republished,
            decided_at_unix_ms: self.decided_at_unix_ms,
            ended: &self.ended,
            absent: absent.collect(),
        };
        let payload = codec::encode(&[LAYOUT_2], &wire);
        fits(Self::RECORD, "record", payload.len(), RECORD_MAX_BYTES)?;
        Ok(payload)
    }

    /// Reads the payload of the record, in layout 2 or 1. The caller has checked the digest.
    ///
    /// # Errors
    /// `pod-row.*`: see `SPEC.md`.
    pub fn decode(payload: &[u8]) -> Result<Self, DecodeError> {
        let (version, fields) = versioned(Self::RECORD, payload)?;
        match version {
            LAYOUT_VERSION => Self::from_layout_1(codec::decode(Self::RECORD, fields)?),
            LAYOUT_2 => Self::from_layout_2(codec::decode(Self::RECORD, fields)?),
            found => Err(DecodeError::Version { record: Self::RECORD, found }),
        }
    }

    fn from_layout_2(wire: PodRowWire<'_>) -> Result<Self, DecodeError> {
        let absent = absent_objects(&wire.absent)?;
        let phase = Phase::from_code(wire.phase).ok_or_else(|| code("lifecycle", wire.phase))?;
        let contradiction = DecodeError::Contradiction { record: Self::RECORD, field: "seconds left" };
        Ok(Self {
            uid: text(Self::RECORD, "uid", wire.uid)?,
            ran: flag(Self::RECORD, "ran", wire.ran)?,
            lifecycle: Lifecycle::from_parts(phase, wire.left_s).ok_or(contradiction)?,
            gone: flag(Self::RECORD, "gone", wire.gone)?,
            held: flag(Self::RECORD, "held", wire.held)?,
            republished: wire.republished,
            decided_at_unix_ms: wire.decided_at_unix_ms,
            ended: text(Self::RECORD, "ended", wire.ended)?,
            absent,
        })
    }

    fn from_layout_1(wire: PodRow1Wire<'_>) -> Result<Self, DecodeError> {
        let absent = absent_objects(&wire.absent)?;
        let lifecycle = match wire.activity {
            0 => Lifecycle::Inactive,
            1 => Lifecycle::Active,
            found => return Err(code("activity", found)),
        };
        Ok(Self {
            uid: text(Self::RECORD, "uid", wire.uid)?,
            ran: flag(Self::RECORD, "ran", wire.ran)?,
            lifecycle,
            gone: false,
            held: false,
            republished: 0,
            decided_at_unix_ms: wire.decided_at_unix_ms,
            ended: text(Self::RECORD, "ended", wire.ended)?,
            absent,
        })
    }
}

const fn code(field: &'static str, found: u8) -> DecodeError {
    DecodeError::Code { record: PodRow::RECORD, field, found }
}

fn absent_objects(wire: &[AbsentWire<'_>]) -> Result<Vec<AbsentObject>, DecodeError> {
    const RECORD: Record = PodRow::RECORD;
    limit(RECORD, "absent objects", wire.len(), ABSENT_MAX)?;
    if !wire.is_sorted_by(|a, b| (a.kind, a.name) < (b.kind, b.name)) {
        return Err(DecodeError::Order { record: RECORD, field: "absent objects" });
    }
    let absent = |object: &AbsentWire<'_>| {
        Ok(AbsentObject {
            kind: text(RECORD, "absent kind", object.kind)?,
            name: text(RECORD, "absent name", object.name)?,
            why: Absence::from_code(object.why).ok_or_else(|| code("why", object.why))?,
        })
    };
    wire.iter().map(absent).collect()
}
