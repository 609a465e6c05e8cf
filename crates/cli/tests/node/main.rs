//! `gantry node` and `gantry run` as two processes, with a GitLab of this process between them.
//!
//! This is how a cluster will be used: nothing is shared but the Kubernetes API and the runner API. What needs pods
//! needs root; without it (and without kubectl, where it is asked for) a test is skipped and says so. With root and
//! `CI` set, a node that cannot be started has failed.

mod bench;
mod gitlab;
mod kubectl;
mod managers;
mod refusals;
