//! What the API server has at one moment of a node's pods and of what they need, for whoever compares. Nothing is followed.
//!
//! Asks for nothing that the agent does not ask for: this node's pods, single objects, Services of single namespaces.

use std::collections::{BTreeMap, BTreeSet};

use super::body::{self, Listing};
use super::connect::Connections;
use super::events::LINE_MAX_BYTES;
use super::paths;
use super::reach::{Cause, Failure};
use crate::checkpoint::closure::references;
use crate::checkpoint::object::{Kind, Object, ObjectKey};

/// As much of a listing as is read.
const LISTING_MAX_BYTES: usize = 256 * 1024 * 1024;

/// No listing has more pages. We ask for none, and API servers make none of themselves.
const PAGES_MAX: usize = 1000;

/// Every cluster has its Service there, and every pod gets its variables.
const ALWAYS: &str = "default";

/// What the API server says of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Current {
    /// It has it.
    Is(Object),
    /// It does not.
    Absent,
    /// None of the node's pods names it there, and so the node may not ask for it.
    NotNeeded,
    /// It does not say, and why.
    Untold(String),
}

/// Reads all pods of `node`, everything that they name, and those of `also` that a node may ask for.
///
/// # Errors
/// The pods can't be listed, or the server stops answering. What it refuses of a single object is [`Current::Untold`].
pub async fn current(
    connections: &Connections,
    node: &str,
    also: &BTreeSet<ObjectKey>,
) -> Result<BTreeMap<ObjectKey, Current>, Failure> {
    let mut found = BTreeMap::new();
    let listing = list(connections, &paths::pods_of(node), Kind::Pod).await?;
    let data = |key: &&ObjectKey| matches!(key.kind(), Kind::ConfigMap | Kind::Secret);
    let mut wanted: BTreeSet<ObjectKey> = also.iter().filter(|key| !data(key)).cloned().collect();
    let mut namespaces = BTreeSet::from([ALWAYS.to_owned()]);
    for bad in listing.bad {
        if let Some(key) = bad.object.clone() {
            found.insert(key, Current::Untold(bad.to_string()));
        }
    }
    for pod in listing.objects {
        namespaces.insert(pod.key.namespace().to_owned());
        match references(&pod) {
            Ok(references) => wanted.extend(references.into_iter().map(|reference| reference.key)),
            Err(error) => drop(found.insert(pod.key.clone(), Current::Untold(error.to_string()))),
        }
        found.entry(pod.key.clone()).or_insert(Current::Is(pod));
    }
    wanted.extend(ObjectKey::new(Kind::Node, "", node).ok());
    services(connections, &namespaces, &wanted, &mut found).await?;
    let untold: Vec<ObjectKey> = wanted.into_iter().filter(|key| !found.contains_key(key)).collect();
    for key in untold {
        let answer = one(connections, node, &key).await?;
        found.insert(key, answer);
    }
    for key in also.iter().filter(data) {
        found.entry(key.clone()).or_insert(Current::NotNeeded);
    }
    Ok(found)
}

/// The Services of these namespaces; those in `wanted` that are in none of them are gone.
async fn services(
    connections: &Connections,
    namespaces: &BTreeSet<String>,
    wanted: &BTreeSet<ObjectKey>,
    found: &mut BTreeMap<ObjectKey, Current>,
) -> Result<(), Failure> {
    for namespace in namespaces {
        match list(connections, &paths::services_in(namespace), Kind::Service).await {
            Ok(listing) => {
                let bad = listing.bad.into_iter().filter_map(|bad| Some((bad.object.clone()?, bad.to_string())));
                found.extend(bad.map(|(key, why)| (key, Current::Untold(why))));
                found.extend(listing.objects.into_iter().map(|service| (service.key.clone(), Current::Is(service))));
                let here = |key: &&ObjectKey| key.kind() == Kind::Service && key.namespace() == namespace;
                for key in wanted.iter().filter(here) {
                    found.entry(key.clone()).or_insert(Current::Absent);
                }
            }
            Err(failure) => {
                let why = told(failure)?;
                let here = |key: &&ObjectKey| key.kind() == Kind::Service && key.namespace() == namespace;
                found.extend(wanted.iter().filter(here).map(|key| (key.clone(), Current::Untold(why.clone()))));
            }
        }
    }
    Ok(())
}

async fn one(connections: &Connections, node: &str, key: &ObjectKey) -> Result<Current, Failure> {
    if key.kind() == Kind::Pod {
        // A node may read pods that are bound to it, and nothing of one that is gone but that it is.
        return Ok(match list(connections, &paths::pod_of(key, node), Kind::Pod).await {
            Ok(listing) => match (listing.objects.into_iter().find(|pod| pod.key == *key), listing.bad.first()) {
                (Some(pod), _) => Current::Is(pod),
                (None, Some(bad)) => Current::Untold(bad.to_string()),
                (None, None) => Current::Absent,
            },
            Err(failure) => Current::Untold(told(failure)?),
        });
    }
    match connections.get(&paths::object(key), LINE_MAX_BYTES).await {
        Ok(answer) => Ok(match body::object(answer.expose(), key.kind()) {
            Ok(object) if object.key == *key => Current::Is(object),
            Ok(other) => Current::Untold(format!("the answer is {}", other.key)),
            Err(error) => Current::Untold(error.to_string()),
        }),
        Err(failure) if failure.status() == Some(404) => Ok(Current::Absent),
        Err(failure) => Ok(Current::Untold(told(failure)?)),
    }
}

/// Why one object is not told, unless nobody answers at all.
fn told(failure: Failure) -> Result<String, Failure> {
    match failure {
        Failure::Status { code: 403 | 404 | 410, .. } | Failure::Garbage(_) | Failure::TooLong(_) => {
            Ok(failure.to_string())
        }
        failure => Err(failure),
    }
}

/// All pages of a listing.
async fn list(connections: &Connections, path: &str, kind: Kind) -> Result<Listing, Failure> {
    let mut whole: Option<Listing> = None;
    let mut left = LISTING_MAX_BYTES;
    let (mut pages, mut next) = (0, Some(path.to_owned()));
    while let Some(page_path) = next.take() {
        let answer = connections.get(&page_path, left).await?;
        let page =
            body::listing(answer.expose(), kind).map_err(|error| Failure::garbage(&format!("GET {path}"), &error))?;
        pages += 1;
        if pages > PAGES_MAX {
            let of = path.split('?').next().unwrap_or(path);
            return Err(Failure::TooLong(Cause(format!("GET {of}: the listing has more than {PAGES_MAX} pages"))));
        }
        left = left.saturating_sub(answer.len());
        next = page.next.as_deref().map(|token| paths::next_page(path, token));
        match &mut whole {
            Some(whole) => {
                whole.objects.extend(page.objects);
                whole.bad.extend(page.bad);
            }
            None => whole = Some(page),
        }
    }
    Ok(whole.expect("there is a first page"))
}
