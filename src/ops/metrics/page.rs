//! The page: what the status document, the counters and the kernel say, as metrics.

use super::text::Text;
use super::*;
use crate::checkpoint::object::Kind;
use crate::ops::health::Health;
use crate::ops::status::{
    self, AlarmCode, CheckpointerStatus, CopyState, KubeletState, Lock, Pod, PodState, Policy, Reach,
};

/// A feature gate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Feature {
    /// Its name.
    pub name: &'static str,
    /// How mature it is, in Kubernetes' words.
    pub stage: &'static str,
    /// Whether it is on.
    pub on: bool,
}

/// A key slot of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Its kind.
    pub kind: &'static str,
    /// When it was made, in milliseconds since 1970.
    pub created_at_unix_ms: u64,
}

/// What the last round found in the store, beyond the status document.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inventory {
    /// How many objects of each kind can be read.
    pub objects: Vec<(Kind, u64)>,
    /// Its key slots, by creation.
    pub slots: Vec<Slot>,
    /// Whether it was in step with the API server.
    pub in_step: bool,
    /// For how long it has not been, in seconds; `None` if it never was in the life of this process.
    pub out_of_step_s: Option<u64>,
}

/// What is looked at when somebody asks.
#[derive(Clone, Debug)]
pub struct Gathered {
    /// What the agent knows of its node and its pods.
    pub status: CheckpointerStatus,
    /// What the last round found in the store; `None` before the first.
    pub inventory: Option<Inventory>,
    /// The checks.
    pub health: Health,
    /// Every feature gate.
    pub features: Vec<Feature>,
    /// How many watches of a kind have ended for a reason.
    pub watch_ends: Vec<(Kind, &'static str, u64)>,
    /// Size of the store's file; `None` if there is none.
    pub file_bytes: Option<u64>,
    /// Room on its file system.
    pub available_bytes: Option<u64>,
    /// This process.
    pub process: Option<Process>,
    /// Milliseconds since boot.
    pub now_ms: u64,
}

/// Everything in Prometheus' text format.
#[must_use]
pub fn page(gathered: &Gathered, counters: &Counters) -> String {
    let mut text = Text::default();
    agent(&mut text, gathered, counters);
    api_server(&mut text, gathered, counters);
    store(&mut text, gathered, counters);
    pods(&mut text, &gathered.status, counters);
    process(&mut text, gathered);
    text.finish()
}

fn agent(text: &mut Text, gathered: &Gathered, counters: &Counters) {
    let status = &gathered.status;
    text.metric(&BUILD_INFO).put(&[&status.version], 1.0);
    let mut features = text.metric(&FEATURE_ENABLED);
    for Feature { name, stage, on } in &gathered.features {
        features.put(&[name, stage], is(*on));
    }
    let mut checks = text.metric(&HEALTH_CHECK);
    for (endpoint, all) in gathered.health.endpoints() {
        for check in all {
            checks.put(&[check.name, endpoint], is(check.outcome.is_ok()));
        }
    }
    text.metric(&ACTIVATION_POLICY).put(
        &[match status.policy {
            Policy::Off => "off",
            Policy::Annotated => "annotated",
            Policy::All => "all",
        }],
        1.0,
    );
    text.metric(&COLD_START).maybe(counters.cold_start_ms().map(|ms| ms as f64 / 1000.0));
    text.metric(&ROUNDS).put(&[], counters.rounds.get());
    text.metric(&ROUND_FAILURES).put(&[], counters.round_failures.get());
    text.metric(&CONTAINER_RUNTIME).put(&[], is(status.runtime.known));
    text.metric(&KUBELET).maybe(match status.kubelet.state {
        KubeletState::Running => Some(1.0),
        KubeletState::NotRunning => Some(0.0),
        KubeletState::Unknown => None,
    });
}

fn api_server(text: &mut Text, gathered: &Gathered, counters: &Counters) {
    let api = &gathered.status.api_server;
    let (state, silence) = match api.state {
        Reach::Answering => ("Answering", 0),
        Reach::Silent => ("Silent", api.for_s),
        Reach::Refusing => ("Refusing", 0),
    };
    text.metric(&API_STATE).one_of(["Answering", "Silent", "Refusing"], state);
    text.metric(&API_STATE_SECONDS).put(&[], api.for_s as f64);
    text.metric(&API_SILENCE).put(&[], silence as f64);
    let inventory = gathered.inventory.as_ref();
    text.metric(&IN_STEP).put(&[], is(inventory.is_some_and(|inventory| inventory.in_step)));
    text.metric(&SYNC_AGE).maybe(inventory.and_then(|inventory| inventory.out_of_step_s).map(|s| s as f64));
    text.metric(&LISTINGS).put(&[], counters.listings.get());
    let mut restarts = text.metric(&WATCH_RESTARTS);
    for (kind, reason, count) in &gathered.watch_ends {
        restarts.put(&[kind.row().name, reason], *count as f64);
    }
    text.metric(&CERTIFICATE).maybe(counters.certificate_expires_unix_s().map(|unix_s| unix_s as f64));
}

fn store(text: &mut Text, gathered: &Gathered, counters: &Counters) {
    let (store, inventory) = (&gathered.status.store, gathered.inventory.as_ref());
    let mut objects = text.metric(&OBJECTS);
    for (kind, count) in inventory.into_iter().flat_map(|inventory| &inventory.objects) {
        objects.put(&[kind.row().name], *count as f64);
    }
    text.metric(&POPULATED).put(&[], is(store.populated));
    text.metric(&WRITABLE).put(&[], is(!store.read_only && store.problem.is_none()));
    let lock = match store.lock {
        Lock::Open => "Open",
        Lock::Locked => "Locked",
        Lock::Keyless => "Keyless",
    };
    text.metric(&LOCK).one_of(["Open", "Locked", "Keyless"], lock);
    text.metric(&QUARANTINED).put(&[], store.findings as f64);
    text.metric(&DAMAGED_FILES).put(&[], store.damaged_files.len() as f64);
    text.metric(&REVISION).put(&[], store.revision as f64);
    text.metric(&FILE_BYTES).maybe(gathered.file_bytes.map(|bytes| bytes as f64));
    text.metric(&AVAILABLE_BYTES).maybe(gathered.available_bytes.map(|bytes| bytes as f64));
    counters.commit_us.put(&mut text.metric(&COMMIT_SECONDS), 1e6);
    counters.commit_changes.put(&mut text.metric(&COMMIT_CHANGES), 1.0);
    text.metric(&COMMIT_BYTES).put(&[], counters.commit_bytes.get());
    text.metric(&COMMIT_FAILURES).put(&[], counters.commit_failures.get());
    text.metric(&REJECTED).put(&[], counters.rejected.get());
    slots(text, inventory.map_or(&[], |inventory| &inventory.slots), gathered.status.now_unix_s);
}

fn slots(text: &mut Text, slots: &[Slot], now_unix_s: u64) {
    // The word of the store's format, in which a kind is never without a name.
    let kinds = store_format::SlotKind::ALL.map(store_format::SlotKind::name);
    let of = |kind: &'static str| slots.iter().filter(move |slot| slot.kind == kind);
    let mut count = text.metric(&SLOTS);
    for kind in kinds {
        count.put(&[kind], of(kind).count() as f64);
    }
    let age = |slot: &Slot| now_unix_s.saturating_sub(slot.created_at_unix_ms / 1000);
    let mut oldest = text.metric(&SLOT_OLDEST);
    for kind in kinds {
        if let Some(age) = of(kind).map(age).max() {
            oldest.put(&[kind], age as f64);
        }
    }
    let mut newest = text.metric(&SLOT_NEWEST);
    for kind in kinds {
        if let Some(age) = of(kind).map(age).min() {
            newest.put(&[kind], age as f64);
        }
    }
}

fn pods(text: &mut Text, status: &CheckpointerStatus, counters: &Counters) {
    let all = &status.pods;
    count(text, &PODS, &["Recoverable", "WhenNetworkIs", "NotRecoverable", "NotMeant"], all.iter().map(verdict));
    let mut reasons: Vec<(&str, u64)> = Vec::new();
    for reason in all.iter().filter(|pod| verdict(pod) == "NotRecoverable").flat_map(|pod| &pod.verdict) {
        match reasons.iter_mut().find(|(known, _)| known == reason) {
            Some((_, count)) => *count += 1,
            None => reasons.push((reason, 1)),
        }
    }
    reasons.sort_unstable();
    let mut not_recoverable = text.metric(&NOT_RECOVERABLE);
    for (reason, count) in reasons {
        not_recoverable.put(&[reason], count as f64);
    }
    let healths = ["CopyFails", "Down", "NobodyKnows", "Held", "CopyStarts", "CopyRuns", "ParentRuns", "NotMeant"];
    count(text, &HEALTH, &healths, all.iter().map(health));
    let states = PodState::ALL.map(PodState::name);
    count(text, &CHECKPOINTS, &states, all.iter().map(|pod| pod.state.name()));
    let active = all.iter().filter(|pod| pod.state.is_active());
    let copies = active.map(|pod| pod.copy.as_ref().map_or("unknown", |copy| copy_state(copy.state)));
    count(text, &COPIES, &["starting", "running", "failing", "unknown"], copies);
    text.metric(&HELD).put(&[], all.iter().filter(|pod| pod.held).count() as f64);
    let codes = AlarmCode::ALL.map(AlarmCode::name);
    count(text, &ALARMS, &codes, status.alarms.iter().map(|alarm| alarm.code.as_str()));
    text.metric(&ACTIVATIONS).put(&[], counters.activations.get());
    text.metric(&HAND_OVERS).put(&[], counters.hand_overs.get());
    text.metric(&ENDED).put(&[], counters.ended.get());
    text.metric(&REJECTED_PARENTS).put(&[], counters.rejected_parents.get());
    let bootstrap = status.bootstrap.as_ref();
    text.metric(&BOOTSTRAP_FILES).maybe(bootstrap.map(|bootstrap| bootstrap.files as f64));
    let mut failures = text.metric(&BOOTSTRAP_FAILURES);
    if let Some(status::Bootstrap { failures: all, removals_failed, writes_failed, .. }) = bootstrap {
        failures.put(&["write"], *writes_failed as f64);
        failures.put(&["remove"], *removals_failed as f64);
        failures.put(&["read"], all.saturating_sub(writes_failed + removals_failed) as f64);
    }
}

fn process(text: &mut Text, gathered: &Gathered) {
    let Some(process) = gathered.process else { return };
    text.metric(&CPU).put(&[], process.cpu_s);
    text.metric(&RESIDENT).put(&[], process.resident_bytes as f64);
    text.metric(&OPEN_FDS).maybe(process.open_fds.map(|fds| fds as f64));
    text.metric(&MAX_FDS).maybe(process.max_fds.map(|fds| fds as f64));
    let ago_s = gathered.now_ms.saturating_sub(process.started_ms) / 1000;
    text.metric(&STARTED).put(&[], gathered.status.now_unix_s.saturating_sub(ago_s) as f64);
}

/// How many of `found` are each of `known`. Others count nowhere: there are none.
fn count<'a>(text: &mut Text, metric: &Metric, known: &[&str], found: impl Iterator<Item = &'a str> + Clone) {
    let mut samples = text.metric(metric);
    for known in known {
        samples.put(&[known], found.clone().filter(|found| found == known).count() as f64);
    }
}

fn is(what: bool) -> f64 {
    f64::from(u8::from(what))
}

fn verdict(pod: &Pod) -> &'static str {
    match pod.verdict.first().map(String::as_str) {
        _ if !pod.meant_to_run => "NotMeant",
        Some("Recoverable") => "Recoverable",
        Some("WhenNetworkIs") => "WhenNetworkIs",
        Some(_) | None => "NotRecoverable",
    }
}

fn health(pod: &Pod) -> &'static str {
    match pod.health() {
        status::Health::CopyFails => "CopyFails",
        status::Health::Down => "Down",
        status::Health::NobodyKnows => "NobodyKnows",
        status::Health::Held => "Held",
        status::Health::CopyStarts => "CopyStarts",
        status::Health::CopyRuns => "CopyRuns",
        status::Health::ParentRuns => "ParentRuns",
        status::Health::NotMeant => "NotMeant",
    }
}

fn copy_state(state: CopyState) -> &'static str {
    match state {
        CopyState::Starting => "starting",
        CopyState::Running => "running",
        CopyState::Failing => "failing",
        CopyState::Unknown => "unknown",
    }
}
