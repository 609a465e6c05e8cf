//! `inputs` of a job, and where their values stand in the payload.
//!
//! Nothing is evaluated for a job without inputs: `${{ }}` may stand in scripts that mean it for something else.

use super::{Image, JobResponse, PayloadError, Variable};
use crate::moa;
use job::Flags;
use serde_json::Value;
use std::collections::BTreeMap;

const FLAG: &str = "FF_ENABLE_JOB_INPUTS_INTERPOLATION";
/// Steps whose commands are the user's own.
const SCRIPTS: [&str; 2] = ["script", "after_script"];

impl JobResponse {
    /// Puts the values of the job's inputs where they are asked for, unless a flag says not to, which the
    /// configuration may have `fixed`.
    ///
    /// # Errors
    /// When an input makes no sense, or an expression has no value.
    pub fn interpolate(&mut self, fixed: &BTreeMap<String, bool>) -> Result<(), PayloadError> {
        let inputs = std::mem::take(&mut self.inputs);
        if inputs.is_empty() {
            return Ok(());
        }
        let variables = self.variables.iter().cloned().map(Variable::into_variable).collect();
        if !Flags::resolve(fixed, &variables).is_on(FLAG) {
            return Ok(());
        }
        let inputs = moa::Inputs::new(inputs.iter().map(input).collect::<Result<_, _>>()?);
        for text in self.texts() {
            *text = inputs.interpolate(text).map_err(PayloadError::Interpolation)?;
        }
        self.cache.iter_mut().try_for_each(|cache| strings(cache, &inputs))
    }

    fn texts(&mut self) -> impl Iterator<Item = &mut String> {
        let scripts = self.steps.iter_mut().filter(|step| SCRIPTS.contains(&step.name.as_str()));
        let scripts = scripts.flat_map(|step| step.script.iter_mut());
        let images = std::iter::once(&mut self.image).chain(&mut self.services).flat_map(Image::texts);
        let artifacts = self.artifacts.iter_mut().flat_map(|one| {
            let words = [&mut one.name, &mut one.when, &mut one.expire_in];
            words.into_iter().chain(&mut one.paths).chain(&mut one.exclude)
        });
        scripts.chain(images).chain(artifacts)
    }
}

impl Image {
    fn texts(&mut self) -> impl Iterator<Item = &mut String> {
        let options = self.executor_opts.values_mut().filter_map(Value::as_object_mut);
        let options = options.flat_map(|options| options.values_mut()).filter_map(|option| match option {
            Value::String(text) => Some(text),
            _ => None,
        });
        let lists = [&mut self.command, &mut self.entrypoint, &mut self.pull_policy];
        std::iter::once(&mut self.name).chain(lists.into_iter().flatten()).chain(options)
    }
}

/// All texts of a value.
fn strings(value: &mut Value, inputs: &moa::Inputs) -> Result<(), PayloadError> {
    match value {
        Value::String(text) => *text = inputs.interpolate(text).map_err(PayloadError::Interpolation)?,
        Value::Array(list) => list.iter_mut().try_for_each(|one| strings(one, inputs))?,
        Value::Object(map) => map.values_mut().try_for_each(|one| strings(one, inputs))?,
        _ => {}
    }
    Ok(())
}

fn input(given: &Value) -> Result<moa::Input, PayloadError> {
    let wrong = |text: String| PayloadError::Input(text);
    let name = given["key"].as_str().unwrap_or_default();
    if name.is_empty() {
        return Err(wrong("input without key".to_owned()));
    }
    let content = &given["value"]["content"];
    if content.is_null() {
        return Err(wrong(format!("input \"{name}\" is null, must have valid value")));
    }
    let kind = given["value"]["type"].as_str().unwrap_or_default();
    let value = moa::Value::from(content.clone());
    let announced = match kind {
        "string" | "number" | "boolean" | "array" => kind,
        "struct" => "object",
        _ => return Err(wrong(format!("invalid type \"{kind}\" for input \"{name}\": type is unknown"))),
    };
    if value.kind() != announced {
        let got = value.kind();
        return Err(wrong(format!("mismatching type of input \"{name}\": announced \"{kind}\", but got \"{got}\"")));
    }
    Ok(moa::Input { name: name.to_owned(), value, sensitive: given["value"]["sensitive"].as_bool().unwrap_or(false) })
}

#[cfg(test)]
mod tests {
    use crate::payload::{JobResponse, PayloadError};
    use job::FailureReason;
    use serde_json::{Value, json};
    use std::collections::BTreeMap;

    fn payload(inputs: &Value) -> JobResponse {
        let image = json!({"name": "a:${{ job.inputs.tag }}", "alias": "${{ x }}", "entrypoint": ["${{ job.inputs.tag }}"],
            "command": ["${{ job.inputs.tag }}"], "pull_policy": ["${{ job.inputs.policy }}"],
            "executor_opts": {"kubernetes": {"user": "${{ job.inputs.user }}"}}});
        let text = "${{ job.inputs.tag }}";
        let payload = json!({
            "id": 1, "token": "t", "inputs": inputs, "image": image, "services": [image],
            "steps": [{"name": "script", "script": [text]}, {"name": "release", "script": [text]},
                {"name": "after_script", "script": [text]}],
            "artifacts": [{"name": text, "paths": [text], "exclude": [text], "when": "${{ job.inputs.when }}", "expire_in": text}],
            "cache": [{"key": text, "paths": [text], "policy": text, "when": text, "fallback_keys": [text]}],
            "variables": [{"key": "A", "value": text}],
            "hooks": [{"name": "pre_get_sources_script", "script": [text]}],
        });
        serde_json::from_value(payload).unwrap()
    }

    fn input(key: &str, kind: &str, content: Value) -> Value {
        json!({"key": key, "value": {"type": kind, "content": content, "sensitive": false}})
    }

    #[test]
    fn inputs_stand_where_gitlab_runner_puts_them_and_nowhere_else() {
        let inputs = json!([
            input("tag", "string", json!("v1")),
            input("policy", "string", json!("always")),
            input("user", "number", json!(1000)),
            input("when", "string", json!("on_failure")),
        ]);
        let mut payload = payload(&inputs);
        payload.interpolate(&BTreeMap::new()).unwrap();
        assert_eq!(
            payload.cache[0],
            json!({"key": "v1", "paths": ["v1"], "policy": "v1", "when": "v1", "fallback_keys": ["v1"]})
        );
        let job = payload.into_job().unwrap();
        let scripts: Vec<_> = job.steps.iter().map(|step| step.script[0].as_str()).collect();
        assert_eq!(scripts, ["v1", "${{ job.inputs.tag }}", "v1"]);
        for image in [job.image.as_ref().unwrap(), &job.services[0].image] {
            assert_eq!((image.name.as_str(), image.entrypoint[0].as_str()), ("a:v1", "v1"));
            assert_eq!((image.pull_policy[0], image.user.as_deref()), (job::PullPolicy::Always, Some("1000")));
        }
        assert_eq!((job.services[0].command[0].as_str(), job.services[0].aliases[0].as_str()), ("v1", "${{"));
        let artifact = &job.artifacts[0];
        assert_eq!((&*artifact.name, &*artifact.paths[0], &*artifact.exclude[0], &*artifact.expire_in), ("v1", "v1", "v1", "v1"));
        assert_eq!(artifact.when, job::When::OnFailure);
        assert_eq!(job.variables.get("A"), Some("${{ job.inputs.tag }}"));
        assert_eq!(job.hooks[0].script, ["${{ job.inputs.tag }}"]);
    }

    #[test]
    fn a_job_without_inputs_keeps_what_looks_like_one() {
        let mut payload = payload(&json!([]));
        payload.steps[0].script = vec!["${{ 1 +".to_owned()];
        payload.interpolate(&BTreeMap::new()).unwrap();
        assert_eq!(payload.steps[0].script, ["${{ 1 +"]);
    }

    #[test]
    fn an_input_that_makes_no_sense_is_named() {
        for (input, expected) in [
            (json!({}), "input without key"),
            (json!({"key": "a", "value": {}}), "input \"a\" is null, must have valid value"),
            (json!({"key": "a", "value": {"content": "x"}}), "invalid type \"\" for input \"a\": type is unknown"),
            (input("a", "number", json!("x")), "mismatching type of input \"a\": announced \"number\", but got \"string\""),
        ] {
            let error = payload(&json!([input])).interpolate(&BTreeMap::new()).unwrap_err();
            assert_eq!((error.to_string().as_str(), error.reason()), (expected, FailureReason::RunnerSystemFailure));
        }
    }

    #[test]
    fn an_expression_without_a_value_is_a_configuration_error_and_a_sensitive_input_is_refused() {
        let secret = json!({"key": "tag", "value": {"type": "string", "content": "x", "sensitive": true}});
        for (inputs, expected) in [
            (json!([input("a", "string", json!("x"))]), "failed to interpolate job inputs: there is no \"tag\""),
            (json!([secret]), "failed to interpolate job inputs: sensitive inputs are unsupported in interpolations yet"),
        ] {
            let error = payload(&inputs).interpolate(&BTreeMap::new()).unwrap_err();
            assert!(matches!(error, PayloadError::Interpolation(_)));
            assert_eq!((error.to_string().as_str(), error.reason()), (expected, FailureReason::RunnerConfigurationError));
        }
    }

    #[test]
    fn the_flag_turns_it_off() {
        let mut payload = payload(&json!([input("tag", "string", json!("v1"))]));
        payload.interpolate(&BTreeMap::from([("FF_ENABLE_JOB_INPUTS_INTERPOLATION".to_owned(), false)])).unwrap();
        assert_eq!(payload.steps[0].script, ["${{ job.inputs.tag }}"]);
    }
}
