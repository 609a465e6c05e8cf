//! From bytes that somebody writes to the bytes of the trace.
//!
//! Each stream goes through the same stations: secrets are taken out, then what is left is made UTF-8, then lines get
//! their stamps. This is GitLab Runner's order, and the checksum that it reports is of what comes out here. Streams do
//! not share a state: half a secret on one must not be torn apart by a line on another. The agent has its scripts' output
//! go through here, and the manager the logs of services that it puts into a trace. Pure: the caller has the clock.

pub mod encodings;
pub mod masker;
pub mod patterns;
pub mod secrets;
pub mod stamps;
pub mod utf8;

use gitlab_api::log::Stream;
use masker::Masker;
use patterns::Patterns;
use stamps::Stamps;
use std::collections::BTreeMap;
use std::sync::Arc;
use utf8::Utf8;

/// All streams of one trace.
pub struct Log {
    patterns: Arc<Patterns>,
    stamped: bool,
    streams: BTreeMap<Stream, Stations>,
}

struct Stations {
    masker: Masker,
    utf8: Utf8,
    stamps: Option<Stamps>,
}

impl Log {
    /// Before the first byte; `stamped` is `FF_TIMESTAMPS`.
    pub fn new(patterns: impl Into<Arc<Patterns>>, stamped: bool) -> Self {
        Self { patterns: patterns.into(), stamped, streams: BTreeMap::new() }
    }

    /// What goes to the trace after `bytes` came on a stream, at `micros` after 1970.
    pub fn push(&mut self, stream: Stream, bytes: &[u8], micros: u64) -> Vec<u8> {
        let stations = self.streams.entry(stream).or_insert_with(|| Stations {
            masker: Masker::new(self.patterns.clone()),
            utf8: Utf8::default(),
            stamps: self.stamped.then(|| Stamps::new(stream)),
        });
        let mut masked = Vec::new();
        stations.masker.push(bytes, &mut masked);
        let text = stations.utf8.push(masked);
        match &mut stations.stamps {
            Some(stamps) => stamps.push(&text, micros),
            None => text,
        }
    }

    /// What is held back anywhere, because nothing more comes on these streams; later bytes begin a line of their own.
    pub fn finish(&mut self, micros: u64) -> Vec<u8> {
        let mut out = Vec::new();
        for stations in self.streams.values_mut() {
            let mut masked = Vec::new();
            stations.masker.finish(&mut masked);
            let mut text = stations.utf8.push(masked);
            text.extend(stations.utf8.finish());
            match &mut stations.stamps {
                Some(stamps) => {
                    out.extend(stamps.push(&text, micros));
                    out.extend(stamps.finish());
                }
                None => out.extend(text),
            }
        }
        // The runner's own messages are one stream from the first to the last; work comes in stages.
        self.streams.retain(|stream, _| *stream == Stream::RUNNER);
        out
    }
}

#[cfg(test)]
mod tests;
