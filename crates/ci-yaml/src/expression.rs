//! The language of `rules:if`: `$A == "b" && ($C =~ /^d/i || $E)`.
//!
//! As GitLab has it: `&&` binds tighter than `||`, comparisons tighter than both; a variable alone is true when it is set
//! and not blank; an unset one is `null`. Patterns are RE2's kind, so matching takes linear time, and their size is bounded.

mod parse;

pub(crate) use parse::parse;

use crate::variables::Scope;
use regex::{Regex, RegexBuilder};

/// A condition.
#[derive(Clone, Debug)]
pub(crate) enum Expression {
    Variable(String),
    Text(String),
    Pattern(Regex),
    Null,
    Equal(Box<Expression>, Box<Expression>),
    NotEqual(Box<Expression>, Box<Expression>),
    Matches(Box<Expression>, Box<Expression>),
    NotMatches(Box<Expression>, Box<Expression>),
    And(Box<Expression>, Box<Expression>),
    Or(Box<Expression>, Box<Expression>),
}

/// What an expression is worth.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Worth {
    Null,
    Text(String),
    Truth(bool),
}

impl Worth {
    /// Ruby's notion, which `&&` and `||` use: only null and false are not true.
    fn holds(&self) -> bool {
        !matches!(self, Worth::Null | Worth::Truth(false))
    }

    fn text(self) -> String {
        match self {
            Worth::Null => String::new(),
            Worth::Text(text) => text,
            Worth::Truth(truth) => truth.to_string(),
        }
    }
}

/// Where a condition could not be decided: a variable that should hold a pattern holds none.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NoPattern(pub String);

impl Expression {
    /// Whether the condition is met. Where GitLab gives up on an expression it counts as not met, and the error says why.
    pub fn is_met(&self, scope: &Scope<'_>) -> Result<bool, NoPattern> {
        Ok(match self.worth(scope)? {
            Worth::Null => false,
            Worth::Text(text) => !text.trim().is_empty(),
            Worth::Truth(truth) => truth,
        })
    }

    fn worth(&self, scope: &Scope<'_>) -> Result<Worth, NoPattern> {
        Ok(match self {
            Expression::Variable(name) => scope.value(name).map_or(Worth::Null, Worth::Text),
            Expression::Text(text) => Worth::Text(text.clone()),
            Expression::Pattern(pattern) => Worth::Text(pattern.as_str().to_owned()),
            Expression::Null => Worth::Null,
            Expression::Equal(left, right) => Worth::Truth(left.worth(scope)? == right.worth(scope)?),
            Expression::NotEqual(left, right) => Worth::Truth(left.worth(scope)? != right.worth(scope)?),
            Expression::Matches(left, right) => Worth::Truth(matches(left, right, scope)?.unwrap_or(false)),
            Expression::NotMatches(left, right) => Worth::Truth(!matches(left, right, scope)?.unwrap_or(false)),
            Expression::And(left, right) => {
                let left = left.worth(scope)?;
                if left.holds() { right.worth(scope)? } else { left }
            }
            Expression::Or(left, right) => {
                let left = left.worth(scope)?;
                if left.holds() { left } else { right.worth(scope)? }
            }
        })
    }
}

/// `None` when the right side is a variable that is not set.
fn matches(left: &Expression, right: &Expression, scope: &Scope<'_>) -> Result<Option<bool>, NoPattern> {
    let text = left.worth(scope)?.text();
    if let Expression::Pattern(pattern) = right {
        return Ok(Some(pattern.is_match(&text)));
    }
    match right.worth(scope)? {
        Worth::Null => Ok(None),
        worth => {
            let written = worth.text();
            let pattern = slashed(&written).and_then(|(body, flags)| compile_pattern(body, flags).ok());
            let name = if let Expression::Variable(name) = right { format!("${name}") } else { "the right side".to_owned() };
            pattern.map(|pattern| Some(pattern.is_match(&text))).ok_or(NoPattern(name))
        }
    }
}

/// Splits `/body/flags`.
fn slashed(text: &str) -> Option<(&str, &str)> {
    let (body, flags) = text.strip_prefix('/')?.rsplit_once('/')?;
    (!body.is_empty() && flags.chars().all(|flag| "ismU".contains(flag))).then_some((body, flags))
}

/// A pattern of bounded size.
pub(crate) fn compile_pattern(body: &str, flags: &str) -> Result<Regex, regex::Error> {
    RegexBuilder::new(body)
        .case_insensitive(flags.contains('i'))
        .dot_matches_new_line(flags.contains('s'))
        .multi_line(flags.contains('m'))
        .swap_greed(flags.contains('U'))
        .size_limit(1 << 20)
        .dfa_size_limit(1 << 20)
        .nest_limit(50)
        .build()
}
