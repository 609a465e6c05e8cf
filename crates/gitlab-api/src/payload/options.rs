//! `executor_opts` of images: only what GitLab Runner knows may stand there.
//!
//! A job that asks for something else would run as somebody or something that its author did not mean.

use super::{Image, PayloadError};

/// Executors and their options.
const KNOWN: [(&str, &str, &[&str]); 2] =
    [("docker", "docker executor", &["platform", "user"]), ("kubernetes", "kubernetes executor", &["user"])];

impl Image {
    /// Whether all its options are known; those of other executors are left alone.
    pub(super) fn check_options(&self) -> Result<(), PayloadError> {
        let executors: Vec<_> = KNOWN.iter().map(|(name, ..)| *name).collect();
        let mut unknown = self.executor_opts.keys().map(String::as_str).filter(|name| !executors.contains(name)).peekable();
        if unknown.peek().is_some() {
            return Err(error(unknown, "executor_opts", &executors));
        }
        for (name, executor, options) in KNOWN {
            let given = self.executor_opts.get(name).and_then(serde_json::Value::as_object);
            let given = given.into_iter().flat_map(|given| given.keys().map(String::as_str));
            let mut unknown = given.filter(|option| !options.contains(option)).peekable();
            if unknown.peek().is_some() {
                return Err(error(unknown, executor, options));
            }
        }
        Ok(())
    }
}

fn error<'a>(unknown: impl Iterator<Item = &'a str>, executor: &str, known: &[&str]) -> PayloadError {
    let unknown = unknown.collect::<Vec<_>>().join(" ");
    let known = known.join(" ");
    // The section is called so for services too.
    PayloadError::Options(format!(
        "Unsupported \"image\" options [{unknown}] for \"{executor}\"; supported options are [{known}]"
    ))
}

#[cfg(test)]
mod tests {
    use crate::JobResponse;
    use job::FailureReason;
    use serde_json::{Value, json};

    fn check(image: Value, services: Value) -> Result<(), (String, FailureReason, Option<i32>)> {
        let payload = json!({"id": 1, "token": "t", "image": image, "services": services});
        let made = serde_json::from_value::<JobResponse>(payload).unwrap().into_job();
        made.map(drop).map_err(|error| (error.to_string(), error.reason(), error.exit_code()))
    }

    #[test]
    fn an_option_that_nobody_knows_fails_the_job_with_the_word_and_the_code_of_gitlab_runner() {
        let refused = |text: &str| Err((text.to_owned(), FailureReason::RunnerSystemFailure, Some(3)));
        let of_kubernetes =
            refused("Unsupported \"image\" options [group] for \"kubernetes executor\"; supported options are [user]");
        let with = |options: Value| json!({"name": "a", "executor_opts": options});
        assert_eq!(check(with(json!({"kubernetes": {"user": "1", "group": "2"}})), json!([])), of_kubernetes);
        assert_eq!(check(json!({"name": "a"}), json!([with(json!({"kubernetes": {"group": 2}}))])), of_kubernetes);
        let of_docker = "Unsupported \"image\" options [dns] for \"docker executor\"; supported options are [platform user]";
        assert_eq!(check(with(json!({"docker": {"dns": "x"}})), json!([])), refused(of_docker));
        let executors = "Unsupported \"image\" options [podman] for \"executor_opts\"; supported options are [docker kubernetes]";
        assert_eq!(check(with(json!({"podman": {}})), json!([])), refused(executors));
    }

    #[test]
    fn options_of_docker_mean_nothing_and_harm_nothing() {
        let image = json!({"name": "a", "executor_opts": {"docker": {"platform": "linux/arm64", "user": "dave"}}});
        assert_eq!(check(image.clone(), json!([image])), Ok(()));
        let payload = json!({"id": 1, "token": "t", "image": image, "services": [image]});
        let job = serde_json::from_value::<JobResponse>(payload).unwrap().into_job().unwrap();
        assert_eq!((job.image.unwrap().user, job.services[0].image.user.as_ref()), (None, None));
    }
}
