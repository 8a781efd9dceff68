//! Services of the namespaces that have pods here, for the variables that the kubelet would set. Looked at rarely: they
//! only count when a copy is made.

use std::collections::{BTreeMap, BTreeSet};

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};

use super::collect::Step;
use super::feed::{Heard, Note};
use super::line::Line;
use super::pace::Backoff;
use super::paths;
use super::reach::Failure;
use crate::checkpoint::object::{Kind, Object};

/// The API server's own Service is in here, and every pod gets its variables.
const ALWAYS: &str = "default";

/// How many listings have to fail in a row before it is told.
const FAILURES_TOLD: u32 = 3;

/// Lists the Services of each namespace when the first pod of it appears, and all of them every now and then.
pub(super) async fn follow(
    mut line: Line,
    mut namespaces: watch::Receiver<BTreeSet<String>>,
    heard: mpsc::Sender<Heard>,
) {
    let mut backoff = Backoff::new(line.pace.retry_first, line.pace.retry_longest);
    let mut known: BTreeSet<String> = BTreeSet::new();
    let mut all_due = Instant::now();
    let mut failures = 0;
    loop {
        let wanted = {
            let mut wanted = namespaces.borrow_and_update().clone();
            wanted.insert(ALWAYS.to_owned());
            wanted
        };
        let all = Instant::now() >= all_due;
        let missing: BTreeSet<String> = if all { wanted.clone() } else { wanted.difference(&known).cloned().collect() };
        if !missing.is_empty() {
            line.answering().await;
            let (found, failed) = list(&mut line, &missing).await;
            // A cluster always has this one: a listing without it is not the whole truth.
            let plausible = found.keys().any(|(namespace, name)| namespace == ALWAYS && name == "kubernetes");
            let complete = all && plausible && failed.is_empty();
            if !found.is_empty() {
                let step = Step::Services { services: found.into_values().collect(), complete };
                if heard.send(Heard::Services(step)).await.is_err() {
                    return;
                }
            }
            let forbidden = failed.values().any(|failure| failure.status() == Some(403));
            known = wanted.into_iter().filter(|namespace| !failed.contains_key(namespace)).collect();
            match failed.into_values().next() {
                None => {
                    failures = 0;
                    backoff.reset();
                    if all {
                        all_due = Instant::now() + line.jitter(|jitter| jitter.around(line.pace.services));
                    }
                }
                Some(failure) => {
                    let asked = failure.retry_after_s();
                    failures += 1;
                    // The follower of the pods tells when the API server goes away; this is about the Services.
                    if forbidden || failures >= FAILURES_TOLD {
                        let _ = heard.send(Heard::Note(Note::NoServices(failure.to_string()))).await;
                    }
                    let wait = line.jitter(|jitter| match forbidden {
                        // Credentials that may not list Services do without.
                        true => jitter.around(line.pace.services),
                        false => backoff.wait(jitter, asked),
                    });
                    sleep(wait).await;
                    continue;
                }
            }
        }
        tokio::select! {
            () = sleep_until(all_due) => {}
            changed = namespaces.changed() => if changed.is_err() { return },
        }
    }
}

/// What the namespaces have, and those that did not tell.
async fn list(
    line: &mut Line,
    namespaces: &BTreeSet<String>,
) -> (BTreeMap<(String, String), Object>, BTreeMap<String, Failure>) {
    let (mut found, mut failed) = (BTreeMap::new(), BTreeMap::new());
    for namespace in namespaces {
        let path = paths::services_in(namespace);
        match line.list(&path, Kind::Service).await {
            Ok(listing) => {
                if let Some(bad) = listing.bad.first() {
                    failed.insert(namespace.clone(), Failure::garbage(&format!("GET {path}"), bad));
                }
                for service in listing.objects {
                    found.insert((service.key.namespace().to_owned(), service.key.name().to_owned()), service);
                }
            }
            Err(failure) => {
                failed.insert(namespace.clone(), failure);
            }
        }
    }
    (found, failed)
}
