//! The coordinator over real HTTP on loopback, with the very client that manager and agent use.

mod archives;
mod clone;
mod jobs;
mod kill;
mod pipelines;
mod server;
