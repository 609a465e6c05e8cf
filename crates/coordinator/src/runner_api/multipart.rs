//! Reads the one file of a `multipart/form-data` body as a stream: memory does not depend on its size.

use bytes::{Buf, Bytes, BytesMut};
use futures::{Stream, StreamExt};
use std::time::Duration;

/// Longest boundary (RFC 2046) and longest header of a part.
const MOST_BOUNDARY: usize = 70;
const MOST_HEADER: usize = 16 * 1024;

/// Why a body cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum MultipartError {
    /// It is no multipart body with one file.
    #[error("the body is not a form with one file")]
    Malformed,
    /// It ended too early.
    #[error("the body ended before its end")]
    Truncated,
    /// Nothing came for too long.
    #[error("nothing came for too long")]
    Stalled,
}

/// The boundary of a content type.
pub fn boundary(content_type: &str) -> Option<String> {
    let (kind, parameters) = content_type.split_once(';')?;
    if !kind.trim().eq_ignore_ascii_case("multipart/form-data") {
        return None;
    }
    let value = parameters.split(';').find_map(|one| {
        let (name, value) = one.split_once('=')?;
        name.trim().eq_ignore_ascii_case("boundary").then(|| value.trim().trim_matches('"').to_owned())
    })?;
    (1..=MOST_BOUNDARY).contains(&value.len()).then_some(value)
}

/// A file on its way in.
pub struct Upload<S> {
    body: S,
    buffer: BytesMut,
    /// What ends the file: line end, two dashes, boundary.
    delimiter: Vec<u8>,
    idle: Duration,
    over: bool,
    /// Name of the file, as told.
    pub filename: String,
}

impl<S: Stream<Item = Result<Bytes, E>> + Unpin, E> Upload<S> {
    /// Reads up to the first byte of the file.
    pub async fn begin(body: S, boundary: &str, idle: Duration) -> Result<Self, MultipartError> {
        let delimiter = format!("\r\n--{boundary}").into_bytes();
        // The first delimiter may stand at the very beginning, without a line end before it.
        let buffer = BytesMut::from(&b"\r\n"[..]);
        let mut upload = Self { body, buffer, delimiter, idle, over: false, filename: String::new() };
        let head = loop {
            let head_end = find(&upload.buffer, b"\r\n\r\n");
            if let Some(end) = head_end {
                break upload.buffer.split_to(end + 4);
            }
            if upload.buffer.len() > MOST_HEADER {
                return Err(MultipartError::Malformed);
            }
            upload.fill().await?;
        };
        let head = head.strip_prefix(upload.delimiter.as_slice()).ok_or(MultipartError::Malformed)?;
        let head = String::from_utf8_lossy(head);
        let disposition = head.lines().find(|line| line.to_ascii_lowercase().starts_with("content-disposition:"));
        let disposition = disposition.ok_or(MultipartError::Malformed)?;
        if parameter(disposition, "name").as_deref() != Some("file") {
            return Err(MultipartError::Malformed);
        }
        upload.filename = parameter(disposition, "filename").ok_or(MultipartError::Malformed)?;
        Ok(upload)
    }

    /// The next bytes of the file; `None` at its end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, MultipartError> {
        while !self.over {
            if let Some(end) = find(&self.buffer, &self.delimiter) {
                self.over = true;
                let last = self.buffer.split_to(end).freeze();
                self.buffer.advance(self.delimiter.len());
                self.finish().await?;
                return Ok((!last.is_empty()).then_some(last));
            }
            // The delimiter may have begun in the last bytes.
            let certain = self.buffer.len().saturating_sub(self.delimiter.len() - 1);
            if certain > 0 {
                return Ok(Some(self.buffer.split_to(certain).freeze()));
            }
            self.fill().await?;
        }
        Ok(None)
    }

    /// After the file the form must end.
    async fn finish(&mut self) -> Result<(), MultipartError> {
        while self.buffer.len() < 2 {
            self.fill().await?;
        }
        if self.buffer.starts_with(b"--") { Ok(()) } else { Err(MultipartError::Malformed) }
    }

    async fn fill(&mut self) -> Result<(), MultipartError> {
        match tokio::time::timeout(self.idle, self.body.next()).await {
            Err(_) => Err(MultipartError::Stalled),
            Ok(Some(Ok(bytes))) => {
                self.buffer.extend_from_slice(&bytes);
                Ok(())
            }
            Ok(Some(Err(_)) | None) => Err(MultipartError::Truncated),
        }
    }
}

fn parameter(disposition: &str, wanted: &str) -> Option<String> {
    let start = disposition.find(&format!("; {wanted}=\"")).map(|at| at + wanted.len() + 4)?;
    let end = disposition[start..].find('"')? + start;
    Some(disposition[start..end].to_owned())
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    let mut from = 0;
    while let Some(at) = bytes[from..].iter().position(|byte| *byte == wanted[0]).map(|at| at + from) {
        if bytes[at..].starts_with(wanted) {
            return Some(at);
        }
        from = at + 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::{MultipartError, Upload, boundary};
    use bytes::Bytes;
    use std::convert::Infallible;
    use std::time::Duration;

    async fn read(body: &[u8], chunk: usize) -> Result<(String, Vec<u8>), MultipartError> {
        let chunks: Vec<_> = body.chunks(chunk).map(|one| Ok::<_, Infallible>(Bytes::copy_from_slice(one))).collect();
        let mut upload = Upload::begin(futures::stream::iter(chunks), "XyZ", Duration::from_secs(5)).await?;
        let mut file = Vec::new();
        while let Some(bytes) = upload.next().await? {
            file.extend_from_slice(&bytes);
        }
        Ok((upload.filename, file))
    }

    #[test]
    fn a_boundary_is_found_in_its_content_type() {
        assert_eq!(boundary("multipart/form-data; boundary=XyZ").as_deref(), Some("XyZ"));
        assert_eq!(boundary("Multipart/Form-Data; charset=x; boundary=\"a b\"").as_deref(), Some("a b"));
        assert_eq!(boundary("application/json; boundary=XyZ"), None);
        assert_eq!(boundary(&format!("multipart/form-data; boundary={}", "x".repeat(71))), None);
    }

    #[tokio::test]
    async fn a_file_comes_out_as_it_went_in_however_it_is_cut() {
        let content = b"\r\n--Xy\r\n\r\n--XyYZ-\r\r\n--".repeat(3);
        let head = "--XyZ\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.zip\"\r\nContent-Type: x/y\r\n\r\n";
        let body = [head.as_bytes(), &content, b"\r\n--XyZ--\r\n"].concat();
        for chunk in 1..body.len() {
            assert_eq!(read(&body, chunk).await.unwrap(), ("a.zip".to_owned(), content.clone()), "{chunk}");
        }
    }

    #[tokio::test]
    async fn what_is_no_form_with_one_file_is_refused() {
        let head = "--XyZ\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\n";
        for (body, truncated) in [
            (format!("{head}abc"), true),
            (format!("{head}abc\r\n--XyZ\r\nmore"), false),
            (head.replace("file\"", "other\""), false),
            (head.replace("XyZ", "Abc"), false),
            ("x".repeat(20_000), false),
        ] {
            let error = read(body.as_bytes(), 1000).await.unwrap_err();
            assert_eq!(matches!(error, MultipartError::Truncated), truncated, "{error}");
        }
    }
}
