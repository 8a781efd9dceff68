//! The control plane of tests/cluster: a real kube-apiserver with etcd on loopback, and what counts in front of it.

#![allow(dead_code, reason = "the tests of the cluster use the rest")]

#[path = "../../tests/cluster/api.rs"]
pub(crate) mod api;
#[path = "../../tests/cluster/audit.rs"]
pub(crate) mod audit;
#[path = "../../tests/cluster/certificates.rs"]
mod certificates;
#[path = "../../tests/cluster/control_plane.rs"]
pub(crate) mod control_plane;
#[path = "../../tests/cluster/ground.rs"]
mod ground;
#[path = "../../tests/cluster/process.rs"]
mod process;
#[path = "../../tests/common/random.rs"]
mod random;
#[path = "../../tests/cluster/relay.rs"]
pub(crate) mod relay;

use ground::{directory, until};
