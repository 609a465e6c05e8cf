//! A step as the text of a shell script; pure.
//!
//! The script is for bash and for any POSIX `sh`: it exports the job's variables, enters the project directory, sets
//! errexit (and pipefail where the shell has it), and echoes each command in green before it runs, as GitLab Runner
//! does (row "framing 7" of the job log). Values are in single quotes, in which a shell interprets nothing.

/// What a script needs.
#[derive(Clone, Copy, Debug, Default)]
pub struct ScriptParts<'a> {
    /// Names and values to export, in order.
    pub variables: &'a [(String, String)],
    /// File of further `NAME=value` lines, written by earlier scripts (`GITLAB_ENV`); empty means none.
    pub env_file: &'a str,
    /// Directory to enter.
    pub directory: &'a str,
    /// The commands, in groups.
    pub groups: &'a [Group<'a>],
    /// How it is written.
    pub options: Options,
}

/// Commands that come from one place.
#[derive(Clone, Copy, Debug)]
pub struct Group<'a> {
    /// Name of the place for sections of the log, as GitLab Runner has it: `script_step`, `pre_build_script`, …
    pub name: &'a str,
    /// The commands.
    pub commands: &'a [String],
}

/// What feature flags and variables change about scripts.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// A command of several lines is shown whole in a collapsed section (`FF_SCRIPT_SECTIONS`).
    pub sections: bool,
    /// The exit code is looked at after each command (`FF_ENABLE_BASH_EXIT_CODE_CHECK`), because errexit is not in
    /// force everywhere.
    pub exit_code_check: bool,
    /// The shell shows all that it does (`CI_DEBUG_TRACE`).
    pub debug_trace: bool,
}

/// The whole text.
pub fn text(parts: &ScriptParts<'_>) -> String {
    let mut text = String::new();
    if parts.options.debug_trace {
        text.push_str("set -o xtrace\n");
    }
    for (name, value) in parts.variables.iter().filter(|(name, _)| is_shell_name(name)) {
        text.push_str(&format!("export {name}={}\n", quoted(value)));
    }
    text.push_str("(set -o pipefail) 2>/dev/null && set -o pipefail\nset -o errexit\nset +o noclobber\n");
    if !parts.env_file.is_empty() {
        let file = quoted(parts.env_file);
        text.push_str(&format!(
            "if [ -r {file} ]; then while read -r _runner_line; do export \"$_runner_line\"; done <{file}; fi\n"
        ));
    }
    text.push_str(&format!("cd {}\n", quoted(parts.directory)));
    for group in parts.groups {
        for (index, command) in group.commands.iter().enumerate() {
            push_command(&mut text, (group.name, index), command.trim(), parts.options);
        }
    }
    text
}

fn push_command(text: &mut String, (group, index): (&str, usize), command: &str, options: Options) {
    if options.sections && command.contains('\n') {
        let id = format!("section_{group}_{index}");
        // A shell without `date` still gets a section, of the year 1970.
        let now = "\"$(date +%s 2>/dev/null || echo 0)\"";
        let shown = quoted(&format!("\x1b[32;1m$ {command}\x1b[0;m"));
        text.push_str(&format!(
            "printf 'section_start:%s:{id}[hide_duration=true,collapsed=true]\\r\\033[0K%s\\n' {now} {shown}\n"
        ));
        text.push_str(&format!("printf 'section_end:%s:{id}\\r\\033[0K\\n' {now}\n"));
    } else {
        text.push_str(&format!("printf '%s\\n' {}\n", quoted(&echo(command))));
    }
    text.push_str(command);
    text.push('\n');
    if options.exit_code_check {
        text.push_str("_runner_exit_code=$?; if [ $_runner_exit_code -ne 0 ]; then exit $_runner_exit_code; fi\n");
    }
}

/// The green line for a command: its first line, and a word when there are more; nothing for an empty one.
pub fn echo(command: &str) -> String {
    match command.split_once('\n') {
        _ if command.is_empty() => String::new(),
        Some((first, _)) => format!("\x1b[32;1m$ {first} # collapsed multi-line command\x1b[0;m"),
        None => format!("\x1b[32;1m$ {command}\x1b[0;m"),
    }
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
    use super::{Group, Options, ScriptParts, text};
    use std::process::Command;

    fn run_with(shell: &str, parts: &ScriptParts<'_>) -> (i32, String) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text(parts)).unwrap();
        let output = Command::new(shell).arg(file.path()).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
    }

    fn run(shell: &str, options: Options, variables: &[(&str, &str)], commands: &[&str]) -> (i32, String) {
        let variables: Vec<_> = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let commands: Vec<_> = commands.iter().map(|command| (*command).to_owned()).collect();
        let groups = [Group { name: "script_step", commands: &commands }];
        run_with(shell, &ScriptParts { variables: &variables, directory: "/", groups: &groups, options, env_file: "" })
    }

    #[test]
    fn values_arrive_verbatim_in_every_shell() {
        let nasty = "it's $(date) `id` \"q\" \\n $HOME\nsecond line\ttab é";
        for shell in ["sh", "bash"] {
            let (code, output) = run(shell, Options::default(), &[("A", nasty), ("not-a-name", "x")], &["printf '%s|' \"$A\""]);
            assert_eq!((code, output.split('\n').skip(1).collect::<Vec<_>>().join("\n")), (0, format!("{nasty}|")), "{shell}");
        }
    }

    #[test]
    fn the_first_failing_command_ends_the_script_with_its_code() {
        for shell in ["sh", "bash"] {
            let (code, output) = run(shell, Options::default(), &[], &["echo one", "(exit 7)", "echo two"]);
            assert_eq!(code, 7, "{shell}");
            assert!(output.contains("$ echo one") && output.contains("\none\n") && !output.contains("\ntwo"), "{output}");
        }
        assert_eq!(run("bash", Options::default(), &[], &["false | true"]).0, 1, "pipefail holds where the shell has it");
    }

    #[test]
    fn only_the_first_line_of_a_command_is_echoed() {
        let (_, output) = run("sh", Options::default(), &[], &["cat <<X\nhello 'there'\nX\n", "  true  ", ""]);
        let expected =
            "\u{1b}[32;1m$ cat <<X # collapsed multi-line command\u{1b}[0;m\nhello 'there'\n\u{1b}[32;1m$ true\u{1b}[0;m\n\n";
        assert_eq!(output, expected);
    }

    #[test]
    fn a_command_of_several_lines_can_have_a_section_of_its_own() {
        let options = Options { sections: true, ..Options::default() };
        for shell in ["sh", "bash"] {
            let (_, output) = run(shell, options, &[], &["true", "echo a%s\nprintf '%s\\n' '\\b'"]);
            let stamp = output.split(':').nth(1).unwrap();
            assert!(stamp.parse::<u64>().unwrap() > 1_000_000_000, "{output}");
            let expected = format!(
                "\u{1b}[32;1m$ true\u{1b}[0;m\nsection_start:{stamp}:section_script_step_1[hide_duration=true,collapsed=true]\r\u{1b}[0K\
                 \u{1b}[32;1m$ echo a%s\nprintf '%s\\n' '\\b'\u{1b}[0;m\nsection_end:{stamp}:section_script_step_1\r\u{1b}[0K\na%s\n\\b\n"
            );
            // The clock may have gone on by a second between the two marks.
            assert_eq!(
                output.replace(&format!(":{}:", stamp.parse::<u64>().unwrap() + 1), &format!(":{stamp}:")),
                expected,
                "{shell}"
            );
        }
    }

    #[test]
    fn the_exit_code_check_holds_where_errexit_does_not() {
        let commands = ["set +e", "(exit 9)", "echo went on"];
        assert!(run("bash", Options::default(), &[], &commands).1.contains("went on"));
        let checked = Options { exit_code_check: true, ..Options::default() };
        for shell in ["sh", "bash"] {
            let (code, output) = run(shell, checked, &[], &commands);
            assert!(code == 9 && !output.contains("\nwent on"), "{shell}: {code} {output}");
        }
    }

    #[test]
    fn the_file_of_earlier_scripts_is_exported() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "A=1\nB=two words $A\n").unwrap();
        let env_file = file.path().display().to_string();
        let commands = ["sh -c 'echo \"$A-$B\"'".to_owned()];
        let groups = [Group { name: "script_step", commands: &commands }];
        for shell in ["sh", "bash"] {
            let parts = ScriptParts { env_file: &env_file, directory: "/", groups: &groups, ..ScriptParts::default() };
            let (code, output) = run_with(shell, &parts);
            assert!(code == 0 && output.ends_with("\n1-two words $A\n"), "{shell}: {output}");
        }
    }

    #[test]
    fn a_debug_trace_shows_what_the_shell_does() {
        let options = Options { debug_trace: true, ..Options::default() };
        let commands = ["exec 2>&1".to_owned(), "echo $((1 + 1))".to_owned()];
        let groups = [Group { name: "script_step", commands: &commands }];
        let (_, output) = run_with("bash", &ScriptParts { directory: "/", groups: &groups, options, ..ScriptParts::default() });
        assert!(output.contains("+ echo 2\n"), "{output}");
    }
}
