//! The node as it can be seen without an API server: the kubelet's configuration, the pod network's, the kernel's.

pub mod facts;
