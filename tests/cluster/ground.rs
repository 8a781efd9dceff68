//! What the pieces stand on: temporary directories, and waiting for real processes.

use std::time::{Duration, Instant};

use tempfile::TempDir;

/// A temporary directory. With `CKPT_DB_KEEP_CLUSTER` it stays, which is said.
///
/// In memory where there is plenty: nothing here cuts the power of the machine that the tests run on, and several control
/// planes and nodes that wait for one disk take three times as long.
pub(crate) fn directory(of: &str) -> TempDir {
    const MEMORY: &str = "/dev/shm";
    const PLENTY: u64 = 4 << 30;
    let keep = std::env::var_os("CKPT_DB_KEEP_CLUSTER").is_some();
    let free = rustix::fs::statvfs(MEMORY).map_or(0, |found| found.f_bavail * found.f_frsize);
    let at = if !keep && free > PLENTY { MEMORY.into() } else { std::env::temp_dir() };
    let mut directory = tempfile::Builder::new().prefix(&format!("ckpt-db-{of}-")).tempdir_in(at).unwrap();
    if keep {
        directory.disable_cleanup(true);
        eprintln!("the {of}'s files stay in {}", directory.path().display());
    }
    directory
}

/// Asks `probe` until it has an answer; real processes are polled, since nothing tells when they are ready.
///
/// # Panics
/// After `deadline`, with the last reason that `probe` gave.
#[track_caller]
pub(crate) fn until<T>(what: &str, deadline: Duration, mut probe: impl FnMut() -> Result<T, String>) -> T {
    let start = Instant::now();
    loop {
        match probe() {
            Ok(found) => return found,
            Err(reason) if start.elapsed() > deadline => {
                panic!("waited {} s for {what}: {reason}", start.elapsed().as_secs())
            }
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}
