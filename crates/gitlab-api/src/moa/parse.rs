//! From text to expressions, by the precedence that GitLab documents.

use super::MoaError;
use super::value::Value;

/// Deeper nesting is nobody's.
const DEEPEST: usize = 100;
/// More operators and properties have no expression: each hangs on the one before, and whoever walks them goes as deep.
const MOST_LINKS: usize = 250;
/// Words that are kept for later.
const RESERVED: &[&str] = &[
    "array",
    "as",
    "break",
    "case",
    "const",
    "continue",
    "default",
    "else",
    "fallthrough",
    "float",
    "for",
    "func",
    "function",
    "goto",
    "if",
    "import",
    "in",
    "int",
    "let",
    "loop",
    "map",
    "namespace",
    "number",
    "object",
    "package",
    "range",
    "return",
    "string",
    "struct",
    "switch",
    "type",
    "var",
    "void",
    "while",
];
/// Operators between two values, those that bind least first; of two with one beginning the longer first.
const BINARY: [&[&str]; 5] = [&["||"], &["&&"], &["==", "!=", "<=", ">=", "<", ">"], &["+", "-"], &["*", "/", "%"]];

/// A piece of a text.
#[derive(Debug)]
pub enum Part {
    Literal(String),
    Expression(Expression),
}

/// Something with a value.
#[derive(Debug)]
pub enum Expression {
    Literal(Value),
    Template(Vec<Part>),
    Name(String),
    Array(Vec<Expression>),
    Object(Vec<(Expression, Expression)>),
    Property(Box<Expression>, Box<Expression>),
    Call(String, Vec<Expression>),
    Unary(char, Box<Expression>),
    Binary(&'static str, Box<Expression>, Box<Expression>),
}

/// A text with expressions in it.
pub fn template(text: &str) -> Result<Vec<Part>, MoaError> {
    let mut parser = Parser { rest: text, depth: 0, links: 0 };
    let mut parts = Vec::new();
    while let Some(at) = parser.rest.find("${{") {
        let (before, after) = parser.rest.split_at(at);
        parser.rest = &after[3..];
        if let Some(before) = before.strip_suffix('\\') {
            parts.push(Part::Literal(format!("{before}${{{{")));
            continue;
        }
        parts.push(Part::Literal(before.to_owned()));
        (parser.depth, parser.links) = (0, 0);
        parts.push(Part::Expression(parser.enclosed()?));
    }
    parts.push(Part::Literal(parser.rest.to_owned()));
    Ok(parts)
}

struct Parser<'t> {
    rest: &'t str,
    depth: usize,
    links: usize,
}

impl<'t> Parser<'t> {
    /// An expression and the `}}` behind it.
    fn enclosed(&mut self) -> Result<Expression, MoaError> {
        let expression = self.expression()?;
        self.expect("}}")?;
        Ok(expression)
    }

    fn expression(&mut self) -> Result<Expression, MoaError> {
        self.binary(0)
    }

    fn binary(&mut self, level: usize) -> Result<Expression, MoaError> {
        let Some(operators) = BINARY.get(level) else { return self.unary() };
        let mut left = self.binary(level + 1)?;
        while let Some(operator) = operators.iter().find(|operator| self.take(operator)) {
            self.link()?;
            let right = self.binary(level + 1)?;
            left = Expression::Binary(operator, Box::new(left), Box::new(right));
        }
        Ok(left)
    }

    fn unary(&mut self) -> Result<Expression, MoaError> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err(MoaError::Syntax(format!("an expression is nested more than {DEEPEST} deep")));
        }
        let operator = ['+', '-', '!'].into_iter().find(|operator| self.take(operator.encode_utf8(&mut [0; 4])));
        let expression = match operator {
            Some(operator) => Expression::Unary(operator, Box::new(self.unary()?)),
            None => self.postfix()?,
        };
        self.depth -= 1;
        Ok(expression)
    }

    fn postfix(&mut self) -> Result<Expression, MoaError> {
        let mut value = self.primary()?;
        loop {
            if self.take(".") {
                self.link()?;
                let name = self.word().ok_or_else(|| self.expected("a name"))?;
                let name = Expression::Literal(Value::String(name.to_owned()));
                value = Expression::Property(Box::new(value), Box::new(name));
            } else if self.take("[") {
                self.link()?;
                let key = self.expression()?;
                self.expect("]")?;
                value = Expression::Property(Box::new(value), Box::new(key));
            } else {
                return Ok(value);
            }
        }
    }

    fn link(&mut self) -> Result<(), MoaError> {
        self.links += 1;
        if self.links > MOST_LINKS {
            return Err(MoaError::Syntax(format!("an expression has more than {MOST_LINKS} parts")));
        }
        Ok(())
    }

    fn primary(&mut self) -> Result<Expression, MoaError> {
        self.skip();
        match self.rest.chars().next() {
            Some('(') => {
                self.take("(");
                let inner = self.expression()?;
                self.expect(")")?;
                Ok(inner)
            }
            Some('[') => {
                self.take("[");
                Ok(Expression::Array(self.list("]", Self::expression)?))
            }
            Some('{') => {
                self.take("{");
                Ok(Expression::Object(self.list("}", Self::pair)?))
            }
            Some('"') => self.template_string(),
            Some('\'') => self.raw_string(),
            Some(digit) if digit.is_ascii_digit() => self.number(),
            _ => self.named(),
        }
    }

    /// What stands between commas up to `end`; one may stand behind the last.
    fn list<T>(&mut self, end: &str, one: impl Fn(&mut Self) -> Result<T, MoaError>) -> Result<Vec<T>, MoaError> {
        let mut list = Vec::new();
        while !self.take(end) {
            list.push(one(self)?);
            if !self.take(",") {
                self.expect(end)?;
                break;
            }
        }
        Ok(list)
    }

    fn pair(&mut self) -> Result<(Expression, Expression), MoaError> {
        let key = match self.word() {
            Some(name) => Expression::Literal(Value::String(name.to_owned())),
            None => self.primary()?,
        };
        self.expect(":")?;
        Ok((key, self.expression()?))
    }

    fn named(&mut self) -> Result<Expression, MoaError> {
        let name = self.word().ok_or_else(|| self.expected("a value"))?;
        match name {
            "null" => return Ok(Expression::Literal(Value::Null)),
            "true" | "false" => return Ok(Expression::Literal(Value::Bool(name == "true"))),
            _ if RESERVED.contains(&name) => return Err(MoaError::Syntax(format!("\"{name}\" is reserved"))),
            _ => {}
        }
        if self.take("(") {
            return Ok(Expression::Call(name.to_owned(), self.list(")", Self::expression)?));
        }
        Ok(Expression::Name(name.to_owned()))
    }

    fn number(&mut self) -> Result<Expression, MoaError> {
        let mut end = 0;
        let bytes = self.rest.as_bytes();
        while let Some(byte) = bytes.get(end) {
            let of_exponent = matches!(byte, b'+' | b'-') && end > 0 && matches!(bytes[end - 1], b'e' | b'E');
            if !(byte.is_ascii_alphanumeric() || *byte == b'.' || of_exponent) {
                break;
            }
            end += 1;
        }
        let (digits, rest) = self.rest.split_at(end);
        let number = digits.parse().map_err(|_| MoaError::Syntax(format!("{digits:?} is no number")))?;
        self.rest = rest;
        Ok(Expression::Literal(Value::Number(number)))
    }

    /// In single quotes: nothing but the two escapes means anything.
    fn raw_string(&mut self) -> Result<Expression, MoaError> {
        self.rest = &self.rest[1..];
        let mut text = String::new();
        loop {
            match self.next()? {
                '\'' => return Ok(Expression::Literal(Value::String(text))),
                '\\' => match self.next()? {
                    escaped @ ('\\' | '\'') => text.push(escaped),
                    other => return Err(MoaError::Syntax(format!("unknown escape \\{other} in single quotes"))),
                },
                other => text.push(other),
            }
        }
    }

    /// In double quotes: a text with expressions.
    fn template_string(&mut self) -> Result<Expression, MoaError> {
        self.rest = &self.rest[1..];
        let (mut parts, mut text) = (Vec::new(), String::new());
        loop {
            if let Some(rest) = self.rest.strip_prefix("\\${{") {
                text.push_str("${{");
                self.rest = rest;
            } else if let Some(rest) = self.rest.strip_prefix("${{") {
                self.rest = rest;
                parts.push(Part::Literal(std::mem::take(&mut text)));
                parts.push(Part::Expression(self.enclosed()?));
            } else {
                match self.next()? {
                    '"' => break,
                    '\\' => text.push(self.escape()?),
                    other => text.push(other),
                }
            }
        }
        if parts.is_empty() {
            return Ok(Expression::Literal(Value::String(text)));
        }
        parts.push(Part::Literal(text));
        Ok(Expression::Template(parts))
    }

    fn escape(&mut self) -> Result<char, MoaError> {
        Ok(match self.next()? {
            plain @ ('\\' | '"' | '/') => plain,
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'a' => '\x07',
            'b' => '\x08',
            'f' => '\x0c',
            'v' => '\x0b',
            'u' => {
                let digits = self.rest.get(..4).unwrap_or_default();
                let code = u32::from_str_radix(digits, 16).ok().and_then(char::from_u32);
                let code = code.ok_or_else(|| MoaError::Syntax(format!("\\u{digits} is no character")))?;
                self.rest = &self.rest[4..];
                code
            }
            other => return Err(MoaError::Syntax(format!("unknown escape \\{other}"))),
        })
    }

    fn next(&mut self) -> Result<char, MoaError> {
        let next = self.rest.chars().next().ok_or_else(|| MoaError::Syntax("a string without its end".to_owned()))?;
        self.rest = &self.rest[next.len_utf8()..];
        Ok(next)
    }

    /// The name at this place.
    fn word(&mut self) -> Option<&'t str> {
        self.skip();
        let length = self.rest.bytes().take_while(|byte| byte.is_ascii_alphanumeric() || *byte == b'_').count();
        if length == 0 || self.rest.as_bytes()[0].is_ascii_digit() {
            return None;
        }
        let (word, rest) = self.rest.split_at(length);
        self.rest = rest;
        Some(word)
    }

    fn skip(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn take(&mut self, token: &str) -> bool {
        self.skip();
        let rest = self.rest.strip_prefix(token);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn expect(&mut self, token: &str) -> Result<(), MoaError> {
        if self.take(token) { Ok(()) } else { Err(self.expected(token)) }
    }

    fn expected(&self, what: &str) -> MoaError {
        let place: String = self.rest.chars().take(20).collect();
        let place = if place.is_empty() { "the end".to_owned() } else { format!("\"{place}\"") };
        MoaError::Syntax(format!("expected {what} at {place}"))
    }
}
