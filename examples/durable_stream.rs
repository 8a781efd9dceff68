//! Embedding ckpt-db as a program's persistence: a stream of pods of your own, acted upon when it is durable.
//!
//! ```text
//! cargo run --example durable_stream
//! ```
//!
//! Needs no cluster and no privileges, and leaves nothing behind. It runs the program below twice on one store, as if the
//! node had lost power in between: the second time the pods are there before the source has said anything.

#![allow(clippy::print_stdout, reason = "it is what an example is for")]

use std::error::Error;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ckpt_db::agent::{Batch, Durable, StoreThread, open_or_create};
use ckpt_db::checkpoint::object::{Kind, NameError, Object, ObjectKey};
use ckpt_db::store::{Change, Committed, Snapshot};
use futures_util::{Stream, StreamExt as _, stream};

/// What your source tells you. Any type will do, as long as you can say what it changes in the store.
enum PodEvent {
    Applied(Object),
    Deleted {
        key: ObjectKey,
        uid: String,
    },
    /// Nothing that is stored; it keeps its place, and arrives when all before it is durable.
    Heartbeat,
}

/// The one thing that you have to write.
fn changes(event: &PodEvent) -> Vec<Change> {
    match event {
        // `with` takes the ConfigMaps and Secrets that the pod names, so that both are stored or neither is.
        PodEvent::Applied(pod) => vec![Change::Apply { object: pod.clone(), with: Vec::new() }],
        // The UID, so that a pod that was made anew under the same name is not taken for the one that is gone.
        PodEvent::Deleted { key, uid } => vec![Change::Delete { key: key.clone(), uid: uid.clone() }],
        PodEvent::Heartbeat => Vec::new(),
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("checkpoint-store.db");

    println!("first start");
    let burst = vec![
        PodEvent::Applied(pod("web", "uid-1", "registry.example/web:1")?),
        PodEvent::Applied(pod("db", "uid-2", "registry.example/db:7")?),
        PodEvent::Heartbeat,
        PodEvent::Applied(pod("web", "uid-1", "registry.example/web:2")?),
        PodEvent::Applied(pod("batch", "uid-3", "registry.example/batch:3")?),
    ];
    let later = PodEvent::Deleted { key: ObjectKey::new(Kind::Pod, "default", "batch")?, uid: "uid-3".to_owned() };
    let later = stream::once(async {
        tokio::time::sleep(Duration::from_millis(10)).await;
        later
    });
    follow(&path, stream::iter(burst).chain(later)).await?;

    println!("second start, and the source is silent");
    follow(&path, stream::empty()).await
}

/// Your program: shows what it has, then follows its source.
async fn follow(path: &Path, source: impl Stream<Item = PodEvent>) -> Result<(), Box<dyn Error>> {
    // No key: pods and ConfigMaps are stored, Secrets are not. With one, `&[&secret]` (see `ckpt_db::keys`).
    let store = open_or_create(path, &[], "edge-1", now_unix_ms())?;
    // Commits wait for the disk, so they happen on a thread of their own. There is one writer: this one.
    let thread = StoreThread::start(Box::new(store), now_unix_ms)?;
    let store = thread.handle();

    for object in store.snapshot().await?.get().objects() {
        println!("  from the store: {}, stored {} ms after 1970", object.key, object.stored_at_unix_ms);
    }

    // Events that come while a commit is under way become the next one: a burst costs one commit.
    let mut durable = Durable::new(source, store.clone(), changes);
    while let Some(batch) = durable.next().await {
        // On an error the stream ends, and `error.items` has every event that did not get this far.
        let batch = batch?;
        act(&batch);
        show(&store.snapshot().await?);
    }

    // Gives the store back, which closes it here. A program that is killed instead loses nothing that it was told of.
    drop(thread.close().await?);
    Ok(())
}

/// Takes evidence, which only the store makes: the compiler sees to it that nobody calls this too early.
///
/// Of the events of a batch later ones may have overtaken earlier ones ("web" comes twice here, and once to the disk), so
/// that it is acted upon as a whole: on what the transaction did.
fn act(batch: &Committed<Batch<PodEvent>>) {
    let Batch { items, update } = batch.get();
    println!("  {} events became revision {} of the store", items.len(), update.revision);
    for key in &update.stored {
        println!("    {key} is durable: acting on it");
    }
    for key in &update.removed {
        println!("    {key} is gone, durably: cleaning up after it");
    }
    for rejected in &update.rejected {
        println!("    {} was not stored: {}", rejected.object, rejected.problem);
    }
}

/// What was committed can also be read back as a whole; this is what the materializer renders from.
fn show(snapshot: &Committed<Snapshot>) {
    println!("    the store has {} pods", snapshot.get().objects().count());
}

/// A pod as the API server sends it.
fn pod(name: &str, uid: &str, image: &str) -> Result<Object, NameError> {
    let body = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"namespace": "default", "name": name, "uid": uid, "resourceVersion": "1"},
        "spec": {"nodeName": "edge-1", "containers": [{"name": name, "image": image}]},
    });
    Ok(Object {
        key: ObjectKey::new(Kind::Pod, "default", name)?,
        uid: uid.to_owned(),
        resource_version: "1".to_owned(),
        body: body.to_string().into(),
    })
}

fn now_unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_millis().try_into().unwrap_or(u64::MAX)
}
