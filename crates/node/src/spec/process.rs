//! What a container executes: the pod's command before the image's, its environment over the image's.

use super::environment::Environment;
use super::{ConfigError, expand};
use k8s_openapi::api::core::v1::Container;

/// `PATH` of an image that sets none (the container runtimes' own).
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What of an image's configuration a process depends on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageDefaults<'a> {
    /// Program and first arguments.
    pub entrypoint: &'a [String],
    /// Further arguments.
    pub cmd: &'a [String],
    /// Environment.
    pub env: &'a [(String, String)],
    /// Directory.
    pub working_dir: &'a str,
}

/// A process to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Program and arguments; never empty.
    pub args: Vec<String>,
    /// Environment, each name once.
    pub env: Vec<(String, String)>,
    /// Directory.
    pub cwd: String,
}

/// Works out the process; `hostname` is the pod's, `home` is used when nobody sets `HOME`.
///
/// # Errors
/// When neither pod nor image say what to execute, or the directory is no absolute path.
pub fn process(
    container: &Container,
    environment: &Environment,
    image: &ImageDefaults<'_>,
    hostname: &str,
    home: Option<&str>,
) -> Result<Process, ConfigError> {
    let expanded = |list: &[String]| list.iter().map(|one| expand(one, |name| environment.get(name))).collect::<Vec<_>>();
    let command = container.command.as_deref().filter(|list| !list.is_empty());
    let arguments = container.args.as_deref().filter(|list| !list.is_empty());
    // A command of the pod takes the place of both parts of the image's.
    let mut args = command.map_or_else(|| image.entrypoint.to_vec(), &expanded);
    match (arguments, command) {
        (Some(list), _) => args.extend(expanded(list)),
        (None, None) => args.extend_from_slice(image.cmd),
        (None, Some(_)) => {}
    }
    if args.is_empty() || args[0].is_empty() {
        return Err(ConfigError::new("no command specified"));
    }
    let mut env: Vec<(String, String)> = vec![("PATH".to_owned(), PATH.to_owned()), ("HOSTNAME".to_owned(), hostname.to_owned())];
    env.extend(home.map(|home| ("HOME".to_owned(), home.to_owned())));
    for (name, value) in image.env.iter().chain(&environment.variables) {
        match env.iter_mut().find(|(known, _)| known == name) {
            Some((_, known)) => known.clone_from(value),
            None => env.push((name.clone(), value.clone())),
        }
    }
    let own = container.working_dir.as_deref().unwrap_or_default();
    let cwd = [own, image.working_dir, "/"].into_iter().find(|path| !path.is_empty()).unwrap_or("/").to_owned();
    if !cwd.starts_with('/') {
        return Err(ConfigError::new(format!("workingDir \"{cwd}\" is not an absolute path")));
    }
    if args.iter().chain(env.iter().flat_map(|(name, value)| [name, value])).chain([&cwd]).any(|text| text.contains('\0')) {
        return Err(ConfigError::new("command, environment or directory contain a zero byte"));
    }
    Ok(Process { args, env, cwd })
}

#[cfg(test)]
mod tests {
    use super::{ImageDefaults, PATH, Process, process};
    use crate::spec::environment::Environment;
    use k8s_openapi::api::core::v1::Container;
    use serde_json::{Value, json};

    fn of(container: Value) -> Result<Process, String> {
        let mut whole = json!({"name": "a"});
        for (key, value) in container.as_object().unwrap() {
            whole[key] = value.clone();
        }
        let container: Container = serde_json::from_value(whole).unwrap();
        let (entrypoint, cmd) = (["entry".to_owned()], ["cmd".to_owned()]);
        let image_env = [("PATH".to_owned(), "/image".to_owned()), ("A".to_owned(), "image".to_owned())];
        let image = ImageDefaults { entrypoint: &entrypoint, cmd: &cmd, env: &image_env, working_dir: "/srv" };
        let environment = Environment { variables: vec![("A".to_owned(), "pod".to_owned())], invalid: Vec::new() };
        process(&container, &environment, &image, "host", Some("/root")).map_err(|error| error.0)
    }

    #[test]
    fn command_and_args_override_the_image_as_kubernetes_documents_it() {
        assert_eq!(of(json!({})).unwrap().args, ["entry", "cmd"]);
        assert_eq!(of(json!({"command": ["c"]})).unwrap().args, ["c"]);
        assert_eq!(of(json!({"args": ["$(A)", "$(PATH)"]})).unwrap().args, ["entry", "pod", "$(PATH)"]);
        assert_eq!(of(json!({"command": ["c"], "args": ["a"]})).unwrap().args, ["c", "a"]);
    }

    #[test]
    fn environment_and_directory_of_the_pod_win() {
        let found = of(json!({"workingDir": "/x"})).unwrap();
        let value = |name: &str| found.env.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
        assert_eq!(
            (value("PATH"), value("A"), value("HOSTNAME"), value("HOME")),
            (Some("/image"), Some("pod"), Some("host"), Some("/root"))
        );
        assert_eq!(found.cwd, "/x");
        assert_eq!(of(json!({})).unwrap().cwd, "/srv");
        assert!(of(json!({"workingDir": "x"})).unwrap_err().contains("absolute"));
    }

    #[test]
    fn an_image_without_a_command_is_a_mistake_of_the_pod() {
        let container: Container = serde_json::from_value(json!({"name": "a"})).unwrap();
        let empty = process(&container, &Environment::default(), &ImageDefaults::default(), "h", None);
        assert_eq!(empty.unwrap_err().0, "no command specified");
        let container: Container = serde_json::from_value(json!({"name": "a", "command": ["x"]})).unwrap();
        let plain = process(&container, &Environment::default(), &ImageDefaults::default(), "h", None).unwrap();
        assert_eq!(plain.env[0], ("PATH".to_owned(), PATH.to_owned()));
        assert_eq!(plain.cwd, "/");
    }
}
