//! `gantry ci`: what goes in (a snapshot) and what comes out (lines and a report).

pub mod log_lines;
pub mod report;
pub mod snapshot;
