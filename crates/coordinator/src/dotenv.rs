//! Dotenv reports: variables that a job leaves for later jobs.
//!
//! GitLab's rules: `KEY=VALUE` on every line, 5 KB, 50 variables; a report that breaks one is refused whole.

use crate::Error;
use flate2::read::MultiGzDecoder;
use job::JobId;
use rusqlite::{Connection, params};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// The type of such an archive.
pub const KIND: &str = "dotenv";
const MOST_BYTES: u64 = 5 * 1024;
const MOST_VARIABLES: usize = 50;

/// A variable of a report.
pub type Pair = (String, String);

/// Reads the report that a runner sent.
///
/// # Errors
/// What is wrong with it, in GitLab's words.
pub fn read(path: &Path) -> Result<Vec<Pair>, &'static str> {
    let mut text = String::new();
    let file = File::open(path).map_err(|_| "400 Bad Request - the report cannot be read")?;
    let taken = MultiGzDecoder::new(file).take(MOST_BYTES + 1).read_to_string(&mut text);
    taken.map_err(|_| "400 Bad Request - Invalid Format")?;
    if text.len() as u64 > MOST_BYTES {
        return Err("400 Bad Request - Dotenv Artifact Too Big. Maximum Allowable Size: 5120");
    }
    parse(&text)
}

fn parse(text: &str) -> Result<Vec<Pair>, &'static str> {
    let pairs: Option<Vec<_>> = text.lines().map(pair).collect();
    let pairs = pairs.ok_or("400 Bad Request - Invalid Format")?;
    if pairs.len() > MOST_VARIABLES {
        return Err("400 Bad Request - Dotenv files cannot have more than 50 variables");
    }
    Ok(pairs)
}

fn pair(line: &str) -> Option<Pair> {
    let (key, value) = line.split_once('=')?;
    let key = key.trim();
    let good = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    good.then(|| (key.to_owned(), value.trim().to_owned()))
}

/// Keeps the report of a job in place of an earlier one.
///
/// # Errors
/// When the state cannot be written.
pub fn keep(db: &Connection, job: JobId, pairs: &[Pair]) -> Result<(), Error> {
    let doing = || Error::store("write a dotenv report");
    db.execute("DELETE FROM dotenv WHERE job = ?1", [job]).map_err(doing())?;
    for (position, (key, value)) in pairs.iter().enumerate() {
        let insert = "INSERT INTO dotenv (job, position, key, value) VALUES (?1, ?2, ?3, ?4)";
        db.prepare_cached(insert)
            .and_then(|mut statement| statement.execute(params![job, position as u64, key, value]))
            .map_err(doing())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn a_report_has_a_variable_on_every_line_or_is_refused() {
        let pairs = parse("A=1\nB = two = 2 \nC=\"quoted\"\r\nD=\n").unwrap();
        let expected = [("A", "1"), ("B", "two = 2"), ("C", "\"quoted\""), ("D", "")];
        assert_eq!(pairs, expected.map(|(key, value)| (key.to_owned(), value.to_owned())));
        assert_eq!(parse(""), Ok(Vec::new()));
        for bad in ["A=1\n\nB=2", "# comment", "A-B=1", "=1", &"A=1\n".repeat(51)] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
