//! Rings when key files have changed, and each minute besides.

use std::convert::Infallible;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio::time::sleep;

use crate::keys::KeyWatch;

/// How often there is reason to look although nothing was told: not every file system tells, and what failed is tried again.
const POLL: Duration = Duration::from_secs(60);

/// A kubelet writes a dated file, makes a link to it and renames the link: that is one piece of news.
const SETTLE: Duration = Duration::from_millis(200);

/// Says that there is reason to look for keys.
#[derive(Clone)]
pub struct KeyRinger(watch::Sender<u64>);

/// Hears it. Each clone hears each ring, or one for several.
#[derive(Clone)]
pub struct KeyNews(watch::Receiver<u64>);

/// A ringer, and who hears it.
#[must_use]
pub fn key_news() -> (KeyRinger, KeyNews) {
    let (sender, receiver) = watch::channel(0);
    (KeyRinger(sender), KeyNews(receiver))
}

impl KeyRinger {
    /// There is reason to look.
    pub fn ring(&self) {
        self.0.send_modify(|rung| *rung = rung.wrapping_add(1));
    }
}

impl KeyNews {
    /// Returns when it has rung since the last time that this returned; never, once there is no ringer. Nothing is lost if it
    /// is dropped before.
    pub async fn rung(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Watches the key files and rings, for ever. `files` are asked for anew each time, since dated ones come and go.
pub async fn watch_keys(files: impl Fn() -> Vec<PathBuf>, ringer: KeyRinger) -> Infallible {
    let mut watch = None;
    let mut said = None;
    loop {
        let armed = arm(&mut watch, &files());
        let why = armed.err().map(|error| error.to_string());
        if why != said {
            if let Some(why) = &why {
                tracing::info!("key files are looked at once a minute, since they can't all be watched: {why}");
            }
            said = why;
        }
        // What happened before it was armed is seen by this look.
        ringer.ring();
        tokio::select! {
            () = told(&mut watch) => sleep(SETTLE).await,
            () = sleep(POLL) => {}
        }
        if let Some(watch) = &mut watch {
            // The next one tells what comes from now on; the look that follows sees what came before.
            let _ = watch.get_mut().drain();
        }
    }
}

fn arm(watch: &mut Option<AsyncFd<KeyWatch>>, files: &[PathBuf]) -> io::Result<()> {
    match watch {
        Some(watch) => watch.get_mut().arm(files),
        None => watch.insert(readable(KeyWatch::new()?)?).get_mut().arm(files),
    }
}

#[expect(deprecated, reason = "what it warns of can't be: a KeyWatch tells the number of a descriptor that it owns")]
fn readable(watch: KeyWatch) -> io::Result<AsyncFd<KeyWatch>> {
    AsyncFd::new(watch)
}

/// Returns when something that matters was told.
async fn told(watch: &mut Option<AsyncFd<KeyWatch>>) {
    let Some(fd) = watch else { return std::future::pending().await };
    while let Ok(mut ready) = fd.readable_mut().await {
        match ready.get_inner_mut().drain() {
            Ok(true) => return,
            Ok(false) => ready.clear_ready(),
            Err(_) => break,
        }
    }
    // It is of no use any more; another one is made at the next look.
    *watch = None;
    std::future::pending().await
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn a_change_rings_and_several_ring_once() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("pki/kubelet-client-current.pem");
        let (ringer, mut news) = key_news();
        let watching = tokio::spawn({
            let file = file.clone();
            watch_keys(move || vec![file.clone()], ringer)
        });
        news.rung().await;
        assert!(news.rung().now_or_never().is_none());
        // The directory comes with its file.
        std::fs::create_dir(file.parent().unwrap()).unwrap();
        std::fs::write(&file, "").unwrap();
        timeout(POLL / 2, news.rung()).await.unwrap();
        std::fs::write(&file, "more").unwrap();
        timeout(POLL / 2, news.rung()).await.unwrap();
        watching.abort();
        let _ = watching.await;
        assert!(news.rung().now_or_never().is_none(), "without a ringer there are no news");
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_watch_it_rings_each_minute() {
        let (ringer, mut news) = key_news();
        let watching = tokio::spawn(watch_keys(Vec::new, ringer));
        news.rung().await;
        let before = tokio::time::Instant::now();
        for _ in 0..3 {
            news.rung().await;
        }
        assert_eq!(before.elapsed(), 3 * POLL);
        watching.abort();
    }
}
