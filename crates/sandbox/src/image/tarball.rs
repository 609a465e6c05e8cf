//! Reading a tar stream that may mean harm.
//!
//! Names and attributes of one entry are held in memory, so their size is bounded before they are read; contents are only
//! ever streamed. What is odd ends in an error, never in a guess.

use std::io::{self, Read};

const BLOCK: usize = 512;
/// Long names and extended attributes of one entry.
const EXTENSION_BYTES: u64 = 1 << 20;

/// What an entry makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    HardLink,
    SymbolicLink,
    Directory,
    Fifo,
    Device,
}

/// One entry, without its content.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub kind: Kind,
    pub path: Vec<u8>,
    pub link: Vec<u8>,
    pub mode: u32,
    pub uid: u64,
    pub gid: u64,
    /// Seconds since 1970.
    pub mtime: i64,
    /// Bytes of content that follow.
    pub size: u64,
    pub xattrs: Vec<(String, Vec<u8>)>,
}

/// Entries of a tar stream in GNU, PAX or older format.
#[derive(Debug)]
pub(super) struct Tarball<R> {
    reader: R,
    content: u64,
    padding: u64,
}

/// What extension headers say about the entry they precede.
#[derive(Debug, Default)]
struct Extension {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<i64>,
    xattrs: Vec<(String, Vec<u8>)>,
}

impl<R: Read> Tarball<R> {
    /// Starts at the first header.
    pub(super) fn new(reader: R) -> Self {
        Tarball { reader, content: 0, padding: 0 }
    }

    /// The next entry; what was not read of the last one's content is skipped.
    pub(super) fn next(&mut self) -> io::Result<Option<Entry>> {
        let mut extension = Extension::default();
        loop {
            self.skip()?;
            let Some(block) = self.header()? else { return Ok(None) };
            let header = tar::Header::from_byte_slice(&block);
            check_sum(&block, header)?;
            let size = header.entry_size()?;
            let kind = block[156];
            match kind {
                b'L' => extension.path = Some(until_nul(self.extension(size)?)),
                b'K' => extension.link = Some(until_nul(self.extension(size)?)),
                b'x' => {
                    let text = self.extension(size)?;
                    extension.read(&text)?;
                }
                b'g' => drop(self.extension(size)?),
                _ => return self.entry(header, kind, size, extension).map(Some),
            }
        }
    }

    /// The stream below, after the last entry.
    pub(super) fn into_inner(self) -> R {
        self.reader
    }

    fn entry(&mut self, header: &tar::Header, kind: u8, size: u64, extension: Extension) -> io::Result<Entry> {
        let path = extension.path.unwrap_or_else(|| header.path_bytes().into_owned());
        let kind = match kind {
            // before there were directories among the types, a slash at the end said so
            b'0' | b'\0' | b'7' if path.ends_with(b"/") => Kind::Directory,
            b'0' | b'\0' | b'7' => Kind::File,
            b'1' => Kind::HardLink,
            b'2' => Kind::SymbolicLink,
            b'3' | b'4' => Kind::Device,
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            other => return Err(invalid(format!("an entry is of unknown type {:?}", char::from(other)))),
        };
        let size = extension.size.unwrap_or(size);
        let link = extension.link.unwrap_or_else(|| header.link_name_bytes().map_or_else(Vec::new, |it| it.into_owned()));
        // some writers give links and directories a size without content to go with it
        self.content = if matches!(kind, Kind::File) { size } else { 0 };
        self.padding = padding(self.content);
        Ok(Entry {
            kind,
            path,
            link,
            mode: header.mode()? & 0o7777,
            uid: extension.uid.map_or_else(|| header.uid(), Ok)?,
            gid: extension.gid.map_or_else(|| header.gid(), Ok)?,
            mtime: extension.mtime.unwrap_or_else(|| header.mtime().ok().and_then(|it| i64::try_from(it).ok()).unwrap_or(0)),
            size: self.content,
            xattrs: extension.xattrs,
        })
    }

    /// The next header, or nothing at the end of the archive.
    fn header(&mut self) -> io::Result<Option<[u8; BLOCK]>> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            match self.reader.read(&mut block[filled..])? {
                0 if filled == 0 => return Ok(None),
                0 => return Err(ends_early()),
                count => filled += count,
            }
        }
        Ok(block.iter().any(|byte| *byte != 0).then_some(block))
    }

    fn extension(&mut self, size: u64) -> io::Result<Vec<u8>> {
        if size > EXTENSION_BYTES {
            return Err(invalid(format!("the name or the attributes of an entry take {size} bytes")));
        }
        let mut content = Vec::new();
        (&mut self.reader).take(size).read_to_end(&mut content)?;
        if (content.len() as u64) < size {
            return Err(ends_early());
        }
        self.padding = padding(size);
        Ok(content)
    }

    fn skip(&mut self) -> io::Result<()> {
        let left = self.content + self.padding;
        if io::copy(&mut (&mut self.reader).take(left), &mut io::sink())? < left {
            return Err(ends_early());
        }
        (self.content, self.padding) = (0, 0);
        Ok(())
    }
}

impl<R: Read> Read for Tarball<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.content).unwrap_or(usize::MAX).min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        let count = self.reader.read(&mut buffer[..most])?;
        if count == 0 {
            return Err(ends_early());
        }
        self.content -= count as u64;
        Ok(count)
    }
}

impl Extension {
    fn read(&mut self, text: &[u8]) -> io::Result<()> {
        for record in tar::PaxExtensions::new(text) {
            let record = record?;
            let (Ok(key), value) = (record.key(), record.value_bytes()) else { continue };
            let number = || std::str::from_utf8(value).ok().and_then(|text| text.parse::<u64>().ok());
            match key {
                "path" => self.path = Some(value.to_vec()),
                "linkpath" => self.link = Some(value.to_vec()),
                "size" => self.size = Some(number().ok_or_else(|| invalid("the size of an entry is no number".to_owned()))?),
                "uid" => self.uid = number(),
                "gid" => self.gid = number(),
                "mtime" => {
                    let seconds = value.split(|byte| *byte == b'.').next().unwrap_or_default();
                    self.mtime = std::str::from_utf8(seconds).ok().and_then(|text| text.parse().ok());
                }
                "GNU.sparse.major" | "GNU.sparse.size" | "GNU.sparse.map" => {
                    return Err(invalid("a file is sparse, which images are not".to_owned()));
                }
                _ => {
                    if let Some(name) = key.strip_prefix("SCHILY.xattr.") {
                        self.xattrs.push((name.to_owned(), value.to_vec()));
                    }
                }
            }
        }
        Ok(())
    }
}

fn check_sum(block: &[u8; BLOCK], header: &tar::Header) -> io::Result<()> {
    let sum: u32 = block.iter().enumerate().map(|(at, byte)| if (148..156).contains(&at) { 32 } else { u32::from(*byte) }).sum();
    if header.cksum().ok() == Some(sum) { Ok(()) } else { Err(invalid("a header's checksum is wrong".to_owned())) }
}

fn until_nul(mut name: Vec<u8>) -> Vec<u8> {
    if let Some(end) = name.iter().position(|byte| *byte == 0) {
        name.truncate(end);
    }
    name
}

fn padding(size: u64) -> u64 {
    size.wrapping_neg() % BLOCK as u64
}

fn invalid(reason: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

fn ends_early() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the tar stream ends early")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(kind: u8, path: &str, size: u64) -> Vec<u8> {
        let mut header = tar::Header::new_ustar();
        header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
        header.as_mut_bytes()[156] = kind;
        header.set_size(size);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(7);
        header.set_cksum();
        header.as_bytes().to_vec()
    }

    fn padded(mut content: Vec<u8>) -> Vec<u8> {
        content.resize(content.len().next_multiple_of(BLOCK), 0);
        content
    }

    #[test]
    fn pax_records_say_more_than_the_header_and_skipped_content_is_skipped() {
        let records = b"12 path=a/b\n12 uid=1000\n13 mtime=9.5\n9 size=3\n".to_vec();
        let stream = [
            header(b'x', "pax", records.len() as u64),
            padded(records),
            header(b'0', "short", 0),
            padded(b"xyz".to_vec()),
            header(b'0', "next", 2),
            padded(b"ab".to_vec()),
            vec![0; 1024],
        ]
        .concat();
        let mut tarball = Tarball::new(stream.as_slice());
        let first = tarball.next().expect("readable").expect("an entry");
        assert_eq!((first.path.as_slice(), first.uid, first.mtime, first.size), (&b"a/b"[..], 1000, 9, 3));
        let second = tarball.next().expect("readable").expect("an entry");
        assert_eq!((second.path.as_slice(), second.mtime), (&b"next"[..], 7));
        let mut content = String::new();
        tarball.read_to_string(&mut content).expect("content");
        assert_eq!(content, "ab");
        assert!(tarball.next().expect("readable").is_none());
    }

    #[test]
    fn a_name_without_bound_and_a_wrong_checksum_are_errors() {
        let endless = header(b'L', "long", 1 << 40);
        let error = Tarball::new(endless.as_slice()).next().expect_err("too long");
        assert_eq!(error.to_string(), "the name or the attributes of an entry take 1099511627776 bytes");
        let mut wrong = header(b'0', "a", 0);
        wrong[0] = b'b';
        assert!(Tarball::new(wrong.as_slice()).next().is_err());
    }
}
