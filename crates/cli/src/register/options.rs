//! Keys of an entry that flags and variables can say, as GitLab Runner names them.
//!
//! All of them are there, also those that gantry does not read: they are written down for GitLab Runner, and told as
//! keys without effect like in any file. Keys of other executors are not.

use anyhow::{Context, Result, bail};
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};
use toml::{Table, Value};

const TABLE: &str = include_str!("options.txt");
const HEADING: &str = "Keys of the entry";

/// One key.
struct Key {
    path: &'static str,
    kind: &'static str,
    flag: &'static str,
    variable: Option<&'static str>,
}

/// What was said of them, in the order of the table; never empty texts, which say nothing.
#[derive(Debug, Default)]
pub struct Options(Vec<(usize, Vec<String>)>);

fn keys() -> impl Iterator<Item = Key> {
    TABLE.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
        let mut cells = line.split('\t');
        Some(Key { path: cells.next()?, kind: cells.next()?, flag: cells.next()?, variable: cells.next() })
    })
}

impl Args for Options {
    fn augment_args(command: Command) -> Command {
        keys().fold(command, |command, key| {
            let arg = Arg::new(key.path).long(key.flag).help_heading(HEADING).hide_env_values(true).action(ArgAction::Append);
            let arg = arg.value_name(key.kind).hide_short_help(true);
            let arg = match key.kind {
                "SWITCH" => arg.num_args(0..=1).require_equals(true).default_missing_value("true"),
                _ => arg.allow_hyphen_values(true),
            };
            command.arg(match key.variable {
                Some(variable) => arg.env(variable),
                None => arg,
            })
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Options {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let said = |key: &Key| -> Vec<String> {
            let values = matches.get_many::<String>(key.path).into_iter().flatten();
            values.filter(|value| !value.is_empty()).cloned().collect()
        };
        let all = keys().enumerate().map(|(index, key)| (index, said(&key)));
        Ok(Self(all.filter(|(_, values)| !values.is_empty()).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Options {
    /// As the keys of an entry.
    ///
    /// # Errors
    /// When a value is not of its key's kind; what it is is not told, because it may be a secret.
    pub fn entry(&self) -> Result<Table> {
        let mut entry = Table::new();
        for (index, values) in &self.0 {
            let Some(key) = keys().nth(*index) else { continue };
            let value = value(key.kind, values).with_context(|| format!("--{}", key.flag))?;
            put(&mut entry, key.path, value);
        }
        Ok(entry)
    }
}

fn put(entry: &mut Table, path: &str, value: Value) {
    match path.split_once('.') {
        None => drop(entry.insert(path.to_owned(), value)),
        Some((table, rest)) => {
            let inner = entry.entry(table).or_insert_with(|| Table::new().into());
            if let Value::Table(inner) = inner {
                put(inner, rest, value);
            }
        }
    }
}

fn value(kind: &str, values: &[String]) -> Result<Value> {
    let last = values.last().map(String::as_str).unwrap_or_default();
    Ok(match kind {
        "NUMBER" => number(last)?,
        "SWITCH" => switch(last)?.into(),
        "LIST" => values.iter().cloned().map(Value::from).collect::<Vec<_>>().into(),
        "NUMBERS" => values.iter().map(|value| number(value)).collect::<Result<Vec<_>>>()?.into(),
        "MAP" => pairs(values, |value| Ok(value.into()))?.into(),
        "SWITCHES" => pairs(values, |value| Ok(switch(value)?.into()))?.into(),
        "AMOUNTS" => pairs(values, number)?.into(),
        _ => last.into(),
    })
}

fn number(text: &str) -> Result<Value> {
    Ok(text.trim().parse::<i64>().context("a number is expected")?.into())
}

/// A word of GitLab Runner for yes or no.
///
/// # Errors
/// When it is another word.
pub fn switch(text: &str) -> Result<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => bail!("true or false is expected"),
    }
}

/// Each value is a JSON object, or `key=value`, or `key:value`.
fn pairs(values: &[String], read: impl Fn(&str) -> Result<Value>) -> Result<Table> {
    let mut table = Table::new();
    for text in values {
        if text.starts_with('{') {
            let object: serde_json::Map<String, serde_json::Value> =
                serde_json::from_str(text).map_err(|_| anyhow::anyhow!("the JSON object cannot be read"))?;
            for (key, value) in object {
                let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                table.insert(key, read(&text)?);
            }
        } else {
            let (key, value) =
                text.split_once('=').or_else(|| text.split_once(':')).context("key=value, key:value or JSON is expected")?;
            table.insert(key.to_owned(), read(value)?);
        }
    }
    Ok(table)
}

#[cfg(test)]
mod tests {
    use super::{keys, value};
    use std::collections::BTreeSet;

    #[test]
    fn every_key_has_a_kind_and_a_flag_of_its_own() {
        let kinds = ["TEXT", "NUMBER", "SWITCH", "LIST", "NUMBERS", "MAP", "SWITCHES", "AMOUNTS"];
        assert!(keys().count() > 200 && keys().all(|key| kinds.contains(&key.kind)));
        assert_eq!(keys().map(|key| key.flag).collect::<BTreeSet<_>>().len(), keys().count());
        assert!(keys().all(|key| key.variable != Some("")));
    }

    #[test]
    fn values_have_the_kind_of_their_key() {
        let toml = |kind: &str, values: &[&str]| {
            let values: Vec<_> = values.iter().map(|value| (*value).to_owned()).collect();
            value(kind, &values).map(|value| value.to_string()).map_err(|error| error.to_string())
        };
        for (kind, values, expected) in [
            ("TEXT", &["a", "b"][..], "\"b\""),
            ("NUMBER", &["7"], "7"),
            ("SWITCH", &["1"], "true"),
            ("LIST", &["a,b", "c"], "[\"a,b\", \"c\"]"),
            ("NUMBERS", &["1", "2"], "[1, 2]"),
            ("MAP", &["a=b=c", "d:e", "{\"f\": \"g\"}"], "{ a = \"b=c\", d = \"e\", f = \"g\" }"),
            ("SWITCHES", &["{\"A\": true}", "B=false"], "{ A = true, B = false }"),
            ("AMOUNTS", &["a=3"], "{ a = 3 }"),
        ] {
            assert_eq!(toml(kind, values).as_deref(), Ok(expected), "{kind}");
        }
        for (kind, text) in
            [("NUMBER", "hunter2"), ("SWITCH", "hunter2"), ("MAP", "hunter2"), ("MAP", "{hunter2"), ("AMOUNTS", "a=hunter2")]
        {
            assert!(!toml(kind, &[text]).unwrap_err().contains("hunter2"), "{kind}");
        }
    }
}
