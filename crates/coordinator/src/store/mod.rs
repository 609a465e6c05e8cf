//! The database: one SQLite file, one writer, numbered migrations.
//!
//! WAL with `synchronous=NORMAL`: a killed process loses nothing that was committed, and a crash of the machine at
//! most the last moments, never consistency.

pub mod rows;

use crate::Error;
use rusqlite::Connection;
use std::path::Path;

/// Each step brings `user_version` up by one; steps that were released are never edited.
const MIGRATIONS: &[&str] = &[include_str!("0001_begin.sql"), include_str!("0002_dotenv.sql")];

/// Opens the database of `directory` and brings it up to date.
///
/// # Errors
/// When it cannot be opened, or is newer than this program.
pub fn open(directory: &Path) -> Result<Connection, Error> {
    let mut connection = Connection::open(directory.join("coordinator.sqlite")).map_err(Error::store("open the state"))?;
    let set_up = "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA foreign_keys=ON; PRAGMA busy_timeout=5000;";
    connection.execute_batch(set_up).map_err(Error::store("set up the state"))?;
    connection.set_prepared_statement_cache_capacity(64);
    migrate(&mut connection, directory)?;
    Ok(connection)
}

fn migrate(connection: &mut Connection, directory: &Path) -> Result<(), Error> {
    let doing = "bring the state up to date";
    let step = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate).map_err(Error::store(doing))?;
    let found: i64 = step.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(Error::store(doing))?;
    let known = MIGRATIONS.len() as i64;
    if found > known {
        return Err(Error::Newer { directory: directory.display().to_string(), found, known });
    }
    for migration in &MIGRATIONS[usize::try_from(found).unwrap_or(0)..] {
        step.execute_batch(migration).map_err(Error::store(doing))?;
    }
    step.pragma_update(None, "user_version", known).map_err(Error::store(doing))?;
    step.commit().map_err(Error::store(doing))
}

#[cfg(test)]
mod tests {
    use crate::Error;

    #[test]
    fn a_state_opens_again_and_a_newer_one_is_refused() {
        let place = tempfile::tempdir().unwrap();
        drop(super::open(place.path()).unwrap());
        let connection = super::open(place.path()).unwrap();
        connection.pragma_update(None, "user_version", 99).unwrap();
        drop(connection);
        assert!(matches!(super::open(place.path()), Err(Error::Newer { found: 99, .. })));
    }
}
