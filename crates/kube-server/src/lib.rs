//! A Kubernetes-compatible API in memory: objects, list, watch, patch, logs, exec; for kubectl over TLS.
//!
//! The manager talks to this as it talks to a cluster, and cannot tell the difference; so whatever is served here
//! behaves as the real API server does, down to `Status` reasons, and what is not served answers with a clear
//! `Status` error. Objects are JSON values, not typed structs: a server must keep fields that it does not know. Knows
//! no jobs and no containers; what a kubelet serves (logs, exec) comes through [`PodBackend`].

pub mod backend;
pub mod error;
pub mod kind;
pub mod memory;
pub mod selectors;
pub mod store;
pub mod tls;

mod api;
mod defaults;
mod patch;
mod validate;

pub use api::router;
pub use backend::{ExecOptions, ExecSession, LogOptions, NoBackend, PodBackend, PodRef};
pub use error::ApiError;
pub use kind::Kind;
pub use selectors::Selectors;
pub use store::{DeleteOptions, PodEvent, Store, Watch, WatchEvent, WatchFrom};
