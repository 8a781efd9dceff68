//! The node as it can be seen without an API server: the kubelet's process and configuration, the boot, the pod network's
//! configuration, the kernel's.

pub mod boot;
pub mod facts;
mod file;
pub mod kubelet;
