//! What a `.gitlab-ci.yml` means: the result of compiling it.
//!
//! Everything that YAML, `extends`, `!reference`, `default` and `rules` can say has been resolved; what is left to the
//! coordinator is when a job runs. Values of variables are as written, because the runner expands them.

/// A pipeline: its stages in order, and the jobs that belong to it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pipeline {
    /// Stages in order, `.pre` first and `.post` last, empty ones left out.
    pub stages: Vec<String>,
    /// Jobs in the order of the file, those in `excluded` not among them; `parallel` has made copies of its jobs.
    pub jobs: Vec<PipelineJob>,
    /// Names of jobs that are not in this pipeline: `rules`, `only` and `except` left them out, or they have no script
    /// (`trigger`), which a warning says.
    pub excluded: Vec<String>,
}

/// A job.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PipelineJob {
    /// Its name.
    pub name: String,
    /// Its stage.
    pub stage: String,
    /// Its image; `None` leaves it to the runner.
    pub image: Option<Image>,
    /// Its services.
    pub services: Vec<Service>,
    /// Variables of the file (global ones first, the job's own after them; later wins), in order.
    pub variables: Vec<YamlVariable>,
    /// Commands: `before_script` then `script`, as GitLab puts them into one step.
    pub script: Vec<String>,
    /// Commands of `after_script`.
    pub after_script: Vec<String>,
    /// `needs`; `None` when the job waits for all earlier stages.
    pub needs: Option<Vec<Need>>,
    /// `dependencies`; `None` when artifacts of all earlier stages (or of all needs) are taken.
    pub dependencies: Option<Vec<String>>,
    /// `artifacts`.
    pub artifacts: Option<Artifacts>,
    /// Whether and for which exit codes a failure does not count.
    pub allow_failure: AllowFailure,
    /// When it runs.
    pub when: When,
    /// `timeout` in seconds.
    pub timeout_seconds: Option<u64>,
    /// `tags`.
    pub tags: Vec<String>,
}

/// An image with its options.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Image {
    /// Name, not expanded.
    pub name: String,
    /// `entrypoint`.
    pub entrypoint: Vec<String>,
    /// `pull_policy`.
    pub pull_policy: Vec<String>,
    /// `docker:user` or `kubernetes:user`.
    pub user: Option<String>,
}

/// A service.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Service {
    /// Its image.
    pub image: Image,
    /// `alias`; several are separated by spaces or commas.
    pub alias: String,
    /// `command`.
    pub command: Vec<String>,
    /// Its own variables.
    pub variables: Vec<YamlVariable>,
}

/// A variable of the file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct YamlVariable {
    /// Its name.
    pub key: String,
    /// Its value, as written.
    pub value: String,
    /// `expand: false`.
    pub raw: bool,
}

/// One entry of `needs`.
#[derive(Clone, Debug, PartialEq)]
pub struct Need {
    /// The job.
    pub job: String,
    /// Whether its artifacts are taken.
    pub artifacts: bool,
    /// Whether it may be missing.
    pub optional: bool,
}

/// `artifacts`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Artifacts {
    /// `name`, not expanded.
    pub name: String,
    /// `paths`.
    pub paths: Vec<String>,
    /// `exclude`.
    pub exclude: Vec<String>,
    /// `untracked`.
    pub untracked: bool,
    /// `when`: `on_success`, `on_failure`, `always`.
    pub when: String,
    /// `expire_in`, as written.
    pub expire_in: String,
    /// `reports:dotenv`: files whose variables later jobs get.
    pub dotenv: Vec<String>,
}

/// `allow_failure`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AllowFailure {
    /// A failure counts.
    #[default]
    No,
    /// No failure counts.
    Yes,
    /// A failure with one of these exit codes does not count.
    ExitCodes(Vec<i32>),
}

/// `when`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum When {
    /// All before it ended well.
    #[default]
    OnSuccess,
    /// One before it failed.
    OnFailure,
    /// In any case.
    Always,
    /// Somebody starts it.
    Manual,
    /// Some time later; the seconds stand beside it in GitLab, here it is run at once with a warning.
    Delayed,
}
