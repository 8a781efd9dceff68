//! What the last round came to, kept for whoever asks: the status document.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::bootstrap::Bootstrap;
use super::cause::{chain, is_full};
use super::keeper::Kept;
use crate::checkpoint::lifecycle::{Alarm, CopyStatus, Running, Standing, State, Why};
use crate::checkpoint::look::{Answers, Kubelet, Look};
use crate::checkpoint::node::Fact;
use crate::checkpoint::object::Kind;
use crate::checkpoint::settings::ActivationPolicy;
use crate::checkpoint::verdict::{Note, Reason, Verdict};
use crate::materialize::{MaterializeError, PodOutcome, Report};
use crate::node::boot;
use crate::ops::metrics::{Inventory, Slot};
use crate::ops::status::{self, API_VERSION, AlarmCode, CheckpointerStatus, CopyState, KIND, ParentRunning, PodState};
use crate::source::api::reach::Reach;
use crate::store::{LockState, SlotInfo, Snapshot, kept_beside};

/// What does not change while the process lives.
#[derive(Clone, Debug)]
pub struct About {
    /// The store; empty while there is none but in memory.
    pub path: PathBuf,
    /// The feature gate: without it everything is kept in memory only.
    pub checkpointing: bool,
    /// What an earlier run has left that does harm while the gate is off.
    pub left_over: Option<String>,
    /// Which pods are activated, until a reload changes it.
    pub policy: ActivationPolicy,
    /// When it started, in milliseconds since 1970 and since boot.
    pub started_ms: (u64, u64),
}

/// The last round.
pub struct Latest {
    about: About,
    round: Mutex<Option<Round>>,
    problem: Mutex<Option<String>>,
    /// What went wrong with files, as of the last round that touched any.
    files: Mutex<Vec<status::Alarm>>,
    /// When the store was last in step with the API server, in milliseconds since boot.
    in_step_ms: Mutex<Option<u64>>,
    bootstrap: Option<Arc<Bootstrap>>,
    configuration: Mutex<Configuration>,
}

/// What became of the settings since the start.
struct Configuration {
    policy: ActivationPolicy,
    /// That they could not be read, and why.
    refused: Option<String>,
    /// Fields that take a restart.
    restart: Vec<&'static str>,
}

struct Round {
    node: String,
    verdicts: Vec<Verdict>,
    standings: Vec<Standing>,
    held: Vec<bool>,
    alarms: Vec<Alarm>,
    left_over: Option<String>,
    look: Look,
    reach: Option<Reach>,
    store: status::Store,
    newest_stored_at_unix_s: u64,
    objects: [u64; Kind::ALL.len()],
    slots: Vec<Slot>,
}

impl Latest {
    /// Of a process that has made no round yet.
    #[must_use]
    pub fn new(about: About) -> Self {
        let configuration = Configuration { policy: about.policy, refused: None, restart: Vec::new() };
        let (round, problem, files) = (Mutex::default(), Mutex::default(), Mutex::default());
        let (in_step_ms, configuration) = (Mutex::default(), Mutex::new(configuration));
        Self { about, round, problem, files, in_step_ms, bootstrap: None, configuration }
    }

    /// With how the files of bootstrap checkpointing do, where there are any.
    #[must_use]
    pub fn with_bootstrap(self, bootstrap: Option<Arc<Bootstrap>>) -> Self {
        Self { bootstrap, ..self }
    }

    /// A round is over.
    pub(super) fn is(&self, kept: Kept, snapshot: &Snapshot, reach: Option<Reach>) {
        let (mut newest, mut objects) = (0, [0; Kind::ALL.len()]);
        for object in snapshot.objects() {
            newest = object.stored_at_unix_ms.max(newest);
            objects[object.key.kind() as usize] += 1;
        }
        let slot = |slot: &SlotInfo| Slot { kind: slot.kind.name(), created_at_unix_ms: slot.created_at_unix_ms };
        if kept.look.api.in_step {
            *self.in_step_ms.lock().unwrap_or_else(PoisonError::into_inner) = Some(kept.look.now_ms);
        }
        let store = status::Store {
            path: self.about.path.display().to_string(),
            revision: snapshot.revision().0,
            objects: objects.iter().sum::<u64>() as usize,
            populated: snapshot.populated(),
            lock: match snapshot.lock_state() {
                LockState::Open => status::Lock::Open,
                LockState::Locked => status::Lock::Locked,
                LockState::Keyless => status::Lock::Keyless,
            },
            read_only: false,
            findings: snapshot.findings().len(),
            damaged_files: Vec::new(),
            problem: None,
        };
        if let Some(report) = &kept.report {
            *self.files.lock().unwrap_or_else(PoisonError::into_inner) = of_files(report);
        }
        let verdict = |standing: &Standing| {
            let found = kept.decision.verdicts.iter().find(|(pod, _, _)| *pod == standing.pod);
            found.map_or(Verdict::NotRecoverable { reasons: Vec::new() }, |(_, _, verdict)| verdict.clone())
        };
        let round = Round {
            node: snapshot.node_name().unwrap_or_default().to_owned(),
            verdicts: kept.standings.iter().map(verdict).collect(),
            held: kept.standings.iter().map(|standing| standing.why == Why::Held).collect(),
            standings: kept.standings,
            alarms: kept.alarms,
            left_over: kept.left_over,
            look: kept.look,
            reach,
            store,
            newest_stored_at_unix_s: newest / 1000,
            objects,
            slots: snapshot.slots().iter().map(slot).collect(),
        };
        *self.round.lock().unwrap_or_else(PoisonError::into_inner) = Some(round);
        *self.problem.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Whether the API server answered at the last round, and what is stored was in step with it.
    #[must_use]
    pub fn is_answered(&self) -> bool {
        let round = self.round.lock().unwrap_or_else(PoisonError::into_inner);
        round.as_ref().is_some_and(|round| round.look.api.reach == Answers::Answering && round.look.api.in_step)
    }

    /// Settings were read again; these fields have changed and take a restart.
    pub fn configured(&self, policy: ActivationPolicy, restart: Vec<&'static str>) {
        *self.configuration() = Configuration { policy, refused: None, restart };
    }

    /// Settings could not be read again, and stay as they are.
    pub fn refuses(&self, why: String) {
        self.configuration().refused = Some(format!("settings were not read again and stay as they were: {why}"));
    }

    /// Settings could not be read at the start, which took those that held last.
    pub fn began_without(&self, why: String) {
        self.configuration().refused = Some(format!("settings could not be read, and are those that held last: {why}"));
    }

    fn configuration(&self) -> MutexGuard<'_, Configuration> {
        self.configuration.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the feature gate is on.
    #[must_use]
    pub fn checkpointing(&self) -> bool {
        self.about.checkpointing
    }

    /// What the last round found in the store, beyond the document; `None` before the first.
    #[must_use]
    pub fn inventory(&self, now_ms: u64) -> Option<Inventory> {
        let round = self.round.lock().unwrap_or_else(PoisonError::into_inner);
        let round = round.as_ref()?;
        let in_step_ms = *self.in_step_ms.lock().unwrap_or_else(PoisonError::into_inner);
        let in_step = round.look.api.in_step;
        Some(Inventory {
            objects: Kind::ALL.into_iter().zip(round.objects).collect(),
            slots: round.slots.clone(),
            in_step,
            out_of_step_s: in_step_ms.map(|ms| if in_step { 0 } else { now_ms.saturating_sub(ms) / 1000 }),
        })
    }

    /// The store's file, where there is one.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        self.about.checkpointing.then_some(&*self.about.path)
    }

    /// No round could be made.
    pub(super) fn fails(&self, why: String) {
        *self.problem.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
    }

    /// The document. `store_problem`: why the store can't be written to, if it can't.
    #[must_use]
    pub fn status(&self, now_unix_s: u64, store_problem: Option<String>) -> CheckpointerStatus {
        let now_ms = boot::now_ms();
        let round = self.round.lock().unwrap_or_else(PoisonError::into_inner);
        let problem = self.problem.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let files = self.files.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let path = self.about.path.display().to_string();
        let mut store =
            round.as_ref().map_or(status::Store { path, ..Default::default() }, |round| round.store.clone());
        store.read_only = store_problem.is_some();
        store.problem = problem.or(store_problem);
        if self.about.checkpointing {
            store.damaged_files = kept_beside(&self.about.path).iter().map(|path| path.display().to_string()).collect();
        }
        let left_over = self.about.left_over.iter().chain(round.iter().flat_map(|round| &round.left_over));
        let left_over: Vec<_> =
            left_over.map(|message| status::Alarm::new(AlarmCode::LeftOver, None, message.clone())).collect();
        let (policy, configuration) = {
            let configuration = self.configuration();
            (configuration.policy, configuration.alarms())
        };
        let pods: Vec<status::Pod> = round.iter().flat_map(|round| round.pods(now_ms)).collect();
        let nobody = || "no round was made yet".to_owned();
        let (runtime, kubelet) = match &*round {
            Some(round) => (known(&round.look.runtime), kubelet(&round.look.kubelet, now_ms)),
            None => (status::Known { known: false, reason: Some(nobody()) }, kubelet(&Fact::Unknown(nobody()), now_ms)),
        };
        CheckpointerStatus {
            api_version: API_VERSION.to_owned(),
            kind: KIND.to_owned(),
            node: round.as_ref().map(|round| round.node.clone()).unwrap_or_default(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            now_unix_s,
            clock_is_set: round
                .as_ref()
                .is_none_or(|round| crate::source::api::reach::clock_is_set(now_unix_s, round.newest_stored_at_unix_s)),
            started_at_unix_s: self.about.started_ms.0 / 1000,
            up_s: now_ms.saturating_sub(self.about.started_ms.1) / 1000,
            policy: match policy {
                ActivationPolicy::Off => status::Policy::Off,
                ActivationPolicy::Annotated => status::Policy::Annotated,
                ActivationPolicy::All => status::Policy::All,
            },
            checkpointing: self.about.checkpointing,
            api_server: api_server(round.as_ref(), now_ms, now_unix_s, self.about.started_ms.1),
            store,
            bootstrap: self.bootstrap.as_ref().map(|bootstrap| bootstrap.status()),
            runtime,
            kubelet,
            next_deadline: CheckpointerStatus::soonest(&pods),
            pods,
            alarms: round
                .iter()
                .flat_map(|round| round.alarms.iter().map(alarm))
                .chain(files)
                .chain(left_over)
                .chain(configuration)
                .collect(),
        }
    }
}

impl Configuration {
    fn alarms(&self) -> Vec<status::Alarm> {
        let alarm = |code, message| status::Alarm::new(code, None, message);
        let refused = self.refused.iter().map(|what| alarm(AlarmCode::ConfigurationRefused, what.clone()));
        let restart = (!self.restart.is_empty()).then(|| {
            let fields = self.restart.join(", ");
            alarm(
                AlarmCode::RestartNeeded,
                format!("these settings have changed since the start, and take a restart: {fields}"),
            )
        });
        refused.chain(restart).collect()
    }
}

/// Pods that were not rendered, and what else went wrong with files. All of it is tried again by itself.
fn of_files(report: &Report) -> Vec<status::Alarm> {
    let todo = |error: &MaterializeError| match is_full(error) {
        true => "make room there, and it goes on by itself",
        false => "it is tried again",
    };
    let failed = report.outcomes.iter().filter_map(|(pod, outcome)| match outcome {
        PodOutcome::Failed(error) => {
            let message = format!("{}: {}", chain(error), todo(error));
            Some(status::Alarm::new(AlarmCode::NotRendered, Some(pod.to_string()), message))
        }
        PodOutcome::Published { .. } => None,
    });
    let others = report
        .problems
        .iter()
        .map(|error| status::Alarm::new(AlarmCode::Files, None, format!("{}: {}", chain(error), todo(error))));
    failed.chain(others).collect()
}

impl Round {
    fn pods(&self, now_ms: u64) -> impl Iterator<Item = status::Pod> {
        let all = self.standings.iter().zip(&self.verdicts).zip(&self.held);
        all.map(move |((standing, verdict), held)| status::Pod {
            namespace: standing.pod.namespace.clone(),
            name: standing.pod.name.clone(),
            uid: standing.uid.clone(),
            state: pod_state(standing.state),
            copy: standing.copy.as_ref().map(copy),
            parent_running: match standing.running {
                Running::Yes => ParentRunning::Yes,
                Running::Held => ParentRunning::Held,
                Running::No => ParentRunning::No,
                Running::Unknown => ParentRunning::Unknown,
            },
            meant_to_run: !matches!(verdict, Verdict::NotMeant(_)),
            held: *held,
            priority: standing.priority,
            verdict: codes(verdict),
            why: standing.why.to_string(),
            todo: standing.todo(verdict),
            deadline: standing.deadline_ms.map(|at_ms| status::Deadline {
                what: deadline(standing).to_owned(),
                in_s: at_ms.saturating_sub(now_ms).div_ceil(1000),
                pod: None,
            }),
        })
    }
}

fn deadline(standing: &Standing) -> &'static str {
    match (&standing.why, standing.state) {
        (Why::Delay { .. }, _) => "its copy is activated, if the API server stays silent",
        (Why::MakesWay { .. }, _) => "its copy comes back, if the API server does not answer",
        (Why::Settling { .. } | Why::Wave { .. }, _) => "it is looked at again",
        (_, State::ActiveGrace { .. }) => "its copy is removed",
        (_, State::InactiveGrace { .. }) => "what is kept of it is removed",
        (_, State::HandedOver { .. }) => "its copy may run again",
        _ => "it is looked at again",
    }
}

fn api_server(round: Option<&Round>, now_ms: u64, now_unix_s: u64, started_ms: u64) -> status::ApiServer {
    let api = round.map(|round| &round.look.api);
    let since_ms = api.map_or(started_ms, |api| api.since_ms);
    let ago = |ms: u64| now_ms.saturating_sub(ms) / 1000;
    let cause = match round.and_then(|round| round.reach.as_ref()) {
        Some(Reach::Answering) => None,
        Some(Reach::Silent(cause) | Reach::Refusing(cause)) => Some(cause.to_string()),
        None => Some("nobody was asked yet".to_owned()),
    };
    status::ApiServer {
        state: match api.map(|api| api.reach) {
            Some(Answers::Answering) => status::Reach::Answering,
            Some(Answers::Refusing) => status::Reach::Refusing,
            Some(Answers::Silent) | None => status::Reach::Silent,
        },
        since_unix_s: now_unix_s.saturating_sub(ago(since_ms)),
        for_s: ago(since_ms),
        cause,
        last_answer_unix_s: api.and_then(|api| api.last_answer_ms).map(|at_ms| now_unix_s.saturating_sub(ago(at_ms))),
    }
}

fn known<T>(fact: &Fact<T>) -> status::Known {
    match fact {
        Fact::Known(_) => status::Known { known: true, reason: None },
        Fact::Unknown(reason) => status::Known { known: false, reason: Some(reason.clone()) },
    }
}

fn kubelet(fact: &Fact<Kubelet>, now_ms: u64) -> status::Kubelet {
    use status::KubeletState;
    let (state, for_s, reason) = match fact {
        Fact::Known(Kubelet::Running { since_ms }) => {
            (KubeletState::Running, Some(now_ms.saturating_sub(*since_ms) / 1000), None)
        }
        Fact::Known(Kubelet::NotRunning) => (KubeletState::NotRunning, None, None),
        Fact::Unknown(reason) => (KubeletState::Unknown, None, Some(reason.clone())),
    };
    status::Kubelet { state, for_s, reason }
}

fn pod_state(state: State) -> PodState {
    match state {
        State::None => PodState::None,
        State::Inactive | State::Removed => PodState::Inactive,
        State::InactiveGrace { .. } => PodState::InactiveGrace,
        State::Active => PodState::Active,
        State::ActiveGrace { .. } => PodState::ActiveGrace,
        State::HandedOver { .. } => PodState::HandedOver,
        State::SelfActive => PodState::SelfActive,
    }
}

fn copy(copy: &CopyStatus) -> status::Copy {
    let (state, reason) = match copy {
        CopyStatus::Starting => (CopyState::Starting, None),
        CopyStatus::Running => (CopyState::Running, None),
        CopyStatus::Failing(reason) => (CopyState::Failing, Some(reason.clone())),
        CopyStatus::Unknown => (CopyState::Unknown, None),
    };
    status::Copy { state, reason }
}

fn codes(verdict: &Verdict) -> Vec<String> {
    let notes = |first: &'static str, notes: &[Note]| {
        [first].into_iter().chain(notes.iter().map(Note::code)).map(str::to_owned).collect()
    };
    match verdict {
        Verdict::Recoverable { notes: all } => notes("Recoverable", all),
        Verdict::WhenNetworkIs { notes: all } => notes("WhenNetworkIs", all),
        Verdict::NotRecoverable { reasons } => reasons.iter().map(Reason::code).map(str::to_owned).collect(),
        Verdict::NotMeant(reason) => vec![reason.code().to_owned()],
    }
}

fn alarm(alarm: &Alarm) -> status::Alarm {
    let Alarm::ParentRejected { pod, .. } = alarm;
    status::Alarm::new(AlarmCode::ParentRejected, Some(pod.to_string()), alarm.to_string())
}
