//! Follows one ConfigMap or Secret, or this node's Node: by a watch of its name, or where that is forbidden by reading it
//! again and again.

use std::time::Duration;

use serde::Deserialize;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use super::body;
use super::collect::{Absence, Answer};
use super::events::Event;
use super::feed::{Heard, Note};
use super::line::{Line, epoch_after};
use super::pace::Backoff;
use super::paths;
use super::reach::Failure;
use super::watching::{End, Watching};
use crate::checkpoint::object::{Kind, Object, ObjectKey};

/// How objects are followed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ObjectRefresh {
    /// By a watch each, where that is allowed.
    #[default]
    Watch,
    /// By reading each once a minute: fewer open streams, more requests.
    Poll,
}

/// How often an object that is forbidden is asked for again at once: the Node authorizer learns of a pod a moment after
/// the pod was bound.
const AT_ONCE: [Duration; 3] = [Duration::from_millis(100), Duration::from_millis(300), Duration::from_millis(900)];

/// A watch that lasted this long shows that all is well, and the next failure is the first one.
const WELL_AFTER: Duration = Duration::from_secs(10);

/// How many watches have to be refused in a row, each after a listing that was not, before it is for good: rights come and
/// go with pods, and with restarts of the API server.
const WATCHES_REFUSED: u32 = 3;

/// How many looks at an object have to fail in a row before it is told.
const FAILURES_TOLD: u32 = 3;

/// What one look brought.
enum Look {
    Found {
        object: Object,
        watch_from: Option<String>,
    },
    Absent {
        why: Absence,
        watch_from: Option<String>,
    },
    /// A GET did not find it, and a listing, which alone would be a proof, is not allowed.
    NotFoundByGet,
    /// It is not listed, by an API server that does not know this node either.
    NodeUnknown,
    Failed(Failure),
}

/// Tells every version of the object. Ends when it is aborted, or with the feed.
pub(super) async fn track(
    mut line: Line,
    key: ObjectKey,
    generation: u64,
    refresh: ObjectRefresh,
    heard: mpsc::Sender<Heard>,
) {
    let mut backoff = Backoff::new(line.pace.retry_first, line.pace.retry_longest);
    let mut forbidden = Backoff::new(line.pace.retry_first, line.pace.forbidden_longest);
    let (mut refused, mut failures) = (0, 0);
    // Epochs count from one.
    let mut epoch = 0;
    let mut cut = false;
    loop {
        let former = std::mem::replace(&mut epoch, line.answering().await);
        if std::mem::take(&mut cut) || former > 0 && former < epoch {
            // Everything is read again, by all nodes at about the same time.
            sleep(line.jitter(|jitter| jitter.between(Duration::ZERO, line.pace.spread))).await;
        }
        // Apart: there is a task for each object, and it looks once and then watches.
        let look = Box::pin(look(&mut line, &key, epoch, refresh, &heard)).await;
        let immutable = matches!(&look, Look::Found { object, .. } if is_immutable(object));
        let (answer, watch_from, wait) = match look {
            Look::Found { object, watch_from } => {
                failures = 0;
                forbidden.reset();
                if watch_from.is_none() {
                    backoff.reset();
                }
                let poll = line.jitter(|jitter| jitter.around(line.pace.poll));
                (Answer::Found(object), watch_from, poll)
            }
            Look::Absent { why, watch_from } => {
                let wait = line.jitter(|jitter| forbidden.wait(jitter, None));
                (Answer::Absent(why), watch_from, wait)
            }
            // What is stored of it stays.
            Look::NotFoundByGet => (Answer::NotSeen, None, line.jitter(|jitter| jitter.around(line.pace.poll))),
            Look::NodeUnknown => {
                let _ = heard.send(Heard::Note(Note::NodeUnknown)).await;
                // All of them ask, of a control plane that has enough to do.
                (Answer::Failed, None, line.jitter(|jitter| forbidden.wait(jitter, None)))
            }
            Look::Failed(failure) => {
                failures += 1;
                let asked = failure.retry_after_s();
                // The follower of the pods tells when the API server goes away; this is about the one object.
                if failures >= FAILURES_TOLD || matches!(failure, Failure::Garbage(_) | Failure::TooLong(_)) {
                    let why = failure.to_string();
                    let _ = heard.send(Heard::Note(Note::NotRead { object: key.clone(), why })).await;
                }
                (Answer::Failed, None, line.jitter(|jitter| backoff.wait(jitter, asked)))
            }
        };
        if heard.send(Heard::Answer { key: key.clone(), generation, epoch, answer }).await.is_err() {
            return;
        }
        match watch_from {
            // The API server takes no change of it, and the kubelet does not look at it again either.
            _ if immutable => epoch_after(&mut line.standings(), epoch).await,
            Some(position) => {
                let began = Instant::now();
                let end = watch(&mut line, &key, generation, epoch, position, &heard).await;
                line.ends.count(key.kind(), &end);
                if began.elapsed() >= WELL_AFTER {
                    backoff.reset();
                    refused = 0;
                }
                cut = end.is_cut();
                let asked = match end {
                    End::Failed(failure) if failure.status() == Some(403) => {
                        refused += 1;
                        if refused >= WATCHES_REFUSED && key.kind() != Kind::Node {
                            get_only(&line, epoch, &heard).await;
                            continue;
                        }
                        None
                    }
                    End::Failed(failure) => failure.retry_after_s(),
                    End::InTime | End::Lost | End::Early => None,
                };
                sleep(line.jitter(|jitter| backoff.wait(jitter, asked))).await;
            }
            None => {
                let mut standings = line.standings();
                tokio::select! {
                    () = sleep(wait) => {}
                    () = epoch_after(&mut standings, epoch) => {}
                }
            }
        }
    }
}

async fn look(
    line: &mut Line,
    key: &ObjectKey,
    epoch: u64,
    refresh: ObjectRefresh,
    heard: &mpsc::Sender<Heard>,
) -> Look {
    let own_node = key.kind() == Kind::Node;
    let mut waits = AT_ONCE.into_iter();
    let mut alone = None;
    if !own_node && refresh == ObjectRefresh::Watch {
        alone = line.tries_listing(epoch).await;
    }
    loop {
        let polls = !own_node && (refresh == ObjectRefresh::Poll || line.get_only(epoch));
        let first = if polls { read(line, key).await } else { list(line, key).await };
        if !matches!(first, Look::Absent { why: Absence::Forbidden, .. }) {
            // A failure says nothing, but who waits for nothing but failures is late.
            alone.into_iter().for_each(|mut tried_in| *tried_in = epoch);
            return first;
        }
        // Perhaps only listing is forbidden. Or the API server has just started and knows nobody's rights yet: that one
        // request was refused and the next was not proves nothing, so the first is made again.
        if !polls
            && !own_node
            && let found @ Look::Found { .. } = read(line, key).await
        {
            let again = list(line, key).await;
            let listed = !matches!(again, Look::Absent { why: Absence::Forbidden, .. });
            if !listed {
                get_only(line, epoch, heard).await;
            }
            alone.into_iter().for_each(|mut tried_in| *tried_in = epoch);
            return if listed { again } else { found };
        }
        // This object alone may be forbidden: another one tells.
        alone = None;
        match waits.next() {
            Some(wait) => sleep(wait).await,
            None => return first,
        }
    }
}

async fn get_only(line: &Line, epoch: u64, heard: &mpsc::Sender<Heard>) {
    line.set_get_only(epoch);
    let _ = heard.send(Heard::Note(Note::GetOnly { every: line.pace.poll })).await;
}

/// A consistent listing of the one object: what it says, it proves, if the API server knows this node.
async fn list(line: &mut Line, key: &ObjectKey) -> Look {
    let listed = list_once(line, key).await;
    if key.kind() == Kind::Node || !matches!(listed, Look::Absent { why: Absence::NotFound, .. }) {
        return listed;
    }
    match line.knows_node().await {
        // Once more: should the control plane have got its memory back just now, the object is found.
        Ok(true) => list_once(line, key).await,
        Ok(false) => Look::NodeUnknown,
        Err(failure) => Look::Failed(failure),
    }
}

async fn list_once(line: &mut Line, key: &ObjectKey) -> Look {
    match line.list_one(key).await {
        Ok(mut found) => match (found.objects.pop(), found.bad.pop()) {
            (_, Some(bad)) => Look::Failed(Failure::garbage(&format!("list {key}"), &bad)),
            (Some(object), None) if object.key == *key => {
                Look::Found { object, watch_from: Some(found.resource_version) }
            }
            (Some(other), None) => {
                let why = format!("the answer is {}", other.key);
                Look::Failed(Failure::garbage(&format!("list {key}"), &why))
            }
            (None, None) => Look::Absent { why: Absence::NotFound, watch_from: Some(found.resource_version) },
        },
        Err(failure) if failure.status() == Some(403) => Look::Absent { why: Absence::Forbidden, watch_from: None },
        Err(failure) => Look::Failed(failure),
    }
}

/// A GET of the object. That it is not found proves nothing: a listing has to, where one is allowed.
async fn read(line: &mut Line, key: &ObjectKey) -> Look {
    let path = paths::object(key);
    let answer = match line.get(&path).await {
        Ok(answer) => answer,
        Err(failure) if failure.status() == Some(404) => {
            return match list(line, key).await {
                Look::Absent { why: Absence::Forbidden, .. } => Look::NotFoundByGet,
                Look::Absent { why, .. } => Look::Absent { why, watch_from: None },
                Look::Found { object, .. } => Look::Found { object, watch_from: None },
                look @ (Look::NotFoundByGet | Look::NodeUnknown | Look::Failed(_)) => look,
            };
        }
        Err(failure) if failure.status() == Some(403) => {
            return Look::Absent { why: Absence::Forbidden, watch_from: None };
        }
        Err(failure) => return Look::Failed(failure),
    };
    match body::object(answer.expose(), key.kind()) {
        Ok(object) if object.key == *key => Look::Found { object, watch_from: None },
        Ok(other) => {
            let why = format!("the answer is {}", other.key);
            Look::Failed(Failure::garbage(&format!("GET {path}"), &why))
        }
        Err(error) => Look::Failed(Failure::garbage(&format!("GET {path}"), &error)),
    }
}

/// Watches from `position` until it can't be gone on from there, or it has to be proven that the object is gone.
async fn watch(
    line: &mut Line,
    key: &ObjectKey,
    generation: u64,
    epoch: u64,
    mut position: String,
    heard: &mpsc::Sender<Heard>,
) -> End {
    loop {
        let time = line.watch_time();
        let mut watching = {
            let path = paths::watch_of(key, &position, time.as_secs());
            match Watching::open(&line.connections(), &path, key.kind(), &position, time).await {
                Ok(watching) => watching,
                Err(end) => return end,
            }
        };
        let mut epochs = line.standings();
        loop {
            let event = tokio::select! {
                event = watching.next() => event,
                () = line.new_connections() => break,
                () = epoch_after(&mut epochs, epoch) => return End::Lost,
            };
            let object = match event {
                Ok(Ok(Event::Applied(object))) if object.key == *key => object,
                Ok(Ok(Event::Bookmark { .. })) => continue,
                // An event of another object, or of what it was before it went: a listing tells how it is.
                Ok(Ok(Event::Applied(_) | Event::Deleted(_) | Event::Error(_))) => return End::Lost,
                Ok(Err(error)) => return End::Failed(Failure::garbage(&format!("watch {key}"), &error)),
                Err(End::InTime) => break,
                Err(end) => return end,
            };
            let immutable = is_immutable(&object);
            let answer = Heard::Answer { key: key.clone(), generation, epoch, answer: Answer::Found(object) };
            if heard.send(answer).await.is_err() {
                std::future::pending::<()>().await;
            }
            if immutable {
                drop(watching);
                epoch_after(&mut line.standings(), epoch).await;
                return End::Lost;
            }
        }
        line.ends.count(key.kind(), &End::InTime);
        watching.position().clone_into(&mut position);
    }
}

fn is_immutable(object: &Object) -> bool {
    #[derive(Deserialize)]
    struct View {
        #[serde(default)]
        immutable: bool,
    }
    // Of few objects, so that the others are not parsed once more at each change.
    let may_say_so = || std::str::from_utf8(object.body.expose()).is_ok_and(|body| body.contains(r#""immutable""#));
    matches!(object.key.kind(), Kind::ConfigMap | Kind::Secret)
        && may_say_so()
        && serde_json::from_slice::<View>(object.body.expose()).is_ok_and(|view| view.immutable)
}
