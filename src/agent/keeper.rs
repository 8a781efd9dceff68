//! Keeps the node's pods: looks, decides, acts, and says what came of it. One pass after the other, whatever the store and
//! the API server do meanwhile.

mod assessed;
mod draining;
#[cfg(test)]
mod tests;
mod told;

use std::collections::BTreeSet;

use tokio::runtime::Builder;

use self::assessed::{Assessed, activities, unchanged, unrendered};
use self::draining::Draining;
use self::told::{Said, Told};
use super::eyes::{Eyes, Sights};
use super::pass::{Outcome, PassError, Target, assess, lifecycle, refuse_other_node};
use super::shared::Renewed;
use crate::checkpoint::decide::{Decision, PodNetwork};
use crate::checkpoint::images::NodeImages;
use crate::checkpoint::lifecycle::{Alarm, Lives, Record, Rules, Standing, Timeline, decide};
use crate::checkpoint::look::{Answers, ApiServer, Look};
use crate::checkpoint::node::Fact;
use crate::checkpoint::object::{Kind, Object, ObjectKey};
use crate::checkpoint::rendering::PodName;
use crate::checkpoint::settings::{ActivationPolicy, Settings};
use crate::materialize::{Materializer, Report};
use crate::store::{Change, Committed, Snapshot};

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
    draining: Draining,
    /// What was seen last, for a moment.
    seen: Option<(Look, NodeImages)>,
}

/// How often files are looked at although nothing changed, while a copy runs from them: as often as the kubelet reads its
/// directory.
const WHOLE_EACH_MS: u64 = 20_000;

/// The same while no copy runs. To read every file is most of what an idle agent does, and whatever activates a copy looks at
/// all of them first.
const WHOLE_IDLE_MS: u64 = 300_000;

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
    /// Copies of before the policy was `off`, if any runs, in the words of an alarm.
    pub left_over: Option<String>,
    /// What was done to files; `None` if none was touched: nothing had to be, or the policy is `off` and no copy is left.
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
            draining: Draining::default(),
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
        let (look, images) = runtime.block_on(self.look(ApiServer::silent()));
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
        // Whoever asks by hand under this policy wants every copy gone.
        let shadow = settings.activation == ActivationPolicy::Off && !rules.break_glass;
        match *acts && shadow {
            true => self.draining.look(&target.roots),
            false => self.draining.end(),
        }
        let drains = self.draining.goes_on();
        let acting = *acts && (!shadow || drains);
        let materializer = match acting {
            true => Some(
                Materializer::open(target.roots.clone(), target.secret_root, target.owners)?
                    .naming_secrets(settings.secret_root.clone().into()),
            ),
            // Shadow mode touches nothing.
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
        let mut rules = with_room(rules.clone(), stored);
        if drains {
            // In shadow mode the agent does not keep itself.
            rules.own_pod = None;
        }
        let known = self.assessed.as_ref().filter(|known| {
            let same = known.revision == stored.revision() && known.images == *images && known.network == network;
            let same = same && known.drains == drains;
            // Whoever asks for a pass by hand gets a whole one.
            same && look.now_ms < known.until_ms && !rules.break_glass
        });
        if let Some((same, timeline)) =
            known.and_then(|known| unchanged(known, &self.told, &self.timeline, &look, &rules))
        {
            self.timeline = timeline;
            let changes = if acting { same.changes } else { Vec::new() };
            return Ok(Kept { changes, left_over: self.draining.told(&same.standings), ..same });
        }
        let Outcome { mut decision, checkpoints, .. } = assess(stored, settings, own_name.as_deref(), network, images)?;
        if drains {
            self.draining.spare(&mut decision.plan, &checkpoints, stored);
        }
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
        let each_ms = match (soon, active) {
            (true, _) => WHOLE_SOON_MS,
            (false, true) => WHOLE_EACH_MS,
            (false, false) => WHOLE_IDLE_MS,
        };
        self.assessed = Some(Assessed {
            revision: stored.revision(),
            images: images.clone(),
            network,
            drains,
            decision: unrendered,
            checkpoints,
            activities: activities(&decision.plan),
            until_ms: look.now_ms + each_ms,
        });
        let left_over = self.draining.told(&standings);
        Ok(Kept {
            decision,
            standings,
            news,
            ended,
            alarms,
            left_over,
            report,
            changes,
            look,
            next_ms,
            yielding,
            active,
        })
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
