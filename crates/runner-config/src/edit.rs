//! Changes of the file that a program makes: what it does not change stays as the user wrote it.

use toml_edit::{DocumentMut, Item, Value};

/// Why a file is left as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EditError {
    /// It is not TOML.
    #[error("the file is not valid TOML")]
    NotToml,
    /// There are no such entries.
    #[error("the file has no such [[runners]] entry")]
    NoEntry,
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

/// The editor ends each line with `\n`.
fn with_line_ends_of(text: &str, edited: String) -> String {
    if text.contains("\r\n") { edited.replace("\r\n", "\n").replace('\n', "\r\n") } else { edited }
}

#[cfg(test)]
mod tests {
    use super::{EditError, without};

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
}
