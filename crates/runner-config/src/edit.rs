//! Changes of the file that a program makes: what it does not change stays as the user wrote it.

use std::ops::Range;
use toml_edit::{DocumentMut, Item, Value};

/// GitLab Runner's time for what never ends: the zero of Go.
const NEVER: &str = "0001-01-01T00:00:00Z";

/// Why a file is left as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EditError {
    /// It is not TOML.
    #[error("the file is not valid TOML")]
    NotToml,
    /// There are no such entries.
    #[error("the file has no such [[runners]] entry")]
    NoEntry,
    /// A time that GitLab gave.
    #[error("a time is not written as in RFC 3339")]
    Time,
    /// What would be written does not say what it should.
    #[error("the [[runners]] entries are written in a way that cannot be changed for sure")]
    Unclear,
}

/// The file without some of its `[[runners]]` entries, counted from 0; comments above an entry go with it.
///
/// # Errors
/// When there is no such entry.
pub fn without(text: &str, entries: &[usize]) -> Result<String, EditError> {
    let mut document: DocumentMut = text.parse().map_err(|_| EditError::NotToml)?;
    let mut entries = entries.to_vec();
    entries.sort_unstable_by(|one, other| other.cmp(one));
    entries.dedup();
    for entry in entries {
        match document.get_mut("runners") {
            Some(Item::ArrayOfTables(tables)) if entry < tables.len() => {
                tables.remove(entry);
            }
            Some(Item::Value(Value::Array(tables))) if entry < tables.len() => {
                tables.remove(entry);
            }
            _ => return Err(EditError::NoEntry),
        }
    }
    Ok(with_line_ends_of(text, document.to_string()))
}

/// The file with one more `[[runners]]` entry at its end.
///
/// # Errors
/// When its entries are written in a way that nothing can be added to at the end.
pub fn with_entry(text: &str, entry: &toml::Table) -> Result<String, EditError> {
    let entries = toml::Table::from_iter([("runners".to_owned(), toml::Value::Array(vec![entry.clone().into()]))]);
    let added = toml::to_string(&entries).map_err(|_| EditError::Unclear)?;
    let gap = match text {
        "" => "",
        text if text.ends_with('\n') => "\n",
        _ => "\n\n",
    };
    let edited = format!("{text}{}", with_line_ends_of(text, format!("{gap}{added}")));
    let mut expected = means(text)?;
    let all = expected.entry("runners").or_insert_with(|| toml::Value::Array(Vec::new()));
    all.as_array_mut().ok_or(EditError::Unclear)?.push(entry.clone().into());
    if means(&edited)? == expected { Ok(edited) } else { Err(EditError::Unclear) }
}

/// A token in the place of another, with times in RFC 3339.
pub struct NewToken<'a> {
    /// The token.
    pub token: &'a str,
    /// When it was handed out.
    pub obtained_at: &'a str,
    /// When it ends; never when empty.
    pub expires_at: &'a str,
}

/// The file with another token in some of its `[[runners]]` entries, counted from 0. Every other byte stays.
///
/// # Errors
/// When there is no such entry, or its token stands where it cannot be replaced for sure.
pub fn with_token(text: &str, entries: &[usize], new: &NewToken<'_>) -> Result<String, EditError> {
    let document = toml_edit::Document::parse(text).map_err(|_| EditError::NotToml)?;
    let values = new.values()?;
    let mut changes = Vec::new();
    for &entry in entries {
        let item = document.get("runners").and_then(|runners| runners.get(entry)).ok_or(EditError::NoEntry)?;
        let span = |key: &str| item.get(key).and_then(toml_edit::Item::span);
        let token = span("token").ok_or(EditError::NoEntry)?;
        for (key, value) in &values {
            changes.push(match span(key) {
                Some(span) => (span, value.to_string()),
                None => addition(text, token.end, &format!("{key} = {value}")),
            });
        }
    }
    // Stable: what is added at one place stays in its order.
    changes.sort_by_key(|(span, _)| span.start);
    let (mut edited, mut at) = (String::new(), 0);
    for (span, new) in changes {
        edited.push_str(text.get(at..span.start).ok_or(EditError::Unclear)?);
        edited.push_str(&new);
        at = span.end;
    }
    edited.push_str(text.get(at..).ok_or(EditError::Unclear)?);
    if means(&edited)? == expected(text, entries, &values)? { Ok(edited) } else { Err(EditError::Unclear) }
}

impl NewToken<'_> {
    fn values(&self) -> Result<[(&'static str, toml::Value); 3], EditError> {
        let date = |text: &str| text.parse().map(toml::Value::Datetime).map_err(|_| EditError::Time);
        let expires_at = if self.expires_at.is_empty() { NEVER } else { self.expires_at };
        Ok([
            ("token", self.token.into()),
            ("token_obtained_at", date(self.obtained_at)?),
            ("token_expires_at", date(expires_at)?),
        ])
    }
}

/// Where a key goes that is not there yet: on a line of its own, as the line of the token is; in an inline table beside it.
fn addition(text: &str, token_end: usize, pair: &str) -> (Range<usize>, String) {
    let line = text[..token_end].rfind('\n').map_or(0, |at| at + 1);
    let rest = text[token_end..].find('\n').map_or(text.len(), |at| token_end + at);
    let behind = text[token_end..rest].trim();
    if !behind.is_empty() && !behind.starts_with('#') {
        return (token_end..token_end, format!(", {pair}"));
    }
    let indent: String = text[line..].chars().take_while(|one| matches!(one, ' ' | '\t')).collect();
    let (end, line_end) = if text[..rest].ends_with('\r') { (rest - 1, "\r\n") } else { (rest, "\n") };
    (end..end, format!("{line_end}{indent}{pair}"))
}

fn means(text: &str) -> Result<toml::Table, EditError> {
    text.parse().map_err(|_| EditError::Unclear)
}

/// What the file has to say afterwards.
fn expected(text: &str, entries: &[usize], values: &[(&str, toml::Value)]) -> Result<toml::Table, EditError> {
    let mut table = means(text)?;
    for &entry in entries {
        let runner = table.get_mut("runners").and_then(|runners| runners.get_mut(entry)).and_then(toml::Value::as_table_mut);
        let runner = runner.ok_or(EditError::NoEntry)?;
        runner.extend(values.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
    }
    Ok(table)
}

/// The editor ends each line with `\n`.
fn with_line_ends_of(text: &str, edited: String) -> String {
    if text.contains("\r\n") { edited.replace("\r\n", "\n").replace('\n', "\r\n") } else { edited }
}

#[cfg(test)]
mod tests {
    use super::{EditError, NewToken, with_entry, with_token, without};

    #[test]
    fn an_entry_goes_with_all_its_tables_and_the_rest_stays_byte_for_byte() {
        let entry = |name: &str| {
            format!(
                "# about {name}\n[[runners]]\n  name = '{name}' # why\n  [runners.kubernetes]\n    image='a'\n[[runners.kubernetes.pod_spec]]\nname = 'x'\n\n"
            )
        };
        let (head, tail) = ("# top\nconcurrent=3   # three\n\n", "[gantry]\nshared_limits = true\n");
        let file = |names: &[&str]| format!("{head}{}{tail}", names.iter().map(|name| entry(name)).collect::<String>());
        let whole = file(&["a", "b", "c"]);
        for (entries, left) in [(vec![], vec!["a", "b", "c"]), (vec![1], vec!["a", "c"]), (vec![0, 2, 0], vec!["b"])] {
            assert_eq!(without(&whole, &entries).unwrap(), file(&left), "{entries:?}");
            let other_system = whole.replace('\n', "\r\n");
            assert_eq!(without(&other_system, &entries).unwrap(), file(&left).replace('\n', "\r\n"), "{entries:?}");
        }
        let none = without(&whole, &[0, 1, 2]).unwrap();
        assert!(none.starts_with(head) && none.ends_with(tail) && !none.contains("[[runners]]"), "{none}");
    }

    #[test]
    fn a_file_without_the_entry_is_left_as_it_is() {
        assert_eq!(without("[[runners]]\n", &[1]), Err(EditError::NoEntry));
        assert_eq!(without("concurrent = 1\n", &[0]), Err(EditError::NoEntry));
        assert_eq!(without("concurrent = \n", &[0]), Err(EditError::NotToml));
        assert_eq!(without("runners = [{name = 'a'}, {name = 'b'}]\n", &[0]).unwrap(), "runners = [ {name = 'b'}]\n");
    }

    #[test]
    fn an_entry_is_added_at_the_end() {
        let entry: toml::Table = "name = 'b'\nkubernetes.image = 'i'\nenvironment = ['A=b']".parse().unwrap();
        let added = "[[runners]]\nenvironment = [\"A=b\"]\nname = \"b\"\n\n[runners.kubernetes]\nimage = \"i\"\n";
        assert_eq!(with_entry("", &entry).unwrap(), added);
        let old = "concurrent = 1\n[[runners]]\nname = 'a' # first\n[gantry]\nshared_limits = true";
        assert_eq!(with_entry(old, &entry).unwrap(), format!("{old}\n\n{added}"));
        assert_eq!(with_entry("concurrent = 1\r\n", &entry).unwrap(), format!("concurrent = 1\n\n{added}").replace('\n', "\r\n"));
        let mixed = "a = 1\nb = 2\r\n";
        assert!(with_entry(mixed, &entry).unwrap().starts_with(mixed));
        assert_eq!(with_entry("runners = []\n", &entry), Err(EditError::Unclear));
    }

    fn new<'a>(token: &'a str, expires_at: &'a str) -> NewToken<'a> {
        NewToken { token, obtained_at: "2030-01-01T00:00:00Z", expires_at }
    }

    #[test]
    fn another_token_leaves_every_other_byte_as_it_was() {
        let old = "# 'token' = \"no\"\r\n[[runners]]\n  Name = 'a'\n\ttoken='old'   # ours\n  url = \"u\"\n\n[[runners]]\r\ntoken = \"\"\"o\\u006cd\"\"\"\r\n\
                   token_expires_at = 2030-01-02T00:00:00Z # soon\r\n[runners.kubernetes]\nimage = 'token'";
        let expected = "# 'token' = \"no\"\r\n[[runners]]\n  Name = 'a'\n\ttoken=\"new\"   # ours\n\ttoken_obtained_at = 2030-01-01T00:00:00Z\n\t\
                        token_expires_at = 2030-02-01T00:00:00.5+02:00\n  url = \"u\"\n\n[[runners]]\r\ntoken = \"new\"\r\n\
                        token_obtained_at = 2030-01-01T00:00:00Z\r\ntoken_expires_at = 2030-02-01T00:00:00.5+02:00 # soon\r\n\
                        [runners.kubernetes]\nimage = 'token'";
        assert_eq!(with_token(old, &[0, 1], &new("new", "2030-02-01T00:00:00.5+02:00")).unwrap(), expected);
        let once = with_token(old, &[1], &new("new", "")).unwrap();
        assert!(once.contains("token='old'") && once.contains("token_expires_at = 0001-01-01T00:00:00Z # soon"), "{once}");
    }

    #[test]
    fn a_token_is_replaced_wherever_it_can_stand() {
        for (old, expected) in [
            (
                "runners = [{token = 'a', url = 'u'}]",
                "runners = [{token = \"n\", token_obtained_at = 2030-01-01T00:00:00Z, token_expires_at = 0001-01-01T00:00:00Z, url = 'u'}]",
            ),
            (
                "[[runners]]\ntoken = 'a'",
                "[[runners]]\ntoken = \"n\"\ntoken_obtained_at = 2030-01-01T00:00:00Z\ntoken_expires_at = 0001-01-01T00:00:00Z",
            ),
        ] {
            assert_eq!(with_token(old, &[0], &new("n", "")).as_deref(), Ok(expected));
        }
        let strange = with_token("[[runners]]\ntoken = 'a'\n", &[0], &new("a\"\\\n", "")).unwrap();
        assert_eq!(strange.parse::<toml::Table>().unwrap()["runners"][0]["token"].as_str(), Some("a\"\\\n"));
    }

    #[test]
    fn what_cannot_be_replaced_for_sure_is_left_alone() {
        for (text, error) in [
            ("[[runners]]\nname = 'a'\n", EditError::NoEntry),
            ("token = 'a'\n", EditError::NoEntry),
            ("[[runners]\n", EditError::NotToml),
            // A line of its own in an inline table needs a comma.
            ("runners = [{\n  token = 'a'\n}]\n", EditError::Unclear),
        ] {
            assert_eq!(with_token(text, &[0], &new("n", "")), Err(error), "{text}");
        }
        assert_eq!(with_token("[[runners]]\ntoken = 'a'\n", &[0], &new("n", "tomorrow")), Err(EditError::Time));
    }
}
