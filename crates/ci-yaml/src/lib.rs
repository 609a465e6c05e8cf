//! `.gitlab-ci.yml` becomes a pipeline: a compiler.
//!
//! Text goes through the passes that `compile.rs` names, each keyword family has a file of its own, and every finding
//! carries its place. The crate is pure: files of the repository are read through [`Files`], and variables come in with
//! [`Input`]. Where GitLab's reading is odd, GitLab's reading holds: a pipeline that passes here and fails there is worth
//! nothing.

mod artifacts;
mod compile;
mod default;
mod diagnostic;
mod expression;
mod extends;
mod image;
mod include;
mod inputs;
mod job;
mod keywords;
mod merge;
mod needs;
mod only;
mod parallel;
pub mod pipeline;
mod reference;
mod render;
mod rules;
mod script;
mod shape;
mod stages;
mod timing;
mod variables;
mod workflow;
mod yaml;

pub use compile::{Compiled, compile};
pub use diagnostic::{Diagnostic, Diagnostics, Severity};
pub use pipeline::Pipeline;

/// Files of the repository.
pub trait Files {
    /// A file's text; the path is relative to the top of the repository and never leaves it. `None` when there is no
    /// such file; an error is a sentence about a file that is there and cannot be read.
    fn read(&self, path: &str) -> Result<Option<String>, String>;

    /// Paths of all files, relative to the top, for globs in `include` and `rules:exists`.
    fn list(&self) -> Result<Vec<String>, String> {
        Err("the files of the repository are not listed here".to_owned())
    }
}

/// What a pipeline is made of.
pub struct Input<'a> {
    /// The file to begin with, relative to the top of the repository: `.gitlab-ci.yml`.
    pub path: &'a str,
    /// Files of the repository.
    pub files: &'a dyn Files,
    /// Predefined variables, then those of the user's settings; later wins, and variables of the file win over all.
    pub variables: &'a [(String, String)],
    /// Variables given for this pipeline (`--var`): they win over the file.
    pub overrides: &'a [(String, String)],
}
