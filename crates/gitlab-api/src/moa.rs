//! Moa, GitLab's expression language of `${{ }}`: texts in which values of a job's inputs stand.
//!
//! A text is parsed whole before anything of it is evaluated, so that a mistake in a branch that is not taken is found.
//! There is no conversion by itself: `"a" + 1` is a mistake. What comes from a sensitive input is refused wherever it is
//! looked at, also where the result would not show it: GitLab Runner cannot put it in either, and this is simpler than
//! following it. Who writes a job decides on its texts, so their depth is bounded, and what becomes of all of them together.

mod evaluate;
mod parse;
mod value;

use std::cell::Cell;
pub use value::Value;

/// Most bytes that the values in all texts of a job may have.
const MOST: usize = 32 * 1024 * 1024;

/// Why a text has no value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MoaError {
    /// It is not written as the language wants it.
    #[error("{0}")]
    Syntax(String),
    /// It means nothing.
    #[error("{0}")]
    Meaning(String),
    /// It looks at a sensitive input.
    #[error("sensitive inputs are unsupported in interpolations yet")]
    Sensitive,
}

/// An input of a job.
#[derive(Clone, Debug, PartialEq)]
pub struct Input {
    /// Its name: `job.inputs.<name>`.
    pub name: String,
    /// Its value.
    pub value: Value,
    /// It must not be shown.
    pub sensitive: bool,
}

/// The inputs of a job.
#[derive(Debug)]
pub struct Inputs {
    list: Vec<Input>,
    /// What is left of [`MOST`].
    left: Cell<usize>,
}

impl Inputs {
    /// Those in the list.
    pub fn new(list: Vec<Input>) -> Self {
        Self { list, left: Cell::new(MOST) }
    }

    /// The text with a value in place of each `${{ }}`, and `${{` in place of `\${{`.
    ///
    /// # Errors
    /// When an expression cannot be read, or has no value.
    pub fn interpolate(&self, text: &str) -> Result<String, MoaError> {
        if !text.contains("${{") {
            return Ok(text.to_owned());
        }
        self.text(&parse::template(text)?)
    }
}

#[cfg(test)]
mod tests {
    use super::{Input, Inputs, MoaError, Value};
    use serde_json::json;

    fn interpolate(text: &str) -> Result<String, MoaError> {
        Inputs::new(inputs()).interpolate(text)
    }

    fn inputs() -> Vec<Input> {
        let input =
            |name: &str, value: serde_json::Value| Input { name: name.into(), value: Value::from(value), sensitive: false };
        vec![
            input("name", json!("fred")),
            input("empty", json!("")),
            input("age", json!(1)),
            input("ratio", json!(2.5)),
            input("on", json!(true)),
            input("off", json!(false)),
            input("tags", json!(["smoke", "all"])),
            input("address", json!({"line1": "42 Wallaby Way", "dash-ed": "x"})),
            input("with-dash", json!("dashed")),
            Input { sensitive: true, ..input("password", json!("123456")) },
        ]
    }

    #[test]
    fn texts_have_the_values_that_the_language_gives_them() {
        for (text, expected) in [
            ("plain $ text {{ }} \\", "plain $ text {{ }} \\"),
            ("Hello ${{ job.inputs.name }}, ${{job.inputs.name}}!", "Hello fred, fred!"),
            ("${{ job.inputs.age }} ${{ str(job.inputs.age) }} ${{ job.inputs.ratio }}", "1 1 2.5"),
            ("${{ job.inputs.tags[1] }} ${{ job.inputs.tags }}", "all [\"smoke\",\"all\"]"),
            ("${{ job.inputs.address.line1 }} ${{ job.inputs.address[\"dash-ed\"] }}", "42 Wallaby Way x"),
            ("${{ job.inputs['with-dash'] }}", "dashed"),
            ("Use \\${{ to start", "Use ${{ to start"),
            ("${{ job.inputs.on && \"-v\" || \"\" }}|${{ job.inputs.off && \"-v\" || \"\" }}", "-v|"),
            ("${{ job.inputs.empty || 'latest' }}", "latest"),
            ("${{ job.inputs.name == \"fred\" && \"a:1\" || \"a:2\" }}", "a:1"),
            ("${{ 1 + 2 * 3 }} ${{ (1 + 2) * 3 }} ${{ 10 % 3 }} ${{ -7 % 3 }} ${{ 10 / 4 }}", "7 9 1 -1 2.5"),
            ("${{ \"a\" + \"b\" }} ${{ 1 == \"1\" }} ${{ 1 < 2 }} ${{ \"a\" >= \"b\" }}", "ab false true false"),
            ("${{ !job.inputs.on }} ${{ +5 }} ${{ - -5 }} ${{ 1.5e3 }} ${{ 2E-4 }}", "false 5 5 1500 0.0002"),
            ("${{ str(null) }} ${{ bool(\"\") }} ${{ num(\"3.14\") + 1 }}", "<null> false 4.140000000000001"),
            ("${{ {name: \"x\", \"y\": [1, true, null,],} }}", "{\"name\":\"x\",\"y\":[1,true,null]}"),
            ("${{ {a: {b: 1}}.a.b }} ${{ [1, 2] == [1, 2] }}", "1 true"),
            ("${{ {(job.inputs.name): 1} }}", "{\"fred\":1}"),
            ("${{ \"in ${{ job.inputs.name }} \\u0041\\t\\\"\" }}", "in fred A\t\""),
            ("${{ 'Literal ${{ not }} \\'q\\'' }}", "Literal ${{ not }} 'q'"),
            ("${{ false && job.nothing }}", "false"),
            ("${{ null }}", "<null>"),
        ] {
            assert_eq!(interpolate(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn mistakes_are_named() {
        for (text, expected) in [
            ("${{ job.inputs.name", "expected }} at the end"),
            ("${{ }}", "expected a value at \"}}\""),
            ("${{ 1 2 }}", "expected }} at \"2 }}\""),
            ("${{ \"open }}", "a string without its end"),
            ("${{ job.inputs.nothing }}", "there is no \"nothing\""),
            ("${{ env.HOME }}", "there is no \"env\""),
            ("${{ 1 / 0 }}", "division by zero"),
            ("${{ \"a\" + 1 }}", "+ of a string and a number"),
            ("${{ job.inputs.tags[7] }}", "there is no element 7"),
            ("${{ upper(\"a\") }}", "there is no function \"upper\""),
            ("${{ num(\"x\") }}", "\"x\" is no number"),
            ("${{ while }}", "\"while\" is reserved"),
            ("${{ 'a\\n' }}", "unknown escape"),
        ] {
            let error = interpolate(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
        for (begin, part, end) in
            [("", "(", "1"), ("1", "+1", ""), ("job", ".a", ""), ("", "-", "1"), ("", "\"${{ ", ""), ("", "[", "")]
        {
            let deep = format!("${{{{ {begin}{}{end} }}}}", part.repeat(100_000));
            assert!(matches!(interpolate(&deep), Err(MoaError::Syntax(_))), "{part}");
        }
    }

    #[test]
    fn a_sensitive_input_cannot_be_looked_at() {
        for text in ["${{ job.inputs.password }}", "${{ job.inputs.password == \"1\" }}", "${{ job.inputs }}", "${{ str(job) }}"]
        {
            assert_eq!(interpolate(text), Err(MoaError::Sensitive), "{text}");
        }
        assert_eq!(interpolate("${{ true || job.inputs.password }}").as_deref(), Ok("true"));
    }

    #[test]
    fn a_job_cannot_make_more_of_its_inputs_than_there_is_room_for() {
        let value = Value::String("x".repeat(1024 * 1024));
        let inputs = Inputs::new(vec![Input { name: "x".into(), value, sensitive: false }]);
        let many = format!("${{{{ [{}] }}}}", "job.inputs.x,".repeat(40));
        assert!(matches!(inputs.interpolate(&many), Err(MoaError::Meaning(text)) if text.contains("more than")));
        assert!(inputs.interpolate("${{ job.inputs.x }}").is_err());
    }
}
