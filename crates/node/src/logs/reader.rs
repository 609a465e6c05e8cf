//! A log, read for somebody: from its beginning or its last lines, and on as it grows, with bounded memory.

use super::record::{self, Stream};
use super::{Log, Position};
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;
use tokio::sync::mpsc;

/// Bytes read at once.
const BLOCK: usize = 64 * 1024;
/// Blocks that wait for a slow reader.
const AHEAD: usize = 4;

/// What is wanted of a log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Go on until the container ends.
    pub follow: bool,
    /// Only the last lines.
    pub tail_lines: Option<u64>,
    /// Put the time before each line.
    pub timestamps: bool,
    /// At most this many bytes.
    pub limit_bytes: Option<u64>,
    /// Only lines from this time on, as [`record::time`] writes it.
    pub since: Option<String>,
}

/// Opens a log.
pub fn read(log: Arc<Log>, selection: Selection) -> BoxStream<'static, io::Result<Bytes>> {
    let (sender, receiver) = mpsc::channel(AHEAD);
    tokio::spawn(async move {
        if let Err(error) = copy(&log, selection, &sender).await {
            // Nobody listens any more, or is told with the next item.
            let _ = sender.send(Err(error)).await;
        }
    });
    tokio_stream::wrappers::ReceiverStream::new(receiver).boxed()
}

async fn copy(log: &Arc<Log>, selection: Selection, sender: &mpsc::Sender<io::Result<Bytes>>) -> io::Result<()> {
    let mut changes = log.position.subscribe();
    let mut until = *changes.borrow_and_update();
    let skip = match selection.tail_lines {
        None => 0,
        Some(wanted) => lines(log, until).await?.saturating_sub(wanted),
    };
    let mut renderer = Renderer { skip, left: selection.limit_bytes.unwrap_or(u64::MAX), middle: [false; 2], selection };
    let mut cursor = Cursor::new(log.clone(), until);
    loop {
        while let Some(block) = cursor.next(until).await? {
            let text = renderer.render(&block);
            if !text.is_empty() && sender.send(Ok(text.into())).await.is_err() {
                return Ok(());
            }
            if renderer.left == 0 {
                return Ok(());
            }
        }
        if !renderer.selection.follow || until.ended {
            return Ok(());
        }
        tokio::select! {
            () = sender.closed() => return Ok(()),
            changed = changes.changed() => if changed.is_err() { return Ok(()) },
        }
        until = *changes.borrow_and_update();
    }
}

/// How many lines there are up to a position.
async fn lines(log: &Arc<Log>, until: Position) -> io::Result<u64> {
    let mut cursor = Cursor::new(log.clone(), until);
    let mut count = 0;
    let mut open = false;
    while let Some(block) = cursor.next(until).await? {
        for record in records(&block) {
            open = !record.ends_line;
            count += u64::from(record.ends_line);
        }
    }
    Ok(count + u64::from(open))
}

fn records(block: &[u8]) -> impl Iterator<Item = record::Record<'_>> {
    block.split(|byte| *byte == b'\n').filter_map(record::decode)
}

/// The records that were written since the last look, in blocks that end where a record ends.
struct Cursor {
    log: Arc<Log>,
    segment: u64,
    offset: u64,
    file: Option<File>,
    rest: Vec<u8>,
}

impl Cursor {
    fn new(log: Arc<Log>, position: Position) -> Self {
        Self { log, segment: position.first, offset: 0, file: None, rest: Vec::new() }
    }

    async fn next(&mut self, until: Position) -> io::Result<Option<Vec<u8>>> {
        loop {
            let limit = if self.segment < until.segment { u64::MAX } else { until.bytes };
            let wanted = usize::try_from(limit.saturating_sub(self.offset)).unwrap_or(BLOCK).min(BLOCK);
            let block = self.block(wanted).await?;
            if block.is_empty() {
                if self.segment >= until.segment {
                    return Ok(None);
                }
                // Whoever is too slow goes on where the log begins now.
                self.segment = (self.segment + 1).max(until.first);
                (self.file, self.offset) = (None, 0);
                self.rest.clear();
                continue;
            }
            self.offset += block.len() as u64;
            let mut whole = std::mem::take(&mut self.rest);
            whole.extend_from_slice(&block);
            let end = whole.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
            self.rest = whole.split_off(end);
            if !whole.is_empty() {
                return Ok(Some(whole));
            }
        }
    }

    async fn block(&mut self, wanted: usize) -> io::Result<Vec<u8>> {
        if wanted == 0 {
            return Ok(Vec::new());
        }
        let (file, path) = (self.file.take(), self.log.path(self.segment));
        let read = move || -> io::Result<(Option<File>, Vec<u8>)> {
            let mut file = match file.map_or_else(|| File::open(path), Ok) {
                Ok(file) => file,
                // The writer was faster and has dropped this segment.
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((None, Vec::new())),
                Err(error) => return Err(error),
            };
            let mut block = vec![0; wanted];
            let read = file.read(&mut block)?;
            block.truncate(read);
            Ok((Some(file), block))
        };
        let (file, block) = tokio::task::spawn_blocking(read).await.map_err(io::Error::other)??;
        self.file = file;
        Ok(block)
    }
}

/// Records become the text that was asked for.
struct Renderer {
    selection: Selection,
    skip: u64,
    left: u64,
    /// Whether a stream is in the middle of a line.
    middle: [bool; 2],
}

impl Renderer {
    fn render(&mut self, block: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(block.len());
        for record in records(block) {
            if self.skip > 0 {
                self.skip -= u64::from(record.ends_line);
                continue;
            }
            if self.selection.since.as_ref().is_some_and(|since| record.time < since.as_bytes()) {
                continue;
            }
            let middle = &mut self.middle[usize::from(record.stream == Stream::Stderr)];
            if self.selection.timestamps && !*middle {
                out.extend_from_slice(record.time);
                out.push(b' ');
            }
            *middle = !record.ends_line;
            out.extend_from_slice(record.text);
            if record.ends_line {
                out.push(b'\n');
            }
        }
        out.truncate(usize::try_from(self.left).unwrap_or(usize::MAX));
        self.left -= out.len() as u64;
        out
    }
}
