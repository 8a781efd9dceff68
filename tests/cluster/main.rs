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
mod ground;
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

pub(crate) use ground::{directory, until};

/// Whether the long form is asked for: every scenario, and the core set at larger sizes. Each takes about a minute.
pub(crate) fn full() -> bool {
    std::env::var("CKPT_DB_CAMPAIGN").is_ok_and(|form| form == "full")
}
