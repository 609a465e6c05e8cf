//! Tokens that end: each is replaced when three quarters of its life are over, as GitLab Runner does.
//!
//! GitLab makes the new token when it is asked, and the old one is good for nothing from then on. So the file is locked
//! and written before GitLab is asked, and a token that cannot be written down is never replaced: its runner goes on
//! until its end. Of several managers with one file the first replaces the token and the others read it there; managers
//! with files of their own cannot know of each other's tokens, and are told to turn this off.

use crate::config_file::ConfigFile;
use anyhow::{Context, Result, bail};
use jiff::Timestamp;
use manager::Connect;
use manager::runners;
use runner_config::edit::{NewToken, with_token};
use runner_config::{Config, Runner};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// A runner with it keeps its token whatever happens.
const OFF: &str = "FF_DISABLE_AUTOMATIC_TOKEN_ROTATION";
/// GitLab Runner's word for never is the zero of its time, which is long before this.
const SOMETIME: i64 = 0;
/// After a failure the next try waits, twice as long each time.
const FIRST_PAUSE: Duration = Duration::from_secs(60);
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);
/// Between tries to write down a token that nobody else has.
const AGAIN: Duration = Duration::from_secs(3);

/// What is needed to replace tokens.
pub struct Rotation {
    path: PathBuf,
    system_id: String,
    connect: Connect,
    /// Tokens that could not be replaced: when to try again, and the pause after that.
    failed: BTreeMap<String, (Timestamp, Duration)>,
}

/// What became of a token that is to be replaced.
enum Outcome {
    Replaced,
    /// Somebody else has replaced it, or is about to.
    NotOurs,
}

impl Rotation {
    /// Of a file of manager `system_id`.
    pub fn new(path: PathBuf, system_id: String, connect: Connect) -> Self {
        Self { path, system_id, connect, failed: BTreeMap::new() }
    }

    /// Replaces the tokens whose time has come by `now`; what has changed is in the file.
    pub async fn turn(&mut self, config: &Config, now: Timestamp) {
        self.failed.retain(|token, _| config.runners.iter().any(|runner| runner.token == *token));
        let mut asked = Vec::new();
        for runner in config.runners.iter().filter(|runner| is_due(runner, now)) {
            let waits = self.failed.get(&runner.token).is_some_and(|(again, _)| *again > now);
            let key = (&runner.url, &runner.token);
            if waits || asked.contains(&key) {
                continue;
            }
            asked.push(key);
            match self.replace(runner, now).await {
                Ok(Outcome::Replaced) => {
                    tracing::info!(runner.name = runner.name, "three quarters of the token's life are over: it was replaced");
                }
                Ok(Outcome::NotOurs) => {}
                Err(error) => self.put_off(runner, now, &error),
            }
        }
    }

    fn put_off(&mut self, runner: &Runner, now: Timestamp, error: &anyhow::Error) {
        let pause = self.failed.get(&runner.token).map_or(FIRST_PAUSE, |(_, pause)| (*pause * 2).min(LONGEST_PAUSE));
        self.failed.insert(runner.token.clone(), (now + pause, pause));
        let error = format!("{error:#}");
        tracing::error!(
            runner.name = runner.name,
            ends = runner.token_expires_at,
            error,
            next_try_s = pause.as_secs(),
            "the token of this runner ends and is not replaced; {OFF} leaves that to others"
        );
    }

    async fn replace(&self, runner: &Runner, now: Timestamp) -> Result<Outcome> {
        let Some(mut file) = ConfigFile::try_open(&self.path)? else { return Ok(Outcome::NotOurs) };
        let there = parse(file.text())?;
        let is_ours = there.iter().any(|one| one.is_same(runner) && is_due(one, now));
        if !is_ours {
            return Ok(Outcome::NotOurs);
        }
        renew(&mut file, runner, &Asker { system_id: &self.system_id, connect: &self.connect, person: None }).await?;
        Ok(Outcome::Replaced)
    }
}

/// Who asks GitLab for a token.
pub struct Asker<'a> {
    /// Which manager.
    pub system_id: &'a str,
    /// How GitLab is reached.
    pub connect: &'a Connect,
    /// A person's access token, instead of the token that is replaced.
    pub person: Option<&'a str>,
}

/// Asks for another token of a runner, and writes it into its entries.
///
/// # Errors
/// When the token could not be written down, which is tried first, or GitLab gives none.
pub async fn renew(file: &mut ConfigFile, runner: &Runner, asker: &Asker<'_>) -> Result<()> {
    let there = parse(file.text())?;
    let entries: Vec<_> = there.iter().enumerate().filter(|(_, one)| one.is_same(runner)).map(|(index, _)| index).collect();
    let newest = entries.first().and_then(|first| there.get(*first)).context("the file does not have it any more")?;
    let (text, obtained_at) = (file.text().to_owned(), format!("{:.0}", Timestamp::now()));
    let with =
        |token: &str, expires_at: &str| with_token(&text, &entries, &NewToken { token, obtained_at: &obtained_at, expires_at });
    with(&newest.token, "").context("the token cannot be written")?;
    let at_gitlab = runners::Runner::of(newest, asker.system_id, env!("CARGO_PKG_VERSION"), asker.connect)?;
    let new = match asker.person {
        None => at_gitlab.reset_token().await?,
        Some(_) if newest.id == 0 => bail!("the entry has no id, which a person has to name"),
        Some(person) => at_gitlab.reset_token_as(newest.id, person).await?,
    };
    let edited = match with(&new.token, &new.token_expires_at.unwrap_or_default()) {
        Ok(edited) => edited,
        Err(error) => {
            tracing::warn!(runner.name = runner.name, %error, "GitLab did not say when the new token ends");
            with(&new.token, "").context("the token cannot be written")?
        }
    };
    let mut is_told = false;
    while let Err(error) = file.replace(edited.clone()) {
        if !std::mem::replace(&mut is_told, true) {
            tracing::error!(%error, "failed to write a new token, which nobody else has: tried until it can be written");
        }
        tokio::time::sleep(AGAIN).await;
    }
    Ok(())
}

fn parse(text: &str) -> Result<Vec<Runner>> {
    Ok(runner_config::parse(text)?.config.runners)
}

/// Whether three quarters of the life of a runner's token are over.
fn is_due(runner: &Runner, now: Timestamp) -> bool {
    if runner.feature_flags.get(OFF).copied().unwrap_or_default() {
        return false;
    }
    let second = |text: &str| text.parse::<Timestamp>().ok().map(Timestamp::as_second);
    let Some(ends) = second(&runner.token_expires_at).filter(|ends| *ends > SOMETIME) else { return false };
    let begun = second(&runner.token_obtained_at).unwrap_or(SOMETIME);
    now.as_second() >= begun + (ends - begun) / 4 * 3
}

#[cfg(test)]
mod tests {
    use super::is_due;
    use jiff::Timestamp;

    fn runner(keys: &str) -> runner_config::Runner {
        let text = format!("[[runners]]\nurl = \"http://g\"\ntoken = \"t\"\nexecutor = \"kubernetes\"\n{keys}\n");
        runner_config::parse(&text).unwrap().config.runners.remove(0)
    }

    #[test]
    fn a_token_is_due_when_three_quarters_of_its_life_are_over() {
        let life = "token_obtained_at = 2030-01-01T00:00:00Z\ntoken_expires_at = 2030-01-05T02:00:00+02:00\n";
        for (keys, now, expected) in [
            (life, "2030-01-03T23:59:59Z", false),
            (life, "2030-01-04T00:00:00Z", true),
            (life, "2031-01-01T00:00:00Z", true),
            // Without an offset it is UTC.
            (&life.replace("+02:00", "").replace('Z', ""), "2030-01-04T01:00:00Z", false),
            (&life.replace("+02:00", "").replace('Z', ""), "2030-01-04T01:30:00Z", true),
            ("", "2030-01-04T00:00:00Z", false),
            ("token_expires_at = 0001-01-01T00:00:00Z", "2030-01-04T00:00:00Z", false),
            // When it was handed out is not known: then it may be late.
            ("token_expires_at = 2060-01-01T00:00:00Z", "2059-01-01T00:00:00Z", true),
            (
                &format!("{life}[runners.feature_flags]\nFF_DISABLE_AUTOMATIC_TOKEN_ROTATION = true"),
                "2031-01-01T00:00:00Z",
                false,
            ),
        ] {
            assert_eq!(is_due(&runner(keys), now.parse::<Timestamp>().unwrap()), expected, "{keys} {now}");
        }
    }
}
