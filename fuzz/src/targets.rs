//! What is tried, and what must hold whatever the input is.

mod answers;

use agent_contract::serve::Frame;
use agent_contract::{Plan, Settings};
use bytes::BytesMut;
use gitlab_api::JobResponse;
use std::collections::BTreeMap;

/// One reader of foreign bytes.
pub struct Target {
    /// Its name and that of its folders.
    pub name: &'static str,
    /// Words of its format.
    pub words: &'static [&'static str],
    /// Panics when something does not hold; else says how it ended.
    pub run: fn(&[u8]) -> String,
}

/// All of them.
pub const TARGETS: &[Target] = &[
    Target { name: "payload", words: PAYLOAD_WORDS, run: payload },
    Target { name: "trace-answers", words: ANSWER_WORDS, run: answers::run },
    Target { name: "serve-protocol", words: FRAME_WORDS, run: serve_protocol },
];

const PAYLOAD_WORDS: &[&str] = &[
    "${{ ",
    " }}",
    "job.inputs.a",
    " || ",
    "[0]",
    "str(",
    "null",
    "true",
    "[]",
    "{}",
    "\"\"",
    "[null]",
    "\\u0000",
    "\\ud800",
    "$",
    "${A}",
    "$$",
    "\"variables\":",
    "\"steps\":",
    "\"services\":",
    "\"image\":",
    "\"key\":",
    "\"value\":",
    "\"masked\":true",
    "\"when\":\"always\"",
    "\"cache\":",
    "\"executor_opts\":",
    "[[[[[[[[",
    "{\"a\":",
];
const ANSWER_WORDS: &[&str] = &[
    "HTTP/1.1 202 Accepted\r\n",
    "HTTP/1.1 416 x\r\n",
    "HTTP/1.0 ",
    "HTTP/1.1 100 Continue\r\n\r\n",
    "\r\n",
    "\r\n\r\n",
    "Range: 0-",
    "Job-Status: canceling\r\n",
    "Job-Status: canceled\r\n",
    "X-GitLab-Trace-Update-Interval: ",
    "Content-Length: ",
    "Transfer-Encoding: chunked\r\n",
    "0\r\n\r\n",
    "Connection: close\r\n",
    "Location: /\r\n",
];
const FRAME_WORDS: &[&str] = &[
    "\u{1}\0\0\0",
    "\u{2}\0\0\0",
    "\u{3}\0\0\0\u{1}x",
    "\u{4}\0\u{1}\0\0",
    "{\"Start\":{",
    "{\"Signal\":{\"signal\":15,",
    "{\"Leave\":{\"exit_code\":0}}",
    "{\"Exited\":{\"code\":",
    "\"Leaving\"",
    "\"version\":",
    "\"kill_after_ms\":null",
];

/// A payload that can be read becomes a job, and the job survives the way into its pod.
fn payload(input: &[u8]) -> String {
    let mut payload: JobResponse = match serde_json::from_slice(input) {
        Ok(payload) => payload,
        Err(error) => return format!("not read: {error}"),
    };
    let again = serde_json::to_vec(&payload).expect("what was read can be written");
    let again: JobResponse = serde_json::from_slice(&again).expect("what was written can be read");
    // Numbers with a fraction aside, which foreign parts of a payload may hold and no part of a job does.
    assert_eq!(again.variables, payload.variables, "a payload reads as it was written");
    if let Err(error) = payload.interpolate(&BTreeMap::new()) {
        return format!("no job: {error}");
    }
    let job = match payload.into_job() {
        Ok(job) => job,
        Err(error) => return format!("no job: {error}"),
    };
    let expanded = job.variables.expanded();
    assert!(expanded.iter().count() <= job.variables.iter().count(), "expansion makes no variables");
    let plan = Plan { job, coordinator: Default::default(), workspace: Default::default(), settings: Settings::default() };
    let parts = plan.to_parts().expect("a plan can be written");
    assert_eq!(Plan::from_parts(&parts).expect("a plan can be read"), plan);
    format!("a job with {:?}", plan.job.unsupported)
}

/// Frames do not depend on how the bytes came, and what was read is written as it was.
fn serve_protocol(input: &[u8]) -> String {
    let (frames, end) = frames([input]);
    let step = 1 + usize::from(input.first().copied().unwrap_or_default());
    let (of_pieces, end_of_pieces) = self::frames(input.chunks(step));
    assert_eq!((&of_pieces, &end_of_pieces), (&frames, &end), "cut into pieces of {step}");
    let mut out = BytesMut::new();
    for frame in &frames {
        frame.encode(&mut out).expect("a frame that was read can be written");
    }
    assert_eq!(self::frames([&out[..]]).0, frames);
    let kinds: std::collections::BTreeSet<_> =
        frames.iter().map(std::mem::discriminant).map(|kind| format!("{kind:?}")).collect();
    format!("{kinds:?}, {end}")
}

/// Reads until something is wrong.
fn frames<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Frame>, String) {
    let (mut input, mut frames) = (BytesMut::new(), Vec::new());
    for piece in pieces {
        input.extend_from_slice(piece);
        loop {
            match Frame::decode(&mut input) {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => return (frames, error.to_string()),
            }
        }
    }
    (frames, format!("rest: {}", !input.is_empty()))
}
