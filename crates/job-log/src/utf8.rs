//! Makes a stream of bytes UTF-8: each byte that is not part of a character becomes U+FFFD.
//!
//! GitLab stores and shows a trace as UTF-8, and GitLab Runner replaces byte by byte as well. A character that is cut by
//! the end of a write is held back until the rest of it comes.

/// Bytes of a character that is not whole yet.
#[derive(Default)]
pub struct Utf8 {
    held: Vec<u8>,
}

impl Utf8 {
    /// What may leave after `bytes` came.
    pub fn push(&mut self, bytes: Vec<u8>) -> Vec<u8> {
        if self.held.is_empty() && std::str::from_utf8(&bytes).is_ok() {
            return bytes;
        }
        self.held.extend(bytes);
        let text = std::mem::take(&mut self.held);
        let mut out = Vec::with_capacity(text.len());
        let mut at = 0;
        for chunk in text.utf8_chunks() {
            out.extend_from_slice(chunk.valid().as_bytes());
            at += chunk.valid().len() + chunk.invalid().len();
            let cut = at == text.len() && is_cut(chunk.invalid());
            if cut {
                self.held = chunk.invalid().to_vec();
            } else {
                replace(chunk.invalid(), &mut out);
            }
        }
        out
    }

    /// What is left at the end.
    pub fn finish(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        replace(&std::mem::take(&mut self.held), &mut out);
        out
    }
}

/// Whether more bytes could make a character of these.
fn is_cut(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}

fn replace(bytes: &[u8], out: &mut Vec<u8>) {
    bytes.iter().for_each(|_| out.extend_from_slice("\u{fffd}".as_bytes()));
}

#[cfg(test)]
mod tests {
    use super::Utf8;
    use proptest::prelude::*;

    fn through(pieces: &[&[u8]]) -> String {
        let mut utf8 = Utf8::default();
        let mut out: Vec<u8> = pieces.iter().flat_map(|piece| utf8.push(piece.to_vec())).collect();
        out.extend(utf8.finish());
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn each_byte_that_is_no_character_is_replaced() {
        assert_eq!(through(&[b"a\xffb"]), "a\u{fffd}b");
        assert_eq!(through(&[b"\xe2\x82", b"\xac!"]), "€!");
        assert_eq!(through(&[b"\xe2\x82", b"!"]), "\u{fffd}\u{fffd}!");
        assert_eq!(through(&[b"end \xf0\x9f\x98"]), "end \u{fffd}\u{fffd}\u{fffd}");
        assert_eq!(through(&["größe → 大".as_bytes()]), "größe → 大");
    }

    proptest! {
        #[test]
        fn cuts_do_not_matter(bytes in prop::collection::vec(prop_oneof![any::<u8>(), 0xc0u8..0xf8, 0x80u8..0xc0], 0..40)) {
            let pieces: Vec<&[u8]> = bytes.chunks(1).collect();
            prop_assert_eq!(through(&pieces), through(&[&bytes]));
        }
    }
}
