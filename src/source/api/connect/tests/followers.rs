//! What followers ask over connections is bounded, whatever the server does.

use tokio::time::pause;

use super::super::super::line::{Line as Followers, Standing};
use super::super::super::pace::{Jitter, Pace};
use super::super::super::paths;
use super::super::super::tracker::{ObjectRefresh, track};
use super::super::super::watching::{End as Over, Watching};
use super::*;
use crate::checkpoint::object::{Kind, ObjectKey};
use crate::crypto::SystemEntropy;

fn followers(connections: Connections) -> Followers {
    let (_, connections) = tokio::sync::watch::channel(connections);
    let (_, standing) = tokio::sync::watch::channel(Standing::default());
    Followers::new("n1", Pace::default(), connections, standing, Jitter::new(&SystemEntropy))
}

/// A hanging server whose proxy answers pings, say: the time that was asked for is up, and nothing ends the watch.
#[tokio::test]
async fn a_watch_that_nobody_ends_is_given_up() {
    let server = Server::new().await;
    let limits = Limits { ping_interval: Duration::from_secs(36_000), ..Limits::default() };
    let connections = Connections::new(&server.credentials("token: t"), limits);
    let time = Duration::from_secs(1800);
    let began = tokio::time::Instant::now();
    let mut watching = Watching::open(&connections, "/watch-quiet", Kind::Pod, "7", time).await.unwrap();
    pause();
    let end = timeout(time * 2, watching.next()).await.expect("it is not waited for without end");
    assert!(matches!(end, Err(Over::Early)), "{end:?}");
    assert!(began.elapsed() >= time, "but for as long as was asked for");
}

#[tokio::test]
async fn a_listing_has_an_end() {
    let server = Server::new().await;
    let mut line = followers(server.connections());
    let failure = line.list(&paths::pods_of("n1"), Kind::Pod).await.unwrap_err();
    assert!(matches!(failure, Failure::TooLong(_)), "{failure:?}");
    assert_eq!(server.known.pages.load(Ordering::Relaxed), 1000);
}

/// Sixteen of these are read at a time, so that the limit is not that of a listing.
#[tokio::test]
async fn an_answer_about_one_object_is_short() {
    let server = Server::new().await;
    let mut line = followers(server.connections());
    let failure = line.list_one(&ObjectKey::new(Kind::Secret, "d", "s").unwrap()).await.unwrap_err();
    assert!(matches!(failure, Failure::TooLong(_)), "{failure:?}");
}

/// All places are taken by requests to which nobody answers; the listing of the pods is what tells so.
#[tokio::test]
async fn the_pods_do_not_wait_behind_the_objects() {
    let server = Server::new().await;
    let line = followers(server.connections());
    let waiting: Vec<_> = (0..32)
        .map(|_| {
            let mut line = line.clone();
            tokio::spawn(async move { line.get("/silent").await })
        })
        .collect();
    let mut pods = line.clone().ahead();
    let listed = timeout(Duration::from_secs(5), pods.get("/fine")).await;
    assert_eq!(listed.expect("it has a way of its own").unwrap().expose(), b"fine");
    waiting.iter().for_each(tokio::task::JoinHandle::abort);
}

/// There is one for each ConfigMap and Secret, and most of the time it holds a watch and nothing else.
#[tokio::test]
async fn the_task_of_a_watch_is_small() {
    let server = Server::new().await;
    let (line, key) = (followers(server.connections()), ObjectKey::new(Kind::Secret, "d", "s").unwrap());
    let (hear, _heard) = tokio::sync::mpsc::channel(1);
    let bytes = size_of_val(&track(line, key, 1, ObjectRefresh::Watch, hear));
    assert!(bytes <= 2048, "{bytes} bytes for each object");
}
