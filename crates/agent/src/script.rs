//! A step as the text of a shell script; pure.
//!
//! The script is for bash and for any POSIX `sh`: it exports the job's variables, enters the project directory, sets
//! errexit (and pipefail where the shell has it), and echoes each command in green before it runs, as GitLab Runner
//! does (row "framing 7" of the job log). Values are in single quotes, in which a shell interprets nothing.

/// What a script needs.
#[derive(Clone, Copy, Debug)]
pub struct ScriptParts<'a> {
    /// Names and values to export, in order.
    pub variables: &'a [(String, String)],
    /// Directory to enter.
    pub directory: &'a str,
    /// The commands.
    pub commands: &'a [String],
}

/// The whole text.
pub fn text(parts: &ScriptParts<'_>) -> String {
    let mut text = String::new();
    for (name, value) in parts.variables.iter().filter(|(name, _)| is_shell_name(name)) {
        text.push_str(&format!("export {name}={}\n", quoted(value)));
    }
    text.push_str("(set -o pipefail) 2>/dev/null && set -o pipefail\nset -o errexit\nset +o noclobber\n");
    text.push_str(&format!("cd {}\n", quoted(parts.directory)));
    for command in parts.commands {
        text.push_str(&format!("printf '%s\\n' {}\n{command}\n", quoted(&echo(command))));
    }
    text
}

/// The green line for a command: its first line, and a word when there are more.
pub fn echo(command: &str) -> String {
    let mut lines = command.trim_end_matches('\n').lines();
    let first = lines.next().unwrap_or_default();
    let more = if lines.next().is_some() { " # collapsed multi-line command" } else { "" };
    format!("\x1b[32;1m$ {first}{more}\x1b[0;m")
}

/// Whether a shell can export the name; others go through the environment.
pub fn is_shell_name(name: &str) -> bool {
    name.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::{ScriptParts, text};
    use std::process::Command;

    fn run(shell: &str, variables: &[(&str, &str)], commands: &[&str]) -> (i32, String) {
        let variables: Vec<_> = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let commands: Vec<_> = commands.iter().map(|command| (*command).to_owned()).collect();
        let parts = ScriptParts { variables: &variables, directory: "/", commands: &commands };
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text(&parts)).unwrap();
        let output = Command::new(shell).arg(file.path()).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
    }

    #[test]
    fn values_arrive_verbatim_in_every_shell() {
        let nasty = "it's $(date) `id` \"q\" \\n $HOME\nsecond line\ttab é";
        for shell in ["sh", "bash"] {
            let (code, output) = run(shell, &[("A", nasty), ("not-a-name", "x")], &["printf '%s|' \"$A\""]);
            assert_eq!((code, output.split('\n').skip(1).collect::<Vec<_>>().join("\n")), (0, format!("{nasty}|")), "{shell}");
        }
    }

    #[test]
    fn the_first_failing_command_ends_the_script_with_its_code() {
        for shell in ["sh", "bash"] {
            let (code, output) = run(shell, &[], &["echo one", "(exit 7)", "echo two"]);
            assert_eq!(code, 7, "{shell}");
            assert!(output.contains("$ echo one") && output.contains("\none\n") && !output.contains("\ntwo"), "{output}");
        }
        assert_eq!(run("bash", &[], &["false | true"]).0, 1, "pipefail holds where the shell has it");
    }

    #[test]
    fn only_the_first_line_of_a_command_is_echoed() {
        let (_, output) = run("sh", &[], &["cat <<X\nhello 'there'\nX\n"]);
        assert_eq!(output, "\u{1b}[32;1m$ cat <<X # collapsed multi-line command\u{1b}[0;m\nhello 'there'\n");
    }
}
