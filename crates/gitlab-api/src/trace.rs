//! `PATCH jobs/:id/trace`: appends bytes to the trace.
//!
//! 202 accepted; 416 the offset is wrong, `Range` says how much the server has; 403 and 404 the job is gone.

/// Path of the call.
pub fn path(id: job::JobId, debug_trace: bool) -> String {
    format!("jobs/{id}/trace?debug_trace={debug_trace}")
}

/// `Content-Range` of a patch of `length` bytes (at least 1) at `start`.
pub fn content_range(start: u64, length: usize) -> String {
    format!("{start}-{}", start + (length as u64).max(1) - 1)
}

/// Reads a `Content-Range`: first and last byte.
pub fn parse_content_range(text: &str) -> Option<(u64, u64)> {
    let (start, end) = text.trim().split_once('-')?;
    let (start, end) = (start.parse().ok()?, end.parse().ok()?);
    (start <= end).then_some((start, end))
}

/// Where to go on after a 416: the number behind the dash of `Range` (`0-1234` means 1234).
pub fn parse_range(text: &str) -> Option<u64> {
    text.trim().split_once('-')?.1.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::{content_range, parse_content_range, parse_range};

    #[test]
    fn ranges_are_inclusive_and_without_a_unit() {
        assert_eq!(content_range(10, 5), "10-14");
        assert_eq!(parse_content_range("10-14"), Some((10, 14)));
        assert_eq!(parse_content_range("14-10"), None);
        assert_eq!(parse_content_range("bytes 1-2"), None);
        assert_eq!(parse_range("0-1234"), Some(1234));
    }
}
