//! The commands about runners themselves, as processes, with a GitLab of this process. Nothing of it needs a node.

mod bench;
mod register;
mod reset;
mod rotate;
mod verify;
