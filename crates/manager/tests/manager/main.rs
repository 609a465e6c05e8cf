//! The manager between a GitLab and a Kubernetes API; one program, so that all share one bench.

mod bench;
mod configuration;
mod diagnose;
mod janitor;
mod jobs;
mod kills;
mod load;
mod nodes;
mod outages;
mod permissions;
mod reload;
mod replicas;
mod restart;
mod retries;
mod services;
