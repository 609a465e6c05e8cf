//! What the manager logs, between the other lines of a schedule's log.

use crate::world::Log;
use std::cell::Cell;
use std::fmt;
use std::io::{self, Write};
use std::sync::PoisonError;
use tokio::time::Instant;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;

thread_local! {
    static BEGUN: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// The schedule begins now.
pub fn begin() {
    BEGUN.set(Some(Instant::now()));
}

/// Hears this thread for as long as the result lives.
pub fn hear(log: &Log) -> tracing::subscriber::DefaultGuard {
    let builder = tracing_subscriber::fmt().with_max_level(tracing::Level::INFO).with_ansi(false).with_target(false);
    tracing::subscriber::set_default(builder.with_timer(Clock).with_writer(Lines(log.clone())).finish())
}

struct Clock;

impl FormatTime for Clock {
    fn format_time(&self, writer: &mut Writer<'_>) -> fmt::Result {
        let seconds = BEGUN.get().map_or(0.0, |begun| begun.elapsed().as_secs_f64());
        write!(writer, "{seconds:>10.3}")
    }
}

struct Lines(Log);

impl MakeWriter<'_> for Lines {
    type Writer = Line;

    fn make_writer(&self) -> Line {
        Line(self.0.clone())
    }
}

struct Line(Log);

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(bytes).trim_end().to_owned();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(text);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
