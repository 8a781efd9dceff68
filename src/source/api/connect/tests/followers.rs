//! What followers ask over connections is bounded, whatever the server does.

use tokio::time::pause;

use super::super::super::watching::{End as Over, Watching};
use super::*;
use crate::checkpoint::object::Kind;

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
