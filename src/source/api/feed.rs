//! The feed: everything that the API server has for this node, as a stream of steps to be stored.
//!
//! One task drives the [`Collector`] with what the followers hear, and starts and ends their tasks as it says. Bodies are
//! passed on, not kept. Dropping the feed ends all of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::Stream;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use super::body::Listing;
use super::collect::{Action, Answer, Collector, Seen, Step};
use super::connect::Connections;
use super::line::{Line, Standing};
use super::pace::{Jitter, Pace};
use super::reach::{Failure, Reach};
use super::sighting::Sighting;
use super::tracker::ObjectRefresh;
use super::watching::WatchEnds;
use super::{pods, services, tracker};
use crate::checkpoint::object::{Kind, Object, ObjectKey};
use crate::crypto::SystemEntropy;
use crate::source::manifests::bound_to;

/// How many steps wait for the store before the followers are held up, and with them the API server's streams.
const STEPS_AHEAD: usize = 256;

/// How a feed follows.
#[derive(Clone)]
pub struct Options {
    /// This node's name.
    pub node: String,
    /// How ConfigMaps and Secrets are followed.
    pub refresh: ObjectRefresh,
    /// How fast.
    pub pace: Pace,
    /// Whether the wall clock can be right; see [`super::reach::clock_is_set`].
    pub clock_is_set: Arc<dyn Fn() -> bool + Send + Sync>,
    /// Where it is counted how watches end.
    pub ends: Arc<WatchEnds>,
}

/// What a feed yields.
#[derive(Clone)]
pub enum Told {
    /// To be stored.
    Step(Step),
    /// The API server stands otherwise than before.
    Reach(Reach),
    /// Something that the operator should know.
    Note(Note),
}

/// Something that the operator should know. Never carries a value of an object.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Note {
    /// ConfigMaps and Secrets can't be watched with these credentials, and are read one by one.
    GetOnly {
        /// How often.
        every: Duration,
    },
    /// An object that the server sent can't be read; what is stored of it stays.
    Unreadable(String),
    /// A ConfigMap or Secret could not be read now; what is stored of it stays, and it is tried again.
    NotRead {
        /// Which one.
        object: ObjectKey,
        /// Why.
        why: String,
    },
    /// Pods or objects are missing, and so is this node's own Node: that is no proof that they are gone.
    NodeUnknown,
    /// The API server sent a pod that is not bound to this node: an answer to another question.
    NotBound(ObjectKey),
    /// Services can't be listed.
    NoServices(String),
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::GetOnly { every } => write!(
                f,
                "these credentials may not watch ConfigMaps and Secrets: each is read every {} s instead",
                every.as_secs()
            ),
            Self::Unreadable(what) => write!(f, "the API server sent an object that can't be read: {what}"),
            Self::NotRead { object, why } => write!(f, "cannot read {object} (it is tried again): {why}"),
            Self::NodeUnknown => f.write_str(
                "pods, or objects that they name, are missing from the API server, and so is the Node object of this node: \
                 nothing is removed, since an emptied or newly made control plane looks like this",
            ),
            Self::NotBound(pod) => write!(
                f,
                "the API server sent {pod}, which is not bound to this node: it is left out, and what is stored of it stays"
            ),
            Self::NoServices(why) => write!(f, "cannot list Services (what is stored of them stays): {why}"),
        }
    }
}

/// What a follower hears.
pub(super) enum Heard {
    Listed {
        listing: Listing,
        epoch: u64,
        listings: u64,
        refused: bool,
    },
    Answering,
    /// A sign of life: no answer yet.
    Sign,
    Pod(Object),
    Doubtful(Vec<(ObjectKey, String)>),
    PodGone {
        key: ObjectKey,
        uid: String,
        listings: u64,
    },
    Failed(Failure),
    Answer {
        key: ObjectKey,
        generation: u64,
        epoch: u64,
        answer: Answer,
    },
    Services(Step),
    Note(Note),
}

/// What the owner of a feed tells it.
enum Command {
    Prove(Vec<(ObjectKey, String)>),
    Connections(Connections),
    Hasten(bool),
}

/// Tells a feed things; see [`Feed::control`].
#[derive(Clone)]
pub struct Control(mpsc::UnboundedSender<Command>);

impl Control {
    /// Asks for proof that these pods (key and UID), which a stored listing lacked, are gone. Those that are come as
    /// [`Step::PodGone`].
    pub fn prove(&self, pods: Vec<(ObjectKey, String)>) {
        // A feed that has ended proves nothing; the next one lists again.
        let _ = self.0.send(Command::Prove(pods));
    }

    /// From now on use these connections: the credentials have changed. Nothing is lost, and nothing listed again.
    pub fn use_connections(&self, connections: Connections) {
        let _ = self.0.send(Command::Connections(connections));
    }

    /// Whether an API server that does not answer is asked each second, with jitter, and not with a growing back-off: for
    /// copies that must go before their parents come.
    pub fn hasten(&self, hasten: bool) {
        let _ = self.0.send(Command::Hasten(hasten));
    }
}

/// The stream of steps.
pub struct Feed {
    told: mpsc::Receiver<Told>,
    control: Control,
    sighting: watch::Receiver<Sighting>,
    driver: AbortHandle,
}

impl Feed {
    /// Starts to follow. Must be called on a Tokio runtime.
    #[must_use]
    pub fn start(options: Options, connections: Connections) -> Self {
        let (tell, told) = mpsc::channel(STEPS_AHEAD);
        let (control, commands) = mpsc::unbounded_channel();
        let (sighting, sighted) = watch::channel(Sighting::default());
        let driver = tokio::spawn(Driver::new(options, connections, tell, sighting).run(commands));
        Self { told, control: Control(control), sighting: sighted, driver: driver.abort_handle() }
    }

    /// How the API server stands, at once.
    #[must_use]
    pub fn sighting(&self) -> watch::Receiver<Sighting> {
        self.sighting.clone()
    }

    /// For telling the feed things while it is read.
    #[must_use]
    pub fn control(&self) -> Control {
        self.control.clone()
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Stream for Feed {
    type Item = Told;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Told>> {
        self.told.poll_recv(context)
    }
}

/// The node's own tracker has this generation; those of the collector count from one.
const NODE_GENERATION: u64 = 0;

struct Driver {
    options: Options,
    line: Line,
    collector: Collector,
    began: Instant,
    connections: watch::Sender<Connections>,
    tell: mpsc::Sender<Told>,
    sighting: watch::Sender<Sighting>,
    hasten: watch::Sender<bool>,
    hear: mpsc::Sender<Heard>,
    heard: mpsc::Receiver<Heard>,
    doubt: mpsc::UnboundedSender<(ObjectKey, String)>,
    namespaces: watch::Sender<BTreeSet<String>>,
    trackers: BTreeMap<ObjectKey, (u64, AbortHandle)>,
    generation: u64,
    /// Those of the last listing.
    epoch: u64,
    listings: u64,
    reach: Option<Reach>,
    /// What was said once and need not be said again while it holds.
    said: BTreeSet<Note>,
    /// Ends every task with the driver.
    tasks: JoinSet<()>,
}

impl Driver {
    fn new(
        options: Options,
        connections: Connections,
        tell: mpsc::Sender<Told>,
        sighting: watch::Sender<Sighting>,
    ) -> Self {
        let (hasten, hastens) = watch::channel(false);
        let (connections, to_use) = watch::channel(connections);
        let (standing, stands) = watch::channel(Standing::default());
        let (hear, heard) = mpsc::channel(STEPS_AHEAD);
        let (doubt, doubtful) = mpsc::unbounded_channel();
        let (namespaces, of_pods) = watch::channel(BTreeSet::new());
        let line = Line::new(&options.node, options.pace, to_use, stands, Jitter::new(&SystemEntropy));
        let line = line.counting(Arc::clone(&options.ends));
        let mut tasks = JoinSet::new();
        tasks.spawn(pods::follow(line.clone().ahead(), standing, hastens, hear.clone()));
        tasks.spawn(pods::prove(line.clone(), doubtful, hear.clone()));
        tasks.spawn(services::follow(line.clone(), of_pods, hear.clone()));
        if let Ok(node) = ObjectKey::new(Kind::Node, "", &options.node) {
            let refresh = ObjectRefresh::Watch;
            tasks.spawn(tracker::track(line.clone(), node, NODE_GENERATION, refresh, hear.clone()));
        }
        let collector = Collector::new(options.pace.patience.as_millis() as u64);
        Self {
            options,
            line,
            collector,
            began: Instant::now(),
            connections,
            tell,
            sighting,
            hasten,
            hear,
            heard,
            doubt,
            namespaces,
            trackers: BTreeMap::new(),
            generation: NODE_GENERATION,
            epoch: 0,
            listings: 0,
            reach: None,
            said: BTreeSet::new(),
            tasks,
        }
    }

    async fn run(mut self, mut commands: mpsc::UnboundedReceiver<Command>) {
        loop {
            let due = self.collector.due().map(|due| self.began + Duration::from_millis(due));
            let told = tokio::select! {
                heard = self.heard.recv() => match heard {
                    Some(heard) => self.hear(heard).await,
                    None => return,
                },
                command = commands.recv() => match command {
                    Some(Command::Prove(pods)) => {
                        self.doubt(pods);
                        Ok(())
                    }
                    Some(Command::Connections(connections)) => {
                        self.connections.send_replace(connections);
                        Ok(())
                    }
                    Some(Command::Hasten(hasten)) => {
                        self.hasten.send_replace(hasten);
                        Ok(())
                    }
                    None => return,
                },
                () = tokio::time::sleep_until(due.unwrap_or(self.began)), if due.is_some() => {
                    let actions = self.collector.tick(self.now_ms());
                    self.act(actions).await
                }
                // Trackers that were ended are collected, so that the set does not grow. One that panicked would leave its
                // object behind unnoticed: its feed ends, and the next one lists everything again.
                Some(ended) = self.tasks.join_next() => match ended {
                    Err(error) if error.is_panic() => Err(Ended),
                    Ok(()) | Err(_) => Ok(()),
                },
            };
            if told.is_err() {
                return;
            }
        }
    }

    fn now_ms(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }

    /// Asks for proof that these pods are gone.
    fn doubt(&self, pods: Vec<(ObjectKey, String)>) {
        for pod in pods {
            // Its receiver lives as long as the tasks do.
            let _ = self.doubt.send(pod);
        }
    }

    async fn hear(&mut self, heard: Heard) -> Result<(), Ended> {
        let now = self.now_ms();
        let seen = match heard {
            Heard::Answering => return self.reach(Reach::Answering).await,
            Heard::Sign => {
                self.sighting.send_if_modified(Sighting::sign);
                return Ok(());
            }
            Heard::Listed { listing, epoch, listings, refused } => {
                self.epoch = epoch;
                self.listings = listings;
                let (pods, others): (Vec<Object>, Vec<Object>) =
                    listing.objects.into_iter().partition(|pod| self.is_of_node(pod));
                // That it answers, and whom it names, at once: a copy that has to go does not wait for a second look.
                self.sighting.send_modify(|sighting| {
                    if !refused {
                        sighting.stands(Reach::Answering);
                    }
                    sighting.listed(pods.iter());
                });
                // While watches are refused it is not told to answer and to refuse in turns.
                if !refused {
                    self.reach(Reach::Answering).await?;
                }
                // What was wrong before may be right now, and is said again if not; how rights are is said once.
                self.said.retain(|note| matches!(note, Note::GetOnly { .. }));
                for pod in others {
                    self.note(Note::NotBound(pod.key)).await?;
                }
                // What is stored and was not listed is found by the store.
                let listed = |key: &ObjectKey| pods.iter().any(|pod| pod.key == *key);
                let lacking = self.collector.not_emitted().filter(|(key, _)| !listed(key));
                self.doubt(lacking.map(|(key, uid)| (key.clone(), uid.to_owned())).collect());
                Seen::Listed { pods, position: listing.resource_version }
            }
            Heard::Pod(pod) => {
                if !self.is_bound(&pod).await? {
                    return Ok(());
                }
                self.sighting.send_if_modified(|sighting| sighting.pod(&pod));
                Seen::Pod(pod)
            }
            Heard::PodGone { key, uid, listings } => {
                // What was read before the last listing may be of another past than the listing.
                if listings != self.listings {
                    self.doubt(vec![(key, uid)]);
                    return Ok(());
                }
                self.sighting.send_if_modified(|sighting| sighting.gone(&key, &uid));
                Seen::PodGone { key, uid }
            }
            // Of before the API server was away: each tracker answers anew.
            Heard::Answer { epoch, .. } if epoch != self.epoch => return Ok(()),
            Heard::Answer { key, generation: NODE_GENERATION, answer, .. } => {
                return match answer {
                    Answer::Found(node) if key.kind() == Kind::Node => self.tell(Told::Step(Step::Node(node))).await,
                    // A Node that is gone is no reason to forget it.
                    _ => Ok(()),
                };
            }
            Heard::Answer { key, generation, answer, .. } => {
                // An answer of a tracker that has been ended since is of the past.
                if self.trackers.get(&key).is_none_or(|(current, _)| *current != generation) {
                    return Ok(());
                }
                Seen::Answer { key, answer }
            }
            Heard::Doubtful(pods) => {
                self.doubt(pods);
                return Ok(());
            }
            Heard::Failed(failure) => {
                let routed = failure.had_route();
                self.sighting.send_modify(|sighting| sighting.routed = routed);
                let reach = failure.reach((self.options.clock_is_set)());
                return self.reach(reach).await;
            }
            Heard::Services(step) => return self.tell(Told::Step(step)).await,
            Heard::Note(note) => return self.note(note).await,
        };
        let actions = self.collector.see(seen, now);
        self.act(actions).await
    }

    /// Whether this is a pod of this node.
    fn is_of_node(&self, pod: &Object) -> bool {
        bound_to(pod).as_deref() == Some(&*self.line.node)
    }

    /// The same, and says if it is not. A server that answers another question says nothing of ours.
    async fn is_bound(&mut self, pod: &Object) -> Result<bool, Ended> {
        let bound = self.is_of_node(pod);
        if !bound {
            self.note(Note::NotBound(pod.key.clone())).await?;
        }
        Ok(bound)
    }

    /// Says it, unless that was done.
    async fn note(&mut self, note: Note) -> Result<(), Ended> {
        if self.said.insert(note.clone()) {
            self.tell(Told::Note(note)).await?;
        }
        Ok(())
    }

    async fn reach(&mut self, reach: Reach) -> Result<(), Ended> {
        if self.reach.as_ref() == Some(&reach) {
            return Ok(());
        }
        self.reach = Some(reach.clone());
        self.sighting.send_modify(|sighting| sighting.stands(reach.clone()));
        self.tell(Told::Reach(reach)).await
    }

    async fn act(&mut self, actions: Vec<Action>) -> Result<(), Ended> {
        for action in actions {
            match action {
                Action::Track(key) | Action::Refetch(key) => self.track(key),
                Action::Untrack(key) => {
                    if let Some((_, task)) = self.trackers.remove(&key) {
                        task.abort();
                    }
                }
                Action::Emit(step) => {
                    self.note_namespaces(&step);
                    self.tell(Told::Step(step)).await?;
                }
            }
        }
        Ok(())
    }

    fn track(&mut self, key: ObjectKey) {
        self.generation += 1;
        let (line, hear) = (self.line.clone(), self.hear.clone());
        let task = tracker::track(line, key.clone(), self.generation, self.options.refresh, hear);
        let task = self.tasks.spawn(task);
        if let Some((_, former)) = self.trackers.insert(key, (self.generation, task)) {
            former.abort();
        }
    }

    fn note_namespaces(&self, step: &Step) {
        let of = |pod: &super::collect::Gathered| pod.pod.key.namespace().to_owned();
        let named: BTreeSet<String> = match step {
            // A listing tells all of them, so that namespaces without pods are forgotten.
            Step::Listing { pods, .. } => {
                self.namespaces.send_if_modified(|known| {
                    let now: BTreeSet<String> = pods.iter().map(of).collect();
                    let changed = *known != now;
                    *known = now;
                    changed
                });
                return;
            }
            Step::Pod(pod) => BTreeSet::from([of(pod)]),
            Step::PodGone { .. }
            | Step::Object(_)
            | Step::ObjectAbsent { .. }
            | Step::Node(_)
            | Step::Services { .. } => return,
        };
        self.namespaces.send_if_modified(|known| {
            let before = known.len();
            known.extend(named);
            known.len() > before
        });
    }

    /// Waits while the store is behind.
    async fn tell(&self, told: Told) -> Result<(), Ended> {
        self.tell.send(told).await.map_err(|_| Ended)
    }
}

/// Nobody reads the feed any more.
struct Ended;

#[cfg(test)]
mod tests {
    use futures_util::StreamExt as _;

    use super::super::credentials::{Credentials, Place};
    use super::super::testing::{Authority, cluster, kubeconfig};
    use super::*;

    #[tokio::test]
    async fn a_follower_that_panics_ends_the_feed() {
        let dir = tempfile::tempdir().unwrap();
        let nobody = cluster("https://127.0.0.1:1", &Authority::new());
        let place = Place::Explicit(kubeconfig(dir.path(), &nobody, "token: t"));
        let credentials = Credentials::load(&place).unwrap_or_else(|error| panic!("{error}"));
        let options = Options {
            node: "n1".to_owned(),
            refresh: ObjectRefresh::Watch,
            pace: Pace::default(),
            clock_is_set: Arc::new(|| true),
            ends: Arc::default(),
        };
        let connections = Connections::new(&credentials, options.pace.requests);
        let (tell, told) = mpsc::channel(STEPS_AHEAD);
        let (control, commands) = mpsc::unbounded_channel();
        let (sighting, sighted) = watch::channel(Sighting::default());
        let mut driver = Driver::new(options, connections, tell, sighting);
        driver.tasks.spawn(async { panic!("as a follower should not") });
        let driver = tokio::spawn(driver.run(commands));
        let feed = Feed { told, control: Control(control), sighting: sighted, driver: driver.abort_handle() };
        let rest = feed.collect::<Vec<_>>();
        let rest = tokio::time::timeout(Duration::from_secs(20), rest).await;
        assert!(rest.is_ok(), "the feed goes on without one of its followers");
    }
}
