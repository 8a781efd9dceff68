//! The status document: what the running agent knows of its node and its pods, as one value.
//!
//! The agent makes it, the admin socket carries it, `ckpt-db status` shows it. Members that an older agent does not send
//! have a default; those that a newer one adds are not read.

use serde::{Deserialize, Serialize};

/// `apiVersion` of every document and request of ours.
pub const API_VERSION: &str = "ckpt-db.io/v1alpha1";

/// `kind` of this document.
pub const KIND: &str = "CheckpointerStatus";

/// Everything that the agent knows at one moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckpointerStatus {
    /// [`API_VERSION`].
    pub api_version: String,
    /// [`KIND`].
    pub kind: String,
    /// Name of the node; empty while it is not known.
    pub node: String,
    /// Version of the agent.
    pub version: String,
    /// When this was said, in seconds since 1970 by the node's clock.
    pub now_unix_s: u64,
    /// Whether that clock can be believed. If not, every time in here is as wrong as it; durations are right.
    #[serde(default = "yes")]
    pub clock_is_set: bool,
    /// When the agent started, in seconds since 1970.
    pub started_at_unix_s: u64,
    /// For how long it has run, in seconds.
    pub up_s: u64,
    /// Which pods are activated.
    pub policy: Policy,
    /// The feature gate: `false` keeps everything in memory only.
    #[serde(default = "yes")]
    pub checkpointing: bool,
    /// The API server.
    pub api_server: ApiServer,
    /// The store.
    pub store: Store,
    /// Bootstrap checkpointing; `None` where nobody asks for it (`--bootstrap-checkpoint-path`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bootstrap: Option<Bootstrap>,
    /// The container runtime.
    pub runtime: Known,
    /// The kubelet.
    pub kubelet: Kubelet,
    /// Every stored pod, by namespace and name.
    #[serde(default)]
    pub pods: Vec<Pod>,
    /// What happens next, and when; `None` if nothing is due.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_deadline: Option<Deadline>,
    /// What somebody should look at now.
    #[serde(default)]
    pub alarms: Vec<Alarm>,
}

fn yes() -> bool {
    true
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks with a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// `--activation-policy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Policy {
    /// None.
    Off,
    /// Annotated pods.
    Annotated,
    /// All that a power cut should not stop.
    All,
}

/// The API server, as this node sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ApiServer {
    /// Whether it answers.
    pub state: Reach,
    /// Since when without a break, in seconds since 1970.
    pub since_unix_s: u64,
    /// For how long, in seconds.
    pub for_s: u64,
    /// Why it does not answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// When it answered last, in seconds since 1970; `None` if it never did since the agent started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_answer_unix_s: Option<u64>,
}

/// Whether the API server answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reach {
    /// It answers requests for the pods of this node.
    Answering,
    /// Nothing is heard of it.
    Silent,
    /// It, or something in its place, answers and gives no facts.
    Refusing,
}

/// The store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Store {
    /// Its file; empty if there is none (feature gate off).
    pub path: String,
    /// How many commits led to what it holds.
    pub revision: u64,
    /// How many objects it holds.
    pub objects: usize,
    /// Whether it ever held a complete listing.
    pub populated: bool,
    /// Whether Secrets can be read and written.
    pub lock: Lock,
    /// Whether it can't be written to now: what is decided is decided anew after a restart.
    pub read_only: bool,
    /// How many of its records are damaged.
    pub findings: usize,
    /// Damaged files that are kept beside it since it was rebuilt, oldest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub damaged_files: Vec<String>,
    /// What keeps it from being used, such as that it belongs to another node or cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// The files of bootstrap checkpointing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Bootstrap {
    /// Their directory.
    pub path: String,
    /// How many there are.
    pub files: usize,
    /// How often one could not be written or removed, or none be looked at, since the agent started.
    pub failures: u64,
    /// How often one could not be written.
    #[serde(skip_serializing_if = "is_zero")]
    pub writes_failed: u64,
    /// How often one could not be removed.
    #[serde(skip_serializing_if = "is_zero")]
    pub removals_failed: u64,
    /// What is wrong now; it is tried again with the next change.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// Whether Secrets can be read and written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Lock {
    /// A key opened it.
    Open,
    /// It has keys, none of which is at hand.
    Locked,
    /// It has no key yet.
    #[default]
    Keyless,
}

/// Whether something can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Known {
    /// Whether it answers.
    pub known: bool,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// The kubelet's process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Kubelet {
    /// Whether it runs.
    pub state: KubeletState,
    /// For how long it has run, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub for_s: Option<u64>,
    /// Why nobody knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Whether a kubelet runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum KubeletState {
    /// It does.
    Running,
    /// There is no such process.
    NotRunning,
    /// Nobody knows.
    Unknown,
}

/// One stored pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pod {
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// `metadata.uid` of the parent.
    pub uid: String,
    /// Where its checkpoint is in its life.
    pub state: PodState,
    /// How its copy does; only while one is active.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copy: Option<Copy>,
    /// Whether the parent runs.
    pub parent_running: ParentRunning,
    /// Whether it is supposed to run at all: not one that has finished, or is opted out.
    pub meant_to_run: bool,
    /// Whether an operator said that no copy may run (`ckpt-db hold`).
    #[serde(default)]
    pub held: bool,
    /// `spec.priority`; the higher, the more it matters.
    #[serde(default)]
    pub priority: i64,
    /// Codes of the verdict: `Recoverable`, or why not; then those of its notes.
    #[serde(default)]
    pub verdict: Vec<String>,
    /// Why a copy of it runs or does not, in one sentence.
    #[serde(default)]
    pub why: String,
    /// The first thing for somebody to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub todo: Option<String>,
    /// What happens to it next, and when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Deadline>,
}

/// States of lifecycle.md.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PodState {
    /// No checkpoint can be made of it.
    None,
    /// Its manifest is ready.
    Inactive,
    /// The same, and its parent is gone.
    InactiveGrace,
    /// Its manifest is in the kubelet's directory.
    Active,
    /// The same, and its parent is gone.
    ActiveGrace,
    /// Its parent has just taken over.
    HandedOver,
    /// The agent's own pod.
    SelfActive,
}

impl PodState {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::None,
        Self::Inactive,
        Self::InactiveGrace,
        Self::Active,
        Self::ActiveGrace,
        Self::HandedOver,
        Self::SelfActive,
    ];

    /// Its name, in the status document and everywhere else.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "None",
            Self::Inactive => "Inactive",
            Self::InactiveGrace => "InactiveGrace",
            Self::Active => "Active",
            Self::ActiveGrace => "ActiveGrace",
            Self::HandedOver => "HandedOver",
            Self::SelfActive => "SelfActive",
        }
    }

    /// Whether its manifest is in the kubelet's directory.
    #[must_use]
    pub fn is_active(self) -> bool {
        match self {
            Self::Active | Self::ActiveGrace | Self::SelfActive => true,
            Self::None | Self::Inactive | Self::InactiveGrace | Self::HandedOver => false,
        }
    }
}

/// How a copy does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Copy {
    /// In a word.
    pub state: CopyState,
    /// Why it fails.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What a copy does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CopyState {
    /// The kubelet was given it, and not all of it runs yet.
    Starting,
    /// It runs.
    Running,
    /// It should run, and does not.
    Failing,
    /// Its manifest is there, and the container runtime can't be asked.
    Unknown,
}

/// Whether the parent runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ParentRunning {
    /// A container of it runs.
    Yes,
    /// The kubelet has it and restarts it.
    Held,
    /// It does not.
    No,
    /// Nobody knows.
    Unknown,
}

/// Something that is due.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Deadline {
    /// What happens then, as a short phrase: `its copy is activated`.
    pub what: String,
    /// In how many seconds. A grace period counts only while the API server answers.
    pub in_s: u64,
    /// The pod, `namespace/name`, where it stands alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
}

/// Something that somebody should look at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Alarm {
    /// The [`AlarmCode::name`]; a newer agent may have others.
    pub code: String,
    /// The pod, `namespace/name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// What is wrong and what to do, in one sentence.
    pub message: String,
}

/// What an alarm is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AlarmCode {
    /// The kubelet has refused a parent for good.
    ParentRejected,
    /// A pod could not be rendered.
    NotRendered,
    /// Something else went wrong with rendered files.
    Files,
    /// Copies of an earlier run are there, and the feature gate is off.
    LeftOver,
    /// The configuration file is wrong, and settings are as before.
    ConfigurationRefused,
    /// Settings have changed that only a restart brings into force.
    RestartNeeded,
}

impl AlarmCode {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::ParentRejected,
        Self::NotRendered,
        Self::Files,
        Self::LeftOver,
        Self::ConfigurationRefused,
        Self::RestartNeeded,
    ];

    /// A stable name for scripts and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ParentRejected => "ParentRejected",
            Self::NotRendered => "NotRendered",
            Self::Files => "Files",
            Self::LeftOver => "LeftOver",
            Self::ConfigurationRefused => "ConfigurationRefused",
            Self::RestartNeeded => "RestartNeeded",
        }
    }
}

impl Alarm {
    /// An alarm of the node, or of one pod.
    #[must_use]
    pub fn new(code: AlarmCode, pod: Option<String>, message: String) -> Self {
        Self { code: code.name().to_owned(), pod, message }
    }
}

/// How a pod does, for an operator who wants to know what to look at first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Health {
    /// Its copy should run, and does not.
    CopyFails,
    /// Neither a copy nor the parent runs, and one should.
    Down,
    /// Nobody knows whether the parent runs, and no copy is active.
    NobodyKnows,
    /// No copy runs because an operator said so.
    Held,
    /// Its copy is being started.
    CopyStarts,
    /// Its copy runs.
    CopyRuns,
    /// Its parent runs, or the kubelet restarts it.
    ParentRuns,
    /// It is not meant to run.
    NotMeant,
}

impl Health {
    /// Whether something that should run does not, as far as anybody knows.
    #[must_use]
    pub fn is_finding(self) -> bool {
        match self {
            Self::CopyFails | Self::Down | Self::NobodyKnows => true,
            Self::Held | Self::CopyStarts | Self::CopyRuns | Self::ParentRuns | Self::NotMeant => false,
        }
    }
}

impl Pod {
    /// How it does.
    #[must_use]
    pub fn health(&self) -> Health {
        let copy = self.copy.as_ref().map(|copy| copy.state).filter(|_| self.state.is_active());
        match (copy, self.parent_running) {
            (_, ParentRunning::Yes | ParentRunning::Held) => Health::ParentRuns,
            (Some(CopyState::Running), _) => Health::CopyRuns,
            (Some(CopyState::Starting), _) => Health::CopyStarts,
            (Some(CopyState::Failing), _) => Health::CopyFails,
            (Some(CopyState::Unknown), _) => Health::NobodyKnows,
            (None, _) if self.held => Health::Held,
            (None, _) if !self.meant_to_run => Health::NotMeant,
            (None, ParentRunning::No) => Health::Down,
            (None, ParentRunning::Unknown) => Health::NobodyKnows,
        }
    }

    /// `namespace/name`.
    #[must_use]
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

impl CheckpointerStatus {
    /// Pods of which something that should run does not: the most important first.
    #[must_use]
    pub fn troubled(&self) -> Vec<&Pod> {
        let mut pods: Vec<&Pod> = self.pods.iter().filter(|pod| pod.health().is_finding()).collect();
        pods.sort_by_key(|pod| (std::cmp::Reverse(pod.priority), pod.health(), &pod.namespace, &pod.name));
        pods
    }

    /// How many pods do so.
    #[must_use]
    pub fn count(&self, health: Health) -> usize {
        self.pods.iter().filter(|pod| pod.health() == health).count()
    }

    /// What is due first, of all pods: for whoever makes this document.
    #[must_use]
    pub fn soonest(pods: &[Pod]) -> Option<Deadline> {
        let due = pods.iter().filter_map(|pod| Some((pod.deadline.as_ref()?, pod)));
        let (deadline, pod) = due.min_by_key(|(deadline, _)| deadline.in_s)?;
        Some(Deadline { pod: Some(pod.full_name()), ..deadline.clone() })
    }

    /// Whether anything is not as it should be: exit code 1 of `ckpt-db status`.
    #[must_use]
    pub fn has_findings(&self) -> bool {
        let store = &self.store;
        let broken = store.problem.is_some() || store.read_only || store.findings > 0 || store.lock == Lock::Locked;
        let broken = broken || self.bootstrap.as_ref().is_some_and(|bootstrap| bootstrap.problem.is_some());
        broken || !self.alarms.is_empty() || self.pods.iter().any(|pod| pod.health().is_finding())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Of an agent with which all is well, and which has no pods.
    pub(in crate::ops) fn status() -> CheckpointerStatus {
        CheckpointerStatus {
            api_version: API_VERSION.to_owned(),
            kind: KIND.to_owned(),
            node: "node-1".to_owned(),
            version: "1.2.3".to_owned(),
            now_unix_s: 1_800_000_000,
            clock_is_set: true,
            started_at_unix_s: 1_799_999_000,
            up_s: 1000,
            policy: Policy::All,
            checkpointing: true,
            api_server: ApiServer {
                state: Reach::Answering,
                since_unix_s: 1_799_999_001,
                for_s: 999,
                cause: None,
                last_answer_unix_s: Some(1_800_000_000),
            },
            store: Store { populated: true, lock: Lock::Open, ..Store::default() },
            bootstrap: None,
            runtime: Known { known: true, reason: None },
            kubelet: Kubelet { state: KubeletState::Running, for_s: Some(7), reason: None },
            pods: Vec::new(),
            next_deadline: None,
            alarms: Vec::new(),
        }
    }

    pub(in crate::ops) fn pod(state: PodState, copy: Option<CopyState>, parent_running: ParentRunning) -> Pod {
        Pod {
            namespace: "shop".to_owned(),
            name: "web".to_owned(),
            uid: "u1".to_owned(),
            state,
            copy: copy.map(|state| Copy { state, reason: None }),
            parent_running,
            meant_to_run: true,
            held: false,
            priority: 0,
            verdict: Vec::new(),
            why: String::new(),
            todo: None,
            deadline: None,
        }
    }

    #[test]
    fn how_a_pod_does() {
        use CopyState as C;
        use Health::*;
        use ParentRunning::{Held as H, No as N, Unknown as U, Yes as Y};
        use PodState::{Active, HandedOver, Inactive, SelfActive};
        #[rustfmt::skip]
        let rows = [
            //                            parent: Yes        Held        No           Unknown
            (Inactive,   None,               [ParentRuns, ParentRuns, Down,        NobodyKnows]),
            (HandedOver, None,               [ParentRuns, ParentRuns, Down,        NobodyKnows]),
            // What is said of a copy that is not active is left over.
            (Inactive,   Some(C::Running),   [ParentRuns, ParentRuns, Down,        NobodyKnows]),
            (Active,     Some(C::Running),   [ParentRuns, ParentRuns, CopyRuns,    CopyRuns]),
            (SelfActive, Some(C::Running),   [ParentRuns, ParentRuns, CopyRuns,    CopyRuns]),
            (Active,     Some(C::Starting),  [ParentRuns, ParentRuns, CopyStarts,  CopyStarts]),
            (Active,     Some(C::Failing),   [ParentRuns, ParentRuns, CopyFails,   CopyFails]),
            (Active,     Some(C::Unknown),   [ParentRuns, ParentRuns, NobodyKnows, NobodyKnows]),
        ];
        for (state, copy, wants) in rows {
            for (parent, want) in [Y, H, N, U].into_iter().zip(wants) {
                assert_eq!(pod(state, copy, parent).health(), want, "{state:?} {copy:?} {parent:?}");
            }
        }
        let held = Pod { held: true, ..pod(Inactive, None, N) };
        assert_eq!(held.health(), Held);
        let finished = Pod { meant_to_run: false, ..pod(Inactive, None, N) };
        assert_eq!(finished.health(), NotMeant);
        let unasked = Pod { meant_to_run: false, ..pod(Active, Some(C::Failing), N) };
        assert_eq!(unasked.health(), CopyFails, "what was activated and fails is told all the same");
    }

    #[test]
    fn an_older_agents_words_are_understood() {
        let text = r#"{"apiVersion":"ckpt-db.io/v1alpha1","kind":"CheckpointerStatus","node":"n","version":"0","nowUnixS":1,
            "startedAtUnixS":1,"upS":0,"policy":"all","apiServer":{"state":"Silent","sinceUnixS":1,"forS":0},"store":{},
            "runtime":{"known":true},"kubelet":{"state":"Unknown"},"newer":"ignored","pods":[{"namespace":"a","name":"b",
            "uid":"c","state":"Inactive","parentRunning":"Yes","meantToRun":true}]}"#;
        let status: CheckpointerStatus = serde_json::from_str(text).unwrap();
        assert!(status.clock_is_set && !status.has_findings() && status.pods[0].why.is_empty());
    }

    #[test]
    fn the_soonest_deadline_names_its_pod() {
        let due = |name: &str, in_s| Pod {
            name: name.to_owned(),
            deadline: Some(Deadline { what: "its copy is activated".to_owned(), in_s, pod: None }),
            ..pod(PodState::Inactive, None, ParentRunning::No)
        };
        let pods = [due("a", 9), due("b", 3), pod(PodState::None, None, ParentRunning::No)];
        let soonest = CheckpointerStatus::soonest(&pods).unwrap();
        assert_eq!((soonest.in_s, soonest.pod.as_deref()), (3, Some("shop/b")));
        assert_eq!(CheckpointerStatus::soonest(&pods[2..]), None);
    }
}
