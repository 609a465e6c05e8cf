//! The `gantry` command: subcommands and how the parts are wired, nothing else.
//!
//! `ci` puts coordinator, manager and node into one process for one pipeline, `run` is the manager alone, `node` the
//! node alone, `rbac` prints what a manager may do, `verify`, `register`, `unregister` and `reset-token` are about its runners
//! at GitLab. The three parts never meet here except over the runner API and the
//! Kubernetes API.

pub mod agent_binary;
pub mod arguments;
pub mod ci;
pub mod config_file;
pub mod connection;
pub mod local_node;
pub mod manager_run;
pub mod rbac;
pub mod register;
pub mod reload;
pub mod reset_token;
pub mod rotate;
pub mod unregister;
pub mod verify;
