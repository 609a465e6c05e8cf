//! The parts of the `gantry` command that stand by themselves.
//!
//! The command itself appears with the parts that it wires together: coordinator, manager and node. What is here is
//! what it says and reads on its own: its arguments, the agent it ships into pods, the snapshot of the working tree,
//! and how a run is shown.

pub mod agent_binary;
pub mod arguments;
pub mod ci;
