//! The forms in which secrets get into logs by accident: base64, URL-encoded, JSON-escaped.
//!
//! GitLab masks a value only as it is. A header of HTTP basic authentication, a URL with a password or a JSON body in
//! a debug log shows it all the same, so these are masked too, unless `mask_encodings` is off.
//!
//! In base64 a value looks different by where it begins in the text around it: three bytes become four characters. So
//! there are three forms, each without the characters that depend on the neighbours.

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use std::collections::BTreeSet;

/// GitLab masks no shorter values, and the encoded pieces of shorter ones stand in logs by chance.
const SHORTEST: usize = 8;
/// Where tools break lines of base64: `base64` and MIME, `openssl`.
const LINES: [usize; 2] = [76, 64];
/// The shortest piece of a broken line that is worth to be hidden.
const SHORTEST_PIECE: usize = 8;
const UNRESERVED: &[u8] = b"-._~";

/// Every other form of a value.
pub fn of(value: &[u8]) -> Vec<Vec<u8>> {
    if value.len() < SHORTEST {
        return Vec::new();
    }
    let mut forms = BTreeSet::new();
    forms.extend(base64(value));
    forms.extend(urls(value));
    if let Ok(text) = std::str::from_utf8(value) {
        forms.extend(json(text));
    }
    forms.remove(value);
    forms.into_iter().collect()
}

fn base64(value: &[u8]) -> Vec<Vec<u8>> {
    let mut forms = Vec::new();
    for before in 0..3 {
        let around = [&vec![0; before][..], value].concat();
        let text = STANDARD_NO_PAD.encode(&around);
        // Whole characters of ours: six bits each.
        let (from, to) = ((before * 8).div_ceil(6), around.len() * 8 / 6);
        forms.push(text.as_bytes()[from..to].to_vec());
        if before == 0 {
            let broken = LINES.iter().flat_map(|line| forms[0].chunks(*line)).filter(|piece| piece.len() >= SHORTEST_PIECE);
            let broken: Vec<_> = broken.map(<[u8]>::to_vec).collect();
            forms.extend(broken);
        }
    }
    let url_safe = |form: &Vec<u8>| {
        form.iter().map(|byte| [*byte, b'-', b'_'][b"+/".iter().position(|one| one == byte).map_or(0, |at| at + 1)]).collect()
    };
    let others: Vec<Vec<u8>> = forms.iter().map(url_safe).collect();
    forms.extend(others);
    forms
}

/// What different languages leave as it is, and how they write a blank.
fn urls(value: &[u8]) -> Vec<Vec<u8>> {
    let mut forms = Vec::new();
    for kept in [&b""[..], b"!'()*", b"/", b"*"] {
        for digits in [b"0123456789ABCDEF", b"0123456789abcdef"] {
            for blank in [&b"%20"[..], b"+"] {
                let encoded = value.iter().flat_map(|byte| match byte {
                    b' ' => blank.to_vec(),
                    byte if byte.is_ascii_alphanumeric() || UNRESERVED.contains(byte) || kept.contains(byte) => vec![*byte],
                    byte => vec![b'%', digits[usize::from(byte >> 4)], digits[usize::from(byte & 15)]],
                });
                forms.push(encoded.collect());
            }
        }
    }
    forms
}

/// What different libraries escape besides what they must.
fn json(value: &str) -> Vec<Vec<u8>> {
    let plain: fn(char) -> bool = |_| false;
    let html: fn(char) -> bool = |letter| "<>&\u{2028}\u{2029}".contains(letter);
    let ascii: fn(char) -> bool = |letter| !letter.is_ascii();
    let mut forms: Vec<String> = [plain, html, ascii].iter().map(|more| escaped(value, *more)).collect();
    // PHP escapes slashes.
    let slashes: Vec<_> = forms.iter().map(|form| form.replace('/', "\\/")).collect();
    forms.extend(slashes);
    // A JSON text within a JSON text.
    forms.push(escaped(&forms[0], plain));
    forms.into_iter().map(String::into_bytes).collect()
}

fn escaped(value: &str, more: fn(char) -> bool) -> String {
    let mut out = String::with_capacity(value.len());
    for letter in value.chars() {
        match letter {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            letter if letter.is_control() || more(letter) => {
                letter.encode_utf16(&mut [0; 2]).iter().for_each(|unit| out.push_str(&format!("\\u{unit:04x}")));
            }
            letter => out.push(letter),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::of;
    use crate::masker::Masker;
    use crate::patterns::Patterns;
    use base64::Engine;
    use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
    use std::sync::Arc;

    fn masked(value: &str, text: &str) -> String {
        let values = of(value.as_bytes()).into_iter().chain([value.as_bytes().to_vec()]);
        let mut masker = Masker::new(Arc::new(Patterns::new(values, [])));
        let mut out = Vec::new();
        masker.push(text.as_bytes(), &mut out);
        masker.finish(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn base64_is_masked_wherever_the_value_stands_in_the_text_around_it() {
        let value = "p4ss~word?>>ÿÿ";
        for before in ["", "u", "us", "use", "user:"] {
            for after in ["", "x", "xy", "\n"] {
                for engine in [&STANDARD, &URL_SAFE_NO_PAD] {
                    let text = engine.encode(format!("{before}{value}{after}"));
                    let shown = masked(value, &text);
                    assert!(shown.contains("[MASKED]"), "{before:?} {after:?}: {text} became {shown}");
                    let rest: usize = shown.split("[MASKED]").map(|part| part.trim_end_matches('=').len()).sum();
                    // What is left are the neighbours, and one character at each side that is half theirs.
                    let neighbours = (before.len() + after.len()) * 8 / 6 + 4;
                    assert!(rest <= neighbours, "{before:?} {after:?}: {text} became {shown}");
                }
            }
        }
    }

    #[test]
    fn base64_with_broken_lines_is_masked() {
        let value: String = (0..200).map(|at| char::from(b'a' + (at * 7 % 26) as u8)).collect();
        for line in [76, 64] {
            let text = STANDARD.encode(format!("{value}\n"));
            let broken: String =
                text.as_bytes().chunks(line).map(|chunk| format!("{}\n", String::from_utf8_lossy(chunk))).collect();
            let shown = masked(&value, &broken);
            let rest: usize = shown.lines().map(|shown| shown.replace("[MASKED]", "").len()).sum();
            assert!(rest <= 4, "{shown}");
        }
    }

    #[test]
    fn what_urls_and_json_make_of_a_value_is_masked() {
        let value = "a\"b\\c/d é<&> e!f";
        for text in [
            "a%22b%5Cc%2Fd%20%C3%A9%3C%26%3E%20e%21f",
            "a%22b%5cc%2fd%20%c3%a9%3c%26%3e%20e%21f",
            "a%22b%5Cc/d%20%C3%A9%3C%26%3E%20e%21f",
            "a%22b%5Cc%2Fd+%C3%A9%3C%26%3E+e%21f",
            "a%22b%5Cc%2Fd%20%C3%A9%3C%26%3E%20e!f",
            r#"a\"b\\c/d é<&> e!f"#,
            r#"a\"b\\c/d \u00e9<&> e!f"#,
            r#"a\"b\\c/d é\u003c\u0026\u003e e!f"#,
            r#"a\"b\\c\/d é<&> e!f"#,
            r#"a\\\"b\\\\c/d é<&> e!f"#,
        ] {
            assert_eq!(masked(value, &format!("<{text}>")), "<[MASKED]>", "{text}");
        }
        assert_eq!(of(value.as_bytes()).iter().filter(|form| form.is_empty()).count(), 0);
    }

    #[test]
    fn short_values_have_no_other_forms() {
        assert!(of(b"seven77").is_empty());
        let plain = of(b"hunter22");
        assert!(plain.iter().all(|form| form.len() >= 10), "only base64 differs: {plain:?}");
    }
}
