//! The node as it can be seen without an API server: the configuration of the kubelet and of the pod network, the kernel,
//! and what the container runtime has.

pub mod cri;
pub mod facts;
