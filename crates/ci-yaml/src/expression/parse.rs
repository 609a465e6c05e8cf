//! From text to an expression.

use super::{Expression, compile_pattern};

/// Words of one expression, as in GitLab.
const MOST_WORDS: usize = 100;

/// What is wrong with an expression, and at which bytes of it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Mistake {
    pub start: usize,
    pub end: usize,
    pub message: String,
}

#[derive(Clone, Debug)]
enum Word {
    Value(Expression),
    Open,
    Close,
    Equal,
    NotEqual,
    Matches,
    NotMatches,
    And,
    Or,
}

struct Token {
    word: Word,
    start: usize,
    end: usize,
}

/// Reads an expression.
pub(crate) fn parse(text: &str) -> Result<Expression, Mistake> {
    let tokens = split(text)?;
    let mut parser = Parser { tokens: &tokens, at: 0, end: text.len() };
    let expression = parser.either()?;
    match parser.tokens.get(parser.at) {
        Some(token) => Err(token.mistake("this does not belong here")),
        None => Ok(expression),
    }
}

impl Token {
    fn mistake(&self, message: &str) -> Mistake {
        Mistake { start: self.start, end: self.end, message: message.to_owned() }
    }
}

fn split(text: &str) -> Result<Vec<Token>, Mistake> {
    let mut tokens = Vec::new();
    let mut at = 0;
    loop {
        at += text[at..].len() - text[at..].trim_start().len();
        if at == text.len() {
            return Ok(tokens);
        }
        let (word, length) = word(text, at)?;
        tokens.push(Token { word, start: at, end: at + length });
        at += length;
        if tokens.len() > MOST_WORDS {
            let message = format!("an expression has at most {MOST_WORDS} words");
            return Err(Mistake { start: at - length, end: at, message });
        }
    }
}

fn word(text: &str, at: usize) -> Result<(Word, usize), Mistake> {
    let rest = &text[at..];
    let fixed = [
        ("(", Word::Open),
        (")", Word::Close),
        ("==", Word::Equal),
        ("!=", Word::NotEqual),
        ("=~", Word::Matches),
        ("!~", Word::NotMatches),
        ("&&", Word::And),
        ("||", Word::Or),
    ];
    if let Some((sign, word)) = fixed.into_iter().find(|(sign, _)| rest.starts_with(sign)) {
        return Ok((word, sign.len()));
    }
    let first = rest.chars().next().unwrap_or(' ');
    match first {
        '$' => variable(rest, at),
        '"' | '\'' => match rest[1..].find(first) {
            Some(length) => Ok((Word::Value(Expression::Text(rest[1..=length].to_owned())), length + 2)),
            None => Err(Mistake { start: at, end: text.len(), message: "this string has no end".to_owned() }),
        },
        '/' => pattern(rest, at),
        _ if rest.starts_with("null") => Ok((Word::Value(Expression::Null), 4)),
        _ => {
            let end = rest.find(|one: char| one.is_whitespace() || "()=!&|".contains(one)).unwrap_or(rest.len());
            let end = end.max(first.len_utf8());
            let message = match first {
                '=' => "compare with `==`".to_owned(),
                '&' | '|' => format!("write `{first}{first}`"),
                '!' => "there is no negation: compare with `!=`, `!~` or `== null`".to_owned(),
                _ => format!("`{}` is neither a `$variable`, a \"string\" nor a /pattern/", &rest[..end]),
            };
            Err(Mistake { start: at, end: at + end, message })
        }
    }
}

fn variable(rest: &str, at: usize) -> Result<(Word, usize), Mistake> {
    let length = rest[1..].bytes().take_while(|byte| byte.is_ascii_alphanumeric() || *byte == b'_').count();
    if length == 0 {
        let message = match rest[1..].starts_with('{') {
            true => "GitLab takes no `${NAME}` here: write `$NAME`",
            false => "a `$` is followed by a name",
        };
        return Err(Mistake { start: at, end: at + 1, message: message.to_owned() });
    }
    Ok((Word::Value(Expression::Variable(rest[1..=length].to_owned())), length + 1))
}

fn pattern(rest: &str, at: usize) -> Result<(Word, usize), Mistake> {
    let mut escaped = false;
    let close = rest[1..].char_indices().find(|&(_, one)| {
        let ends = one == '/' && !escaped;
        escaped = one == '\\' && !escaped;
        ends
    });
    let Some((body, _)) = close else {
        return Err(Mistake { start: at, end: at + rest.len(), message: "this pattern has no closing `/`".to_owned() });
    };
    if rest[1..=body].chars().count() < 2 {
        let message = "GitLab takes no pattern of a single character: write it as `/[a]/`".to_owned();
        return Err(Mistake { start: at, end: at + body + 2, message });
    }
    let flags = rest[body + 2..].bytes().take_while(|byte| b"ismU".contains(byte)).count();
    let length = body + 2 + flags;
    match compile_pattern(&rest[1..=body], &rest[body + 2..length]) {
        Ok(pattern) => Ok((Word::Value(Expression::Pattern(pattern)), length)),
        Err(error) => {
            let reason = match error {
                regex::Error::CompiledTooBig(_) => "it is too large".to_owned(),
                error => error.to_string().lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned(),
            };
            Err(Mistake { start: at, end: at + length, message: format!("this pattern is not valid: {reason}") })
        }
    }
}

struct Parser<'t> {
    tokens: &'t [Token],
    at: usize,
    end: usize,
}

impl Parser<'_> {
    fn take(&mut self, wanted: fn(&Word) -> bool) -> bool {
        let found = self.tokens.get(self.at).is_some_and(|token| wanted(&token.word));
        if found {
            self.at += 1;
        }
        found
    }

    fn either(&mut self) -> Result<Expression, Mistake> {
        let mut left = self.both()?;
        while self.take(|word| matches!(word, Word::Or)) {
            left = Expression::Or(Box::new(left), Box::new(self.both()?));
        }
        Ok(left)
    }

    fn both(&mut self) -> Result<Expression, Mistake> {
        let mut left = self.comparison()?;
        while self.take(|word| matches!(word, Word::And)) {
            left = Expression::And(Box::new(left), Box::new(self.comparison()?));
        }
        Ok(left)
    }

    fn comparison(&mut self) -> Result<Expression, Mistake> {
        let mut left = self.value()?;
        loop {
            let make = match self.tokens.get(self.at).map(|token| &token.word) {
                Some(Word::Equal) => Expression::Equal,
                Some(Word::NotEqual) => Expression::NotEqual,
                Some(Word::Matches) => Expression::Matches,
                Some(Word::NotMatches) => Expression::NotMatches,
                _ => return Ok(left),
            };
            let sign = self.at;
            self.at += 1;
            let right = self.value()?;
            let patterns = matches!(self.tokens[sign].word, Word::Matches | Word::NotMatches);
            if patterns && !matches!(right, Expression::Pattern(_) | Expression::Variable(_)) {
                return Err(
                    self.tokens[sign + 1].mistake("right of `=~` and `!~` stands a /pattern/ or a variable that holds one")
                );
            }
            left = make(Box::new(left), Box::new(right));
        }
    }

    fn value(&mut self) -> Result<Expression, Mistake> {
        let Some(token) = self.tokens.get(self.at) else {
            return Err(Mistake {
                start: self.end.saturating_sub(1),
                end: self.end,
                message: "the expression breaks off here".to_owned(),
            });
        };
        self.at += 1;
        match &token.word {
            Word::Value(value) => Ok(value.clone()),
            Word::Open => {
                let inner = self.either()?;
                if self.take(|word| matches!(word, Word::Close)) {
                    Ok(inner)
                } else {
                    Err(token.mistake("this parenthesis is not closed"))
                }
            }
            _ => Err(token.mistake("a value is missing before this")),
        }
    }
}
