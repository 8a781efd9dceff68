//! Follows the pods of this node. It is the one follower that asks while nobody answers, and so tells the others when to.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};

use super::body::Listing;
use super::events::Event;
use super::feed::{Heard, Note};
use super::line::{Line, Standing};
use super::pace::Backoff;
use super::paths;
use super::reach::Failure;
use super::watching::{End, Watching, is_before};
use crate::checkpoint::object::{Kind, Object, ObjectKey};

/// A watch that lasted this long shows that all is well, and the next failure is the first one.
const WELL_AFTER: Duration = Duration::from_secs(10);

/// Between two attempts while somebody is in haste.
const HASTE: Duration = Duration::from_secs(1);

/// The same where the last one was turned away: it costs nobody anything, and a server that begins to listen serves soon.
const HASTE_TURNED_AWAY: Duration = Duration::from_millis(500);

/// Lists, watches, and lists again where a watch can't go on. Ends with the feed.
///
/// While `hastens` says so it asks each second, and not with a back-off.
pub(super) async fn follow(
    mut line: Line,
    standing: watch::Sender<Standing>,
    mut hastens: watch::Receiver<bool>,
    heard: mpsc::Sender<Heard>,
) {
    let mut backoff = Backoff::new(line.pace.retry_first, line.pace.retry_longest);
    // Whether what the other followers know may be of another past: nobody answered in between.
    let mut away = true;
    // Whether the last watch was refused: then a listing alone is no sign that all is well.
    let mut refused = false;
    let mut last: Option<String> = None;
    loop {
        let listed = list(&mut line, &heard).await;
        let mut position = match listed {
            Ok(listing) => {
                for bad in &listing.bad {
                    let _ = heard.send(Heard::Note(Note::Unreadable(bad.to_string()))).await;
                }
                let position = listing.resource_version.clone();
                // A watch that was cut is no reason to read everything again: whose own watch was cut too does it by itself.
                let rewound = last.as_ref().is_some_and(|last| is_before(&position, last));
                let epoch = standing.borrow().epoch + u64::from(away || rewound);
                let listings = standing.borrow().listings + 1;
                if heard.send(Heard::Listed { listing, epoch, listings, refused }).await.is_err() {
                    return;
                }
                standing.send_modify(|standing| *standing = Standing { answering: true, epoch, listings });
                away = false;
                position
            }
            Err(failure) => {
                away = true;
                silence(&mut line, &standing, &mut hastens, &heard, failure, &mut backoff).await;
                continue;
            }
        };
        let began = Instant::now();
        let end = watch(&mut line, &mut position, &heard).await;
        line.ends.count(Kind::Pod, &end);
        if began.elapsed() >= WELL_AFTER {
            backoff.reset();
        }
        refused = matches!(&end, End::Failed(failure) if failure.status().is_some());
        last = Some(position);
        match end {
            // Not at once: a server that loses every position would be asked without end.
            End::InTime | End::Lost | End::Early => sleep(line.jitter(|jitter| backoff.wait(jitter, None))).await,
            End::Failed(failure) => silence(&mut line, &standing, &mut hastens, &heard, failure, &mut backoff).await,
        }
    }
}

/// Lists the pods of this node, and tells of signs of life meanwhile.
async fn list(line: &mut Line, heard: &mpsc::Sender<Heard>) -> Result<Listing, Failure> {
    let mut signs = line.signs();
    let path = paths::pods_of(&line.node);
    let listed = line.list(&path, Kind::Pod);
    tokio::pin!(listed);
    loop {
        tokio::select! {
            // One that comes with the answer is no news.
            biased;
            listed = &mut listed => return listed,
            Ok(()) = signs.changed() => {
                let _ = heard.send(Heard::Sign).await;
            }
        }
    }
}

/// Tells all that nobody answers, and waits before the next try.
async fn silence(
    line: &mut Line,
    standing: &watch::Sender<Standing>,
    hastens: &mut watch::Receiver<bool>,
    heard: &mpsc::Sender<Heard>,
    failure: Failure,
    backoff: &mut Backoff,
) {
    standing.send_modify(|standing| standing.answering = false);
    let asked = failure.retry_after_s();
    let _ = heard.send(Heard::Failed(failure)).await;
    let wait = line.jitter(|jitter| backoff.wait(jitter, asked));
    let haste = if line.turned_away() { HASTE_TURNED_AWAY } else { HASTE };
    let hasty = line.jitter(|jitter| jitter.around(haste));
    tokio::select! {
        () = sleep(wait) => {}
        // A server that says when to come back is not asked before.
        () = async { tokio::join!(sleep(hasty), in_haste(hastens)); }, if asked.is_none() => {}
        // The old credentials may be why.
        () = line.new_connections() => {}
    }
}

/// Returns when somebody is in haste.
async fn in_haste(hastens: &mut watch::Receiver<bool>) {
    let ended = hastens.wait_for(|hasten| *hasten).await.is_err();
    if ended {
        // The feed is ending, and this task with it.
        std::future::pending::<()>().await;
    }
}

/// Watches from `position` until it can't be gone on from there.
async fn watch(line: &mut Line, position: &mut String, heard: &mpsc::Sender<Heard>) -> End {
    loop {
        let time = line.watch_time();
        let path = paths::watch_pods_of(&line.node, position, time.as_secs());
        let mut watching = match Watching::open(&line.connections(), &path, Kind::Pod, position, time).await {
            Ok(watching) => watching,
            Err(end) => return end,
        };
        let _ = heard.send(Heard::Answering).await;
        let end = loop {
            let event = tokio::select! {
                event = watching.next() => event,
                // The same position over connections with the new credentials: nothing is lost.
                () = line.new_connections() => break End::InTime,
            };
            let told = match event {
                Ok(Ok(Event::Applied(pod))) => heard.send(Heard::Pod(pod)).await,
                Ok(Ok(Event::Deleted(pod))) => heard.send(Heard::Doubtful(vec![(pod.key, pod.uid)])).await,
                Ok(Ok(Event::Bookmark { .. })) => Ok(()),
                Ok(Ok(Event::Error(_))) => break End::Lost,
                Ok(Err(error)) => heard.send(Heard::Note(Note::Unreadable(error.to_string()))).await,
                Err(end) => break end,
            };
            if told.is_err() {
                std::future::pending::<()>().await;
            }
        };
        watching.position().clone_into(position);
        match end {
            End::InTime => line.ends.count(Kind::Pod, &end),
            end => return end,
        }
    }
}

/// Proves one after the other that pods are gone, or leaves them. What could not be asked, or not be told, is asked again.
///
/// Proof is a second, consistent read that is empty or shows another UID, of an API server that knows this node.
pub(super) async fn prove(
    mut line: Line,
    mut doubtful: mpsc::UnboundedReceiver<(ObjectKey, String)>,
    heard: mpsc::Sender<Heard>,
) {
    let mut backoff = Backoff::new(line.pace.retry_first, line.pace.retry_longest);
    let mut doubts: VecDeque<(ObjectKey, String)> = VecDeque::new();
    loop {
        // The same doubt may come from a listing and from a watch.
        while let Ok(doubt) = doubtful.try_recv() {
            if !doubts.contains(&doubt) {
                doubts.push_back(doubt);
            }
        }
        let Some((pod, uid)) = doubts.pop_front() else {
            match doubtful.recv().await {
                Some(doubt) => doubts.push_back(doubt),
                None => return,
            }
            continue;
        };
        let listings = line.listed().await;
        let (told, asked) = match is_gone(&mut line, &pod, &uid).await {
            Ok(Verdict::StillThere) => {
                backoff.reset();
                continue;
            }
            Ok(Verdict::Gone) => {
                backoff.reset();
                if heard.send(Heard::PodGone { key: pod, uid, listings }).await.is_err() {
                    return;
                }
                continue;
            }
            // A kubelet that registers anew makes it known again.
            Ok(Verdict::NodeUnknown) => (heard.send(Heard::Note(Note::NodeUnknown)).await, None),
            Err(failure) => (Ok(()), failure.retry_after_s()),
        };
        if told.is_err() {
            return;
        }
        // Others come first, so that one that can't be asked holds up none.
        doubts.push_back((pod, uid));
        sleep(line.jitter(|jitter| backoff.wait(jitter, asked))).await;
    }
}

enum Verdict {
    Gone,
    StillThere,
    NodeUnknown,
}

async fn is_gone(line: &mut Line, pod: &ObjectKey, uid: &str) -> Result<Verdict, Failure> {
    // The Node first: should the control plane get its memory back between the two, the pod is found.
    if !line.knows_node().await? {
        return Ok(Verdict::NodeUnknown);
    }
    let found = line.list_pod(pod).await?;
    // Without a UID (a manifest had none, or the record is damaged) any pod of that name may be the one.
    let the_same = |object: &Object| object.key != *pod || object.uid == uid || uid.is_empty();
    let there = !found.bad.is_empty() || found.objects.iter().any(the_same);
    Ok(if there { Verdict::StillThere } else { Verdict::Gone })
}
