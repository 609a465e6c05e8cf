//! What the user sees while the pipeline runs: lines, and on a terminal one line of progress below them.
//!
//! Lines go to standard output (to standard error with `--json`), progress to standard error, so that a pipe gets the
//! log alone. A reader that goes away does not stop the pipeline.

use console::Term;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::Write;
use std::time::Duration;

/// How often the progress line moves on its own.
const TICK: Duration = Duration::from_millis(200);

/// The user's screen.
pub struct Screen {
    bar: Option<ProgressBar>,
    to_stderr: bool,
}

impl Screen {
    /// With `json`, standard output is kept for the result.
    pub fn new(json: bool, jobs: usize) -> Self {
        let bar = Term::stderr().features().is_attended().then(|| {
            let bar = ProgressBar::with_draw_target(Some(jobs as u64), ProgressDrawTarget::stderr());
            if let Ok(style) = ProgressStyle::with_template("{spinner} {pos}/{len} jobs done{msg}  {elapsed}") {
                bar.set_style(style);
            }
            bar.enable_steady_tick(TICK);
            bar
        });
        Self { bar, to_stderr: json }
    }

    /// Whether lines may have colours.
    pub fn has_color(&self) -> bool {
        if self.to_stderr { console::colors_enabled_stderr() } else { console::colors_enabled() }
    }

    /// Prints lines above the progress.
    pub fn lines(&self, lines: &[String]) {
        if lines.is_empty() {
            return;
        }
        let mut text = lines.join("\n");
        text.push('\n');
        let write = || {
            // A reader that has gone is no reason to stop.
            let _ = if self.to_stderr {
                std::io::stderr().lock().write_all(text.as_bytes())
            } else {
                let mut out = std::io::stdout().lock();
                out.write_all(text.as_bytes()).and_then(|()| out.flush())
            };
        };
        match &self.bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }

    /// Moves the progress.
    pub fn progress(&self, done: usize, running: &[String]) {
        if let Some(bar) = &self.bar {
            bar.set_position(done as u64);
            let shown: Vec<_> = running.iter().take(3).map(String::as_str).collect();
            let more = if running.len() > 3 { format!(" and {} more", running.len() - 3) } else { String::new() };
            bar.set_message(if shown.is_empty() { String::new() } else { format!(", running: {}{more}", shown.join(", ")) });
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
