//! CI/CD variables: an ordered list in which the last of two equal names wins, and their expansion.
//!
//! Expansion is GitLab Runner's: one pass over the text, `$NAME` and `${NAME}` replaced by the value as it stands,
//! an unknown name by nothing, and `$$` kept as one `$`. Values that are inserted are not looked at again, so a
//! variable cannot make the runner loop. The single exception to "last wins" is `CI_COMMIT_REF_PROTECTED`, whose
//! first value counts, because a job could otherwise declare itself protected (parity README, behaviour 21).

/// One variable of a job.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Variable {
    /// Its name.
    pub key: String,
    /// Its value, not expanded.
    pub value: String,
    /// May stand in a pod's environment; all others travel to the script only.
    pub public: bool,
    /// The script gets a path to a file with the value.
    pub file: bool,
    /// The value must not appear in the log.
    pub masked: bool,
    /// The value is not expanded.
    pub raw: bool,
}

impl Variable {
    /// A public, expandable variable.
    pub fn public(key: impl Into<String>, value: impl Into<String>) -> Self {
        Self { key: key.into(), value: value.into(), public: true, ..Self::default() }
    }

    /// A variable that only the script sees.
    pub fn internal(key: impl Into<String>, value: impl Into<String>) -> Self {
        Self { key: key.into(), value: value.into(), ..Self::default() }
    }
}

/// Variables in the order they came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Variables(Vec<Variable>);

impl Variables {
    /// Takes the list as it is.
    pub fn new(list: Vec<Variable>) -> Self {
        Self(list)
    }

    /// Adds one behind the others.
    pub fn push(&mut self, variable: Variable) {
        self.0.push(variable);
    }

    /// All of them, duplicates included.
    pub fn iter(&self) -> impl Iterator<Item = &Variable> {
        self.0.iter()
    }

    /// The one that counts for `key`.
    pub fn find(&self, key: &str) -> Option<&Variable> {
        if key == "CI_COMMIT_REF_PROTECTED" {
            return self.0.iter().find(|variable| variable.key == key);
        }
        self.0.iter().rfind(|variable| variable.key == key)
    }

    /// The value that counts for `key`, not expanded; `None` when there is no such variable.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.find(key).map(|variable| variable.value.as_str())
    }

    /// The variables that count: each name once, at the place where it first appeared.
    pub fn effective(&self) -> Vec<&Variable> {
        let mut seen = std::collections::HashSet::new();
        let mut last = std::collections::HashMap::new();
        for variable in &self.0 {
            let first_wins = variable.key == "CI_COMMIT_REF_PROTECTED" && last.contains_key(variable.key.as_str());
            if !first_wins {
                last.insert(variable.key.as_str(), variable);
            }
        }
        self.0.iter().filter(|variable| seen.insert(variable.key.as_str())).map(|variable| last[variable.key.as_str()]).collect()
    }

    /// Replaces `$NAME` and `${NAME}` in `text`, once.
    pub fn expand(&self, text: &str) -> String {
        expand(text, |key| self.get(key))
    }

    /// Every variable that counts with its value expanded by the others, in one pass; raw ones as they are.
    ///
    /// A file variable is expanded in its content; what another variable sees of it is up to the caller, who knows
    /// the path.
    pub fn expanded(&self) -> Self {
        let effective = self.effective();
        let lookup: std::collections::HashMap<&str, &str> =
            effective.iter().map(|variable| (variable.key.as_str(), variable.value.as_str())).collect();
        Self(
            effective
                .iter()
                .map(|variable| Variable {
                    value: if variable.raw {
                        variable.value.clone()
                    } else {
                        expand(&variable.value, |key| lookup.get(key).copied())
                    },
                    ..(*variable).clone()
                })
                .collect(),
        )
    }
}

impl FromIterator<Variable> for Variables {
    fn from_iter<I: IntoIterator<Item = Variable>>(list: I) -> Self {
        Self(list.into_iter().collect())
    }
}

impl Extend<Variable> for Variables {
    fn extend<I: IntoIterator<Item = Variable>>(&mut self, list: I) {
        self.0.extend(list);
    }
}

/// Replaces `$NAME`, `${NAME}` and `$$` in `text`; `value` answers what a name stands for, `None` meaning nothing.
pub fn expand<'a>(text: &str, value: impl Fn(&str) -> Option<&'a str>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(dollar) = rest.find('$') {
        out.push_str(&rest[..dollar]);
        let after = &rest[dollar + 1..];
        if let Some(tail) = after.strip_prefix('$') {
            out.push('$');
            rest = tail;
        } else if let Some((name, tail)) = after.strip_prefix('{').and_then(|inner| inner.split_once('}')) {
            out.push_str(value(name).unwrap_or_default());
            rest = tail;
        } else {
            let length = name_length(after);
            if length == 0 {
                out.push('$');
            } else {
                out.push_str(value(&after[..length]).unwrap_or_default());
            }
            rest = &after[length..];
        }
    }
    out.push_str(rest);
    out
}

/// How many bytes of `text` are a variable's name.
fn name_length(text: &str) -> usize {
    let starts_well = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_');
    if !starts_well {
        return 0;
    }
    text.bytes().take_while(|byte| byte.is_ascii_alphanumeric() || *byte == b'_').count()
}

#[cfg(test)]
mod tests {
    use super::{Variable, Variables};

    fn sample() -> Variables {
        Variables::new(vec![
            Variable::public("A", "one"),
            Variable::public("B", "$A and ${A}"),
            Variable { raw: true, ..Variable::public("R", "$A") },
            Variable::public("A", "two"),
            Variable::public("CI_COMMIT_REF_PROTECTED", "false"),
            Variable::public("CI_COMMIT_REF_PROTECTED", "true"),
        ])
    }

    #[test]
    fn texts_expand_in_a_single_pass() {
        let variables = sample();
        for (text, expected) in [
            ("$A", "two"),
            ("${A}x$A.y", "twoxtwo.y"),
            ("$B", "$A and ${A}"),
            ("$$A", "$A"),
            ("$UNKNOWN|${UNKNOWN}", "|"),
            ("costs 5$", "costs 5$"),
            ("$1 $(date) ${open", "$1 $(date) ${open"),
            ("é$A€", "étwo€"),
        ] {
            assert_eq!(variables.expand(text), expected, "{text}");
        }
    }

    #[test]
    fn the_last_value_counts_at_the_place_of_the_first() {
        let keys: Vec<_> = sample().expanded().iter().map(|variable| (variable.key.clone(), variable.value.clone())).collect();
        let expected = [("A", "two"), ("B", "two and two"), ("R", "$A"), ("CI_COMMIT_REF_PROTECTED", "false")];
        assert_eq!(keys, expected.map(|(key, value)| (key.to_owned(), value.to_owned())));
    }
}
