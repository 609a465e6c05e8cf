//! kube-server's pods in sandboxes on one machine: scheduler and kubelet in one.
//!
//! So far the pure parts: what a pod's fields mean, what its status says, its volumes and its logs.

pub mod clock;
pub mod logs;
pub mod quantity;
pub mod spec;
pub mod status;
pub mod volumes;
