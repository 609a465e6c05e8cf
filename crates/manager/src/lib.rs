//! The manager: asks for jobs, makes pods, watches them, explains failures, cleans up.
//!
//! ```text
//! poll → admit → store → confirm → launch → watch → diagnose → finish
//! ```
//!
//! Of this flow only `diagnose` is written yet.

pub mod diagnose;

pub use diagnose::{Diagnosis, Finding, diagnose};
