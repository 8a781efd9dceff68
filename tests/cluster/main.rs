//! The real control plane: kube-apiserver and etcd on loopback, a workload, and what the API server says of it; and beside it
//! a real node, on which pods run.
//!
//! `components.sh` provides the binaries; without them these tests are skipped, unless `CKPT_DB_REQUIRE_CLUSTER=1`.
#![allow(dead_code, reason = "pieces for campaigns, not each of which is used by each build")]
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a failure here is the failure of a test")]

mod api;
mod audit;
mod campaign;
mod certificates;
mod consumer;
mod control_plane;
mod deployment;
mod documented;
mod exporting;
mod facts;
#[path = "../common/gate.rs"]
mod gate;
#[path = "../kubelet_env_file/mod.rs"]
mod kubelet_env_file;
mod kustomize;
#[path = "../manifest_checker/mod.rs"]
mod manifest_checker;
mod manners;
mod node;
mod objects;
mod operation;
mod pieces;
mod pods;
mod process;
mod program;
#[path = "../common/random.rs"]
mod random;
mod relay;
mod scenarios;
mod truth;
mod workload;

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

/// Whether the long form is asked for: every scenario, and the core set at larger sizes. Each takes about a minute.
pub(crate) fn full() -> bool {
    std::env::var("CKPT_DB_CAMPAIGN").is_ok_and(|form| form == "full")
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
