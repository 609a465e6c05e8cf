//! Output that is no plain line: what a log has to keep byte for byte although it is cut, stamped and made UTF-8 on its
//! way.

use super::dice::Dice;

/// Length of a long line: more than a pipe holds, and many pieces of a stamped line.
const LONG: usize = 100_000;
/// Lines on each of two streams.
const BESIDE: usize = 5;

/// What a script prints last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Odd {
    /// Nothing odd.
    #[default]
    Nothing,
    /// No newline at the end.
    Unfinished,
    /// Bytes that are no UTF-8, each of which becomes U+FFFD.
    Bytes,
    /// Carriage returns inside of a line.
    Returns,
    /// A long line.
    Long,
    /// Lines on standard error beside standard output; each of the two has an order.
    Beside,
}

const ALL: [Odd; 6] = [Odd::Nothing, Odd::Unfinished, Odd::Bytes, Odd::Returns, Odd::Long, Odd::Beside];

impl Odd {
    /// Nothing for every other job.
    pub fn any(dice: &mut Dice) -> Self {
        if dice.one_in(2) { Self::Nothing } else { dice.pick(&ALL).copied().unwrap_or_default() }
    }

    /// Its number in the name of a job.
    pub fn number(self) -> usize {
        ALL.iter().position(|odd| *odd == self).unwrap_or_default()
    }

    /// Reads that back.
    pub fn of_number(number: usize) -> Option<Self> {
        ALL.get(number).copied()
    }

    /// The line of a script.
    pub fn script(self) -> String {
        match self {
            Self::Nothing => ":".to_owned(),
            Self::Unfinished => r#"printf "odd end of job $CI_JOB_ID without a newline""#.to_owned(),
            Self::Bytes => r#"printf "odd \377\376 bytes \303\251 of job $CI_JOB_ID \303\n""#.to_owned(),
            Self::Returns => r#"printf "odd 10%%\rodd 20%%\rodd job $CI_JOB_ID\n""#.to_owned(),
            Self::Long => format!(r#"printf "odd $CI_JOB_ID "; head -c {LONG} /dev/zero | tr '\0' x; echo " odd""#),
            Self::Beside => {
                let lines = "1 2 3 4 5";
                format!(r#"for n in {lines}; do echo "odd out $n of $CI_JOB_ID"; echo "odd err $n of $CI_JOB_ID" >&2; done"#)
            }
        }
    }

    /// How often that stands in the log of job `id`.
    pub fn count(self, id: u64, text: &str) -> usize {
        let one = |expected: String| text.matches(&expected).count();
        match self {
            Self::Nothing => 1,
            Self::Unfinished => one(format!("odd end of job {id} without a newline")),
            Self::Bytes => one(format!("odd \u{fffd}\u{fffd} bytes \u{e9} of job {id} \u{fffd}\n")),
            Self::Returns => one(format!("odd 10%\rodd 20%\rodd job {id}\n")),
            Self::Long => one(format!("odd {id} {} odd\n", "x".repeat(LONG))),
            Self::Beside => {
                let said = ["out", "err"].map(|name| {
                    let begin = format!("odd {name} ");
                    let said: Vec<_> = text.split('\n').filter(|line| line.starts_with(&begin)).collect();
                    let expected: Vec<_> = (1..=BESIDE).map(|number| format!("{begin}{number} of {id}")).collect();
                    (said == expected, said.len() > BESIDE)
                });
                match said {
                    [(true, _), (true, _)] => 1,
                    [(_, true), _] | [_, (_, true)] => 2,
                    _ => 0,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{ALL, Odd};
    use std::process::Command;

    /// What a shell prints, standard error behind standard output.
    fn said(odd: Odd) -> String {
        let output = Command::new("sh").args(["-c", &odd.script()]).env("CI_JOB_ID", "7").output().unwrap();
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    }

    #[test]
    fn what_a_shell_prints_is_what_is_expected_and_nothing_else_is() {
        for odd in ALL {
            let text = said(odd);
            assert_eq!(odd.count(7, &text), 1, "{odd:?}: {text:?}");
            assert_eq!(Odd::of_number(odd.number()), Some(odd));
            if odd != Odd::Nothing {
                assert_eq!(odd.count(7, &text.replace('7', "8")), 0, "{odd:?}");
                assert_ne!(odd.count(7, &format!("{text}\n{text}")), 1, "{odd:?}");
            }
        }
    }

    #[test]
    fn a_byte_that_lacks_is_seen() {
        for odd in ALL.into_iter().filter(|odd| *odd != Odd::Nothing) {
            let text = said(odd);
            let middle = text.char_indices().nth(text.chars().count() / 2).unwrap().0;
            let lacks: String = text.char_indices().filter(|(at, _)| *at != middle).map(|(_, one)| one).collect();
            assert_ne!(odd.count(7, &lacks), 1, "{odd:?}: {lacks:?}");
        }
    }
}
