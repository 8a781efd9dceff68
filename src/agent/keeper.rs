//! Keeps the node's pods: looks, decides, acts, and says what came of it. One pass after the other, whatever the store and
//! the API server do meanwhile.

use std::collections::{BTreeMap, BTreeSet};

use tokio::runtime::Builder;

use super::eyes::{Eyes, Sights};
use super::pass::{Outcome, PassError, Target, assess, lifecycle, refuse_other_node};
use super::shared::Renewed;
use crate::checkpoint::decide::{Decision, PodNetwork};
use crate::checkpoint::images::NodeImages;
use crate::checkpoint::lifecycle::{Alarm, Checkpoint, Lives, Record, Rules, Standing, Timeline, decide};
use crate::checkpoint::look::{Answers, ApiServer, Look};
use crate::checkpoint::node::Fact;
use crate::checkpoint::object::{Kind, Object, ObjectKey};
use crate::checkpoint::rendering::{Activity, Manifest, Plan, PlannedPod, PodName, Rendering};
use crate::checkpoint::settings::{ActivationPolicy, Settings};
use crate::clear::Clear;
use crate::materialize::{Materializer, Report};
use crate::store::{Change, Committed, Revision, Snapshot};

/// What to keep, and how.
pub struct Keeping {
    /// Whether anything is rendered and recorded at all; if not, what would be is still decided. It takes the feature gate.
    pub acts: bool,
    /// The operator's settings.
    pub settings: Settings,
    /// The name of this node, where the operator says it.
    pub own_name: Option<String>,
    /// Where files are rendered to.
    pub target: Target,
    /// When pods are activated.
    pub rules: Rules,
    /// Whether the pod network works offline, as far as the node's files tell.
    pub network: Box<dyn Fn() -> PodNetwork + Send>,
    /// Where to look.
    pub sights: Sights,
}

/// Keeps the node's pods.
pub struct Keeper {
    keeping: Keeping,
    eyes: Eyes,
    timeline: Timeline,
    /// Pods whose checkpoints have ended, and whose trees may still be there.
    departed: BTreeSet<PodName>,
    /// What was carried out and told, and is not on record: the store may take no commit for days.
    told: Told,
    said: Said,
    assessed: Option<Assessed>,
    /// What was seen last, for a moment.
    seen: Option<(Look, NodeImages)>,
}

/// What a pass has carried out beyond what is on record.
#[derive(Default)]
struct Told {
    records: Vec<Record>,
    removed: Vec<(PodName, String)>,
}

impl Told {
    /// Whether it is in here already.
    fn has(&self, record: &Record) -> bool {
        self.records.iter().any(|told| tells_the_same(told, record))
    }
}

/// Whether there is nothing new in it. What is left of a period runs on meanwhile.
fn tells_the_same(told: &Record, record: &Record) -> bool {
    let what = |record: &Record| (record.uid.clone(), record.state.code(), record.republished, record.why.clone());
    told.pod == record.pod && what(told) == what(record)
}

/// What was said last of each pod: what is left of a period is recorded now and then, which is no news.
#[derive(Default)]
struct Said(BTreeMap<PodName, Record>);

impl Said {
    /// What there is to say, which counts as said from now on; `pods` are all that there are.
    fn news<'a>(&mut self, records: &[Record], pods: impl Iterator<Item = &'a PodName>) -> Vec<Record> {
        let pods: BTreeSet<&PodName> = pods.collect();
        self.0.retain(|pod, _| pods.contains(pod));
        let mut news = Vec::new();
        for record in records {
            let last = self.0.insert(record.pod.clone(), record.clone());
            if last.is_none_or(|last| !tells_the_same(&last, record)) {
                news.push(record.clone());
            }
        }
        news
    }
}

/// What the last whole pass found, without a rendering: enough to see whether anything would be done otherwise.
struct Assessed {
    revision: Revision,
    images: NodeImages,
    network: PodNetwork,
    decision: Decision,
    checkpoints: Vec<Checkpoint>,
    /// What was carried out.
    activities: Vec<(PodName, Activity)>,
    /// Until when it is good enough, in milliseconds since boot: then files that someone else changed are put right.
    until_ms: u64,
}

/// How often files are looked at although nothing changed: as often as the kubelet reads its directory.
const WHOLE_EACH_MS: u64 = 20_000;

/// The same while trees wait to be removed, or something went wrong.
const WHOLE_SOON_MS: u64 = 5_000;

/// How old what was seen of the node may be where there is a hurry: a bit more than one round in which a copy is active.
const GLANCE_MS: u64 = 2_500;

/// What one pass saw and did.
pub struct Kept {
    /// The verdict of each stored pod, and the plan that was carried out.
    pub decision: Decision,
    /// Where each stored pod stands, in the same order.
    pub standings: Vec<Standing>,
    /// What changed with a pod: where its checkpoint stands now, and why.
    pub news: Vec<Record>,
    /// Checkpoints that have ended: pod and UID.
    pub ended: Vec<(PodName, String)>,
    /// What should wake somebody up.
    pub alarms: Vec<Alarm>,
    /// What was done to files; `None` if none was touched: nothing had to be, or the policy is `off`.
    pub report: Option<Report>,
    /// To be recorded in the store.
    pub changes: Vec<Change>,
    /// What was seen.
    pub look: Look,
    /// When the next pass is due, in milliseconds since boot.
    pub next_ms: Option<u64>,
    /// Whether a copy must go as soon as the API server answers.
    pub yielding: bool,
    /// Whether any copy is active.
    pub active: bool,
}

impl Keeper {
    /// Begins. `found` is the store as this process found it, if there was one.
    #[must_use]
    pub fn new(keeping: Keeping, found: Option<&Snapshot>) -> Self {
        let stored_boot_id = found.and_then(Snapshot::boot_id).unwrap_or_default();
        let eyes = Eyes::new(keeping.sights.clone(), stored_boot_id);
        Self {
            keeping,
            eyes,
            timeline: Timeline::default(),
            departed: BTreeSet::new(),
            told: Told::default(),
            said: Said::default(),
            assessed: None,
            seen: None,
        }
    }

    /// The identity of this boot, if it is known.
    #[must_use]
    pub fn boot_id(&self) -> Option<&str> {
        self.eyes.boot_id()
    }

    /// What it keeps, and how.
    #[must_use]
    pub fn keeping(&self) -> &Keeping {
        &self.keeping
    }

    /// From the next pass on, which is a whole one, pods are kept by other settings. What was seen and done stays known.
    pub fn renew(&mut self, Renewed { settings, rules }: Renewed) {
        self.keeping.settings = settings;
        self.keeping.rules = rules;
        self.assessed = None;
    }

    /// Looks at the node.
    pub async fn look(&mut self, api: ApiServer) -> (Look, NodeImages) {
        let seen = (self.eyes.look(api).await, self.eyes.images().await);
        self.seen = Some(seen.clone());
        seen
    }

    /// What was seen of the node a moment ago, with an API server that begins to answer, or gives a sign of life: whoever has
    /// to go before its parent comes does not wait for the container runtime. It is to be looked at again at once. `None` if
    /// that was too long ago, or there is no such hurry.
    pub fn glance(&mut self, api: &ApiServer, now_ms: u64) -> Option<(Look, NodeImages)> {
        let fresh = |look: &Look| now_ms.saturating_sub(look.now_ms) <= GLANCE_MS;
        let (look, images) = self.seen.take().filter(|(look, _)| fresh(look))?;
        let begins = look.api.reach != Answers::Answering && api.reach == Answers::Answering;
        let signs = api.sign_ms.is_some() && look.api.sign_ms != api.sign_ms;
        (begins || signs).then(|| (Look { now_ms, api: api.clone(), ..look }, images))
    }

    /// One pass without an API server, for a caller without a runtime: what the store holds comes back now.
    ///
    /// # Errors
    /// As [`Keeper::pass`]; there is no runtime to be had.
    pub fn pass_now(&mut self, snapshot: &Committed<Snapshot>, now_unix_s: u64) -> Result<Kept, PassError> {
        let runtime = Builder::new_current_thread().enable_all().build().map_err(PassError::Runtime)?;
        let silent = ApiServer {
            reach: Answers::Silent,
            since_ms: 0,
            routed_since_ms: Some(0),
            sign_ms: None,
            last_answer_ms: None,
            sighted: BTreeMap::new(),
            in_step: false,
        };
        let (look, images) = runtime.block_on(self.look(silent));
        self.pass(snapshot, look, &images, now_unix_s)
    }

    /// One pass over what is durable.
    ///
    /// # Errors
    /// [`PassError`]; then nothing was changed. Pods that fail one by one are in the report.
    pub fn pass(
        &mut self,
        snapshot: &Committed<Snapshot>,
        mut look: Look,
        images: &NodeImages,
        now_unix_s: u64,
    ) -> Result<Kept, PassError> {
        let Keeping { acts, settings, own_name, target, rules, network, .. } = &self.keeping;
        let stored = snapshot.get();
        // Before any directory is made.
        refuse_other_node(stored, own_name.as_deref())?;
        let acting = *acts && (settings.activation != ActivationPolicy::Off || rules.break_glass);
        let materializer = match acting {
            true => Some(
                Materializer::open(target.roots.clone(), target.secret_root, target.owners)?
                    .naming_secrets(settings.secret_root.clone().into()),
            ),
            // Shadow mode touches nothing, and so leaves alone what an earlier start has rendered.
            false => None,
        };
        look.manifests = match &materializer {
            Some(materializer) => match materializer.active() {
                Ok(active) => Fact::Known(active),
                Err(error) => Fact::Unknown(error.to_string()),
            },
            None => Fact::Unknown("nothing is rendered".to_owned()),
        };
        let network = network();
        let rules = with_room(rules.clone(), stored);
        let known = self.assessed.as_ref().filter(|known| {
            let same = known.revision == stored.revision() && known.images == *images && known.network == network;
            // Whoever asks for a pass by hand gets a whole one.
            same && look.now_ms < known.until_ms && !rules.break_glass
        });
        if let Some((same, timeline)) =
            known.and_then(|known| unchanged(known, &self.told, &self.timeline, &look, &rules))
        {
            self.timeline = timeline;
            let changes = if acting { same.changes } else { Vec::new() };
            return Ok(Kept { changes, ..same });
        }
        let Outcome { decision, checkpoints, .. } = assess(stored, settings, own_name.as_deref(), network, images)?;
        let unrendered = unrendered(&decision);
        let verdicts = decision.verdicts.clone();
        let lives = decide(decision, &checkpoints, &look, &rules, &mut self.timeline);
        let Lives { mut plan, standings, records, removed, released, alarms, next_ms, yielding } = lives;
        let active = standings.iter().any(|standing| standing.state.is_active());
        plan.stopped = self.stopped(&look, &standings, stored.node_name().unwrap_or_default());
        // The plan follows from the committed snapshot and from what is seen, and so is as durable as that is.
        let plan = snapshot.derive(|_| plan);
        let report = materializer.map(|materializer| materializer.reconcile(&plan, stored, now_unix_s));
        let failed = |pod: &PodName| {
            let outcomes = report.iter().flat_map(|report| &report.outcomes);
            outcomes.into_iter().any(|(name, outcome)| name == pod && outcome.is_failure())
        };
        // What failed is decided again by the next pass.
        let records: Vec<Record> = records.into_iter().filter(|record| !failed(&record.pod)).collect();
        let mut changes = match acting {
            true => changes(&records, &removed),
            false => Vec::new(),
        };
        changes.extend(released.into_iter().map(|pod| Change::Hold { pod, held: false }));
        self.departed.extend(removed.iter().map(|(pod, _)| pod.clone()));
        let news = self.said.news(&records, standings.iter().map(|standing| &standing.pod));
        let ended = removed.iter().filter(|gone| !self.told.removed.contains(gone)).cloned().collect();
        self.told = Told { records, removed };
        if let Some(report) = &report {
            self.departed.retain(|pod| report.waiting.iter().any(|waiting| waiting.pod == *pod));
        }
        let decision = Decision { verdicts, plan: plan.into_inner() };
        let soon = report.as_ref().is_some_and(|report| {
            let failed = report.outcomes.iter().any(|(_, outcome)| outcome.is_failure());
            failed || !report.waiting.is_empty() || !report.problems.is_empty()
        });
        self.assessed = Some(Assessed {
            revision: stored.revision(),
            images: images.clone(),
            network,
            decision: unrendered,
            checkpoints,
            activities: activities(&decision.plan),
            until_ms: look.now_ms + if soon { WHOLE_SOON_MS } else { WHOLE_EACH_MS },
        });
        Ok(Kept { decision, standings, news, ended, alarms, report, changes, look, next_ms, yielding, active })
    }

    /// Pods of which the runtime says that no copy lives.
    fn stopped(&self, look: &Look, standings: &[Standing], node: &str) -> BTreeSet<PodName> {
        let Fact::Known(runtime) = &look.runtime else { return BTreeSet::new() };
        let inactive = standings.iter().filter(|standing| !standing.state.is_active()).map(|standing| &standing.pod);
        let lives = |pod: &PodName| {
            let mut copies = runtime.sandboxes.iter().filter(|sandbox| sandbox.parent_uid.is_some() && sandbox.ready);
            copies.any(|copy| {
                copy.pod.namespace == pod.namespace
                    && copy.pod.name.strip_prefix(&pod.name) == Some(&format!("-{node}"))
            })
        };
        inactive.chain(&self.departed).filter(|pod| !lives(pod)).cloned().collect()
    }
}

/// What a pass comes to if it would do nothing: what is decided is what was carried out.
fn unchanged(
    known: &Assessed,
    told: &Told,
    timeline: &Timeline,
    look: &Look,
    rules: &Rules,
) -> Option<(Kept, Timeline)> {
    let mut timeline = timeline.clone();
    let lives = decide(known.decision.clone(), &known.checkpoints, look, rules, &mut timeline);
    let Lives { plan, standings, records, removed, released, alarms, next_ms, yielding } = lives;
    let nothing = records.iter().all(|record| told.has(record)) && removed == told.removed && released.is_empty();
    if !nothing || activities(&plan) != known.activities {
        return None;
    }
    let kept = Kept {
        decision: Decision { verdicts: known.decision.verdicts.clone(), plan },
        active: standings.iter().any(|standing| standing.state.is_active()),
        standings,
        news: Vec::new(),
        ended: Vec::new(),
        alarms,
        report: None,
        // Should the store take commits again, they are made up for.
        changes: changes(&records, &removed),
        look: look.clone(),
        next_ms,
        yielding,
    };
    Some((kept, timeline))
}

/// The same decision without what would be written.
fn unrendered(decision: &Decision) -> Decision {
    let planned = |planned: &PlannedPod| {
        let Rendering { pod, uid, .. } = &planned.rendering;
        let manifest = Manifest { json: Clear::default(), carries_secret: false };
        let rendering = Rendering { pod: pod.clone(), uid: uid.clone(), manifest, trees: Vec::new() };
        PlannedPod { rendering, activity: planned.activity }
    };
    let plan = Plan { pods: decision.plan.pods.iter().map(planned).collect(), ..Plan::default() };
    let plan = Plan { untouched: decision.plan.untouched.clone(), unsure: decision.plan.unsure.clone(), ..plan };
    Decision { verdicts: decision.verdicts.clone(), plan }
}

fn activities(plan: &Plan) -> Vec<(PodName, Activity)> {
    plan.pods.iter().map(|planned| (planned.rendering.pod.clone(), planned.activity)).collect()
}

/// What is to be recorded after a pass.
fn changes(news: &[Record], removed: &[(PodName, String)]) -> Vec<Change> {
    let decided = news.iter().filter_map(|record| {
        Some(Change::Decided {
            pod: record.pod.clone(),
            uid: record.uid.clone(),
            lifecycle: lifecycle(record.state)?,
            republished: record.republished,
            why: record.why.clone(),
        })
    });
    let deleted = removed.iter().filter_map(|(pod, uid)| {
        let key = ObjectKey::new(Kind::Pod, &pod.namespace, &pod.name).ok()?;
        Some(Change::Delete { key, uid: uid.clone() })
    });
    decided.chain(deleted).collect()
}

/// The rules with what the store knows of the node: how many pods it takes, and which are there besides parents.
fn with_room(rules: Rules, snapshot: &Snapshot) -> Rules {
    let number = |node: &Object| {
        let node: serde_json::Value = serde_json::from_slice(node.body.expose()).ok()?;
        node.pointer("/status/allocatable/pods")?.as_str()?.parse().ok()
    };
    let pods_max = snapshot.all(Kind::Node).iter().find_map(number);
    Rules { pods_max: rules.pods_max.or(pods_max), ..rules }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::checkpoint::lifecycle::State;
    use crate::crypto::SystemEntropy;
    use crate::materialize::{Owners, Roots, SecretRootPolicy};
    use crate::node::boot::Source;
    use crate::store::{Backend as _, MemoryStore};

    /// A store of one pod that has run.
    fn store() -> MemoryStore {
        let identity = store_format::Identity::new(store_format::StoreId([7; 16]), 0, "edge-1");
        let mut store = MemoryStore::new(identity, Box::new(SystemEntropy)).unwrap();
        let body = serde_json::json!({
            "metadata": {"name": "web", "namespace": "shop", "uid": "u1"},
            "spec": {"nodeName": "edge-1", "restartPolicy": "Always", "containers": [{"name": "c", "image": "i:1"}]},
            "status": {"phase": "Running", "containerStatuses": [{"name": "c", "state": {"running": {}}}]},
        });
        let key = ObjectKey::new(Kind::Pod, "shop", "web").unwrap();
        let (uid, body) = ("u1".to_owned(), body.to_string().into());
        let object = Object { key, uid, resource_version: String::new(), body };
        let _ = store.update(vec![Change::Apply { object, with: Vec::new() }, Change::Complete], 0).unwrap();
        store
    }

    fn keeper(root: &Path, activation: ActivationPolicy) -> Keeper {
        let manifests = root.join("manifests");
        let roots = Roots {
            manifests: manifests.clone(),
            prepared: root.join("prepared"),
            secrets: root.join("secrets"),
            configmaps: root.join("configmaps"),
        };
        let boot = Source::File(root.join("no-boot-id"));
        let keeping = Keeping {
            acts: true,
            settings: Settings { activation, ..Settings::default() },
            own_name: None,
            target: Target { roots, secret_root: SecretRootPolicy::AllowDisk, owners: Owners::Unchanged },
            rules: Rules { break_glass: activation != ActivationPolicy::Off, ..Rules::default() },
            network: Box::new(|| PodNetwork::Yes),
            sights: Sights { root: root.to_owned(), manifests, cri_socket: None, boot },
        };
        Keeper::new(keeping, None)
    }

    /// As on a node whose disk is read-only: pass after pass over the same snapshot.
    #[test]
    fn what_could_not_be_recorded_is_told_and_done_once_and_offered_again() {
        let root = tempfile::tempdir().unwrap();
        let mut store = store();
        let snapshot = store.snapshot().unwrap();
        let mut keeper = keeper(root.path(), ActivationPolicy::All);
        let mut passes = Vec::new();
        for _ in 0..4 {
            let kept = keeper.pass_now(&snapshot, 0).unwrap();
            passes.push((kept.news.len(), kept.report.is_some(), kept.changes.len()));
        }
        assert_eq!(passes[0], (1, true, 1));
        // By hand each pass is a whole one.
        assert_eq!(passes[1..], [(0, true, 1); 3]);
        assert!(root.path().join("manifests/shop_web.json").exists());

        // The disk is back: it is on record, and nothing is left to be said.
        let decided = keeper.pass_now(&snapshot, 0).unwrap().changes;
        let _ = store.update(decided, 0).unwrap();
        let kept = keeper.pass_now(&store.snapshot().unwrap(), 0).unwrap();
        assert_eq!((kept.news.len(), kept.changes.len()), (0, 0));
    }

    #[test]
    fn a_period_that_runs_on_is_no_news() {
        let pod = PodName { namespace: "shop".to_owned(), name: "web".to_owned() };
        let record = |state, why: &str| Record {
            pod: pod.clone(),
            uid: "uid".to_owned(),
            state,
            republished: 0,
            why: why.to_owned(),
        };
        let over = |left_ms| record(State::HandedOver { left_ms }, "the parent has taken over");
        let active = record(State::Active, "the API server is silent");
        let mut said = Said::default();
        // What a pass records, whether the pod is there, and how much of it is news.
        let passes = [
            (vec![active.clone()], true, 1),
            (vec![over(60_000)], true, 1),
            (Vec::new(), true, 0),
            (vec![over(50_000)], true, 0),
            (vec![record(State::HandedOver { left_ms: 40_000 }, "its parent is gone")], true, 1),
            (vec![active.clone()], true, 1),
            (Vec::new(), false, 0),
            (vec![active], true, 1),
        ];
        for (number, (records, there, want)) in passes.into_iter().enumerate() {
            let news = said.news(&records, there.then_some(&pod).into_iter());
            assert_eq!(news.len(), want, "pass {number}");
        }
    }

    /// One that has to go before its parent goes by what was seen of the node a moment ago, and only then.
    #[tokio::test]
    async fn a_glance_is_for_an_api_server_that_begins() {
        let silent = ApiServer {
            reach: Answers::Silent,
            since_ms: 0,
            routed_since_ms: None,
            sign_ms: None,
            last_answer_ms: None,
            sighted: BTreeMap::new(),
            in_step: false,
        };
        let signs = |sign_ms| ApiServer { sign_ms, ..silent.clone() };
        let answers = ApiServer { reach: Answers::Answering, ..silent.clone() };
        let refuses = ApiServer { reach: Answers::Refusing, ..silent.clone() };
        #[rustfmt::skip]
        let rows = [
            // before          now               ms later  a glance
            (silent.clone(),   answers.clone(),  0,        true),
            (silent.clone(),   answers.clone(),  2_500,    true),
            (silent.clone(),   answers.clone(),  2_501,    false),
            (refuses.clone(),  answers.clone(),  0,        true),
            (silent.clone(),   signs(Some(7)),   0,        true),
            (signs(Some(7)),   signs(Some(7)),   0,        false),
            (signs(Some(7)),   answers.clone(),  0,        true),
            (answers.clone(),  answers.clone(),  0,        false),
            (answers.clone(),  silent.clone(),   0,        false),
            (silent.clone(),   silent.clone(),   0,        false),
            (silent.clone(),   refuses.clone(),  0,        false),
        ];
        let root = tempfile::tempdir().unwrap();
        for (before, now, later_ms, want) in rows {
            let mut keeper = keeper(root.path(), ActivationPolicy::All);
            assert!(keeper.glance(&now, 0).is_none(), "nobody has looked yet");
            let (look, _) = keeper.look(before.clone()).await;
            let now_ms = look.now_ms + later_ms;
            let glance = keeper.glance(&now, now_ms);
            assert_eq!(glance.is_some(), want, "{before:?}, then {now:?}");
            if let Some((glance, _)) = glance {
                assert_eq!((glance.now_ms, glance.api), (now_ms, now.clone()));
                assert!(keeper.glance(&now, now_ms).is_none(), "the next look is one");
            }
        }
    }

    #[test]
    fn shadow_mode_records_nothing_however_often_it_looks() {
        let root = tempfile::tempdir().unwrap();
        let snapshot = store().snapshot().unwrap();
        let mut keeper = keeper(root.path(), ActivationPolicy::Off);
        for _ in 0..3 {
            let kept = keeper.pass_now(&snapshot, 0).unwrap();
            assert_eq!((kept.report, kept.changes.len()), (None, 0));
        }
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0, "something was touched");
    }
}
