//! The node as it can be seen without an API server: the kubelet's process and configuration, the boot, the configuration of
//! the pod network, the kernel, and what the container runtime has.

pub mod boot;
pub mod cri;
pub mod facts;
mod file;
pub mod helper;
pub mod kubelet;
