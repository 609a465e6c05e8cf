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

    /// The value that counts for `key` as a program would see it: expanded unless it is raw.
    pub fn value(&self, key: &str) -> Option<String> {
        self.find(key).map(|one| if one.raw { one.value.clone() } else { self.expand(&one.value) })
    }

    /// Whether `key` is a switch that is on, as a program would see it.
    pub fn is_on(&self, key: &str) -> bool {
        self.value(key).as_deref().and_then(parse_switch) == Some(true)
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

/// Reads a switch as Go reads one, which is what GitLab documents for every variable that is one.
pub fn parse_switch(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}

/// Replaces `$NAME`, `${NAME}` and `$$` in `text`; `value` answers what a name stands for, `None` meaning nothing.
///
/// The grammar is that of Go's `os.Expand`: a parameter of the shell (`$1`, `$?`, `$@`, …) is one character long and
/// stands for nothing here, `${` without its end and `${}` vanish, and a `$` before anything else stays.
pub fn expand<'a>(text: &str, value: impl Fn(&str) -> Option<&'a str>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(dollar) = rest.find('$') {
        out.push_str(&rest[..dollar]);
        let (found, length) = reference(&rest[dollar + 1..]);
        match found {
            Reference::Dollar => out.push('$'),
            Reference::Nothing => {}
            Reference::Name(name) => out.push_str(value(name).unwrap_or_default()),
        }
        rest = &rest[dollar + 1 + length..];
    }
    out.push_str(rest);
    out
}

/// What stands behind a `$`.
enum Reference<'t> {
    Dollar,
    Nothing,
    Name(&'t str),
}

/// The reference at the beginning of `text`, which follows a `$`, and how many bytes it has.
fn reference(text: &str) -> (Reference<'_>, usize) {
    let special = |byte: u8| b"*#$@!?-0123456789".contains(&byte);
    let of_special = |byte: u8| if byte == b'$' { Reference::Dollar } else { Reference::Nothing };
    match *text.as_bytes() {
        [b'{', parameter, b'}', ..] if special(parameter) => (of_special(parameter), 3),
        [b'{', ..] => match text.find('}') {
            Some(1) => (Reference::Nothing, 2),
            Some(end) => (Reference::Name(&text[1..end]), end + 1),
            None => (Reference::Nothing, 1),
        },
        [parameter, ..] if special(parameter) => (of_special(parameter), 1),
        _ => {
            let length = text.bytes().take_while(|byte| byte.is_ascii_alphanumeric() || *byte == b'_').count();
            if length == 0 { (Reference::Dollar, 0) } else { (Reference::Name(&text[..length]), length) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Variable, Variables, parse_switch};
    use proptest::prelude::*;

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

    /// What GitLab documents and what Go's `os.Expand` does: text and what becomes of it.
    const TABLE: &[(&str, &str)] = &[
        ("$A", "two"),
        ("${A}x$A.y", "twoxtwo.y"),
        ("$B", "$A and ${A}"),
        ("$$A", "$A"),
        ("$UNKNOWN|${UNKNOWN}", "|"),
        ("$$$A$$$$", "$two$$"),
        ("costs 5$", "costs 5$"),
        ("$(date) $A$(id)", "$(date) two$(id)"),
        ("`id` \"$A\" '$A' \\$A", "`id` \"two\" 'two' \\two"),
        ("$1A $? $@ $* $# $! $- ${1}", "A       "),
        ("${$}A ${}| ${open", "$A | open"),
        ("${A:-x} ${B", " B"),
        ("$A_ $Ax $A-x ${A}x", "  two-x twox"),
        ("$é ${é} é$A€", "$é  étwo€"),
        ("line\n$A\r\n$A", "line\ntwo\r\ntwo"),
        ("$R", "$A"),
        ("", ""),
    ];

    #[test]
    fn texts_expand_in_a_single_pass() {
        let variables = sample();
        for (text, expected) in TABLE {
            assert_eq!(variables.expand(text), *expected, "{text}");
        }
    }

    proptest! {
        /// A text is the sum of its parts, so no row of the table can disturb its neighbour.
        #[test]
        fn any_sequence_of_the_table_expands_as_its_rows_do(rows in prop::collection::vec(0..TABLE.len(), 0..12)) {
            // Between rows stands what ends a name, and closes a brace that a row may leave open.
            let rows: Vec<_> = rows.into_iter().map(|row| TABLE[row]).filter(|(text, _)| !text.ends_with("5$") && !text.contains("${open") && !text.contains("${B")).collect();
            let text: String = rows.iter().map(|(text, _)| format!("{text}|")).collect();
            let expected: String = rows.iter().map(|(_, expected)| format!("{expected}|")).collect();
            prop_assert_eq!(sample().expand(&text), expected);
        }

        /// Hostile text neither panics nor grows: each reference is replaced by one value, which is not looked at again.
        #[test]
        fn any_text_expands_to_something_bounded(text in "[$A{}_(é1 ]{0,200}") {
            let variables = Variables::new(vec![Variable::public("A", "$A$A")]);
            prop_assert!(variables.expand(&text).len() <= text.len() * 4);
        }
    }

    #[test]
    fn the_last_value_counts_at_the_place_of_the_first() {
        let keys: Vec<_> = sample().expanded().iter().map(|variable| (variable.key.clone(), variable.value.clone())).collect();
        let expected = [("A", "two"), ("B", "two and two"), ("R", "$A"), ("CI_COMMIT_REF_PROTECTED", "false")];
        assert_eq!(keys, expected.map(|(key, value)| (key.to_owned(), value.to_owned())));
    }

    #[test]
    fn a_job_cannot_declare_its_ref_protected() {
        const NAME: &str = "CI_COMMIT_REF_PROTECTED";
        let said = sample();
        assert_eq!((said.get(NAME), said.value(NAME).as_deref()), (Some("false"), Some("false")));
        assert_eq!(said.expand("$CI_COMMIT_REF_PROTECTED"), "false");
        let counting: Vec<_> = said.effective().into_iter().filter(|one| one.key == NAME).map(|one| &*one.value).collect();
        assert_eq!(counting, ["false"]);
        assert_eq!(said.get("A"), Some("two"), "of all others the last counts");
    }

    #[test]
    fn switches_are_read_as_go_reads_them() {
        for (text, expected) in
            [("1", Some(true)), ("True", Some(true)), ("f", Some(false)), ("yes", None), ("", None), ("tRUE", None)]
        {
            assert_eq!(parse_switch(text), expected, "{text}");
        }
        let one = |key: &str, value: &str| Variable::public(key, value);
        let variables: Variables = [one("ON", "$YES"), one("YES", "1"), one("OFF", "0"), one("ODD", "yes")].into_iter().collect();
        let on: Vec<_> = ["ON", "YES", "OFF", "ODD", "NONE"].into_iter().filter(|key| variables.is_on(key)).collect();
        assert_eq!(on, ["ON", "YES"]);
    }
}
