//! Scenarios, played on the embedded node and on a real cluster alike.
//!
//! One list (`scenarios/`), one player, two targets: what holds on an API that we wrote ourselves must hold on
//! Kubernetes too. The program under test is the shipped one, in a process of its own, with the permissions that
//! `gantry rbac` prints; GitLab is the embedded coordinator, in this process.

pub mod audit;
pub mod chaos;
pub mod gitlab;
pub mod manager;
pub mod objects;
pub mod play;
pub mod scenario;
pub mod target;
