//! Artifacts that are no archive: reports as gzip (one member for each file) and single files as they are.

use anyhow::{Context, Result, bail};
use flate2::{Compression, GzBuilder};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

/// Writes the files one after the other, each as a gzip member that names it; in order of their paths.
///
/// # Errors
/// When one is not a plain file, or cannot be read.
pub fn pack_gzip(directory: &Path, paths: &BTreeSet<PathBuf>, into: &Path) -> Result<()> {
    let mut out = BufWriter::new(File::create(into).with_context(|| format!("failed to make {}", into.display()))?);
    for path in paths {
        let on_file = || format!("failed to pack {}", path.display());
        let mut file = open(&directory.join(path), path)?;
        let changed = file.metadata().and_then(|meta| meta.modified()).ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let seconds = changed.and_then(|age| u32::try_from(age.as_secs()).ok()).unwrap_or(0);
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let member = GzBuilder::new().filename(header_text(&name)).comment(header_text(&path.to_string_lossy())).mtime(seconds);
        let mut member = member.write(&mut out, Compression::default());
        io::copy(&mut file, &mut member).with_context(on_file)?;
        member.finish().with_context(on_file)?;
    }
    out.flush().context("failed to finish the report")
}

/// Copies the one file there is.
///
/// # Errors
/// When there are several, or it is not a plain file.
pub fn pack_raw(directory: &Path, paths: &BTreeSet<PathBuf>, into: &Path) -> Result<()> {
    let mut list = paths.iter();
    let (Some(path), None) = (list.next(), list.next()) else {
        bail!("only one file can be uploaded as it is, and {} were found", paths.len());
    };
    let mut file = open(&directory.join(path), path)?;
    let mut out = File::create(into).with_context(|| format!("failed to make {}", into.display()))?;
    io::copy(&mut file, &mut out).with_context(|| format!("failed to pack {}", path.display())).map(drop)
}

fn open(path: &Path, shown: &Path) -> Result<File> {
    let meta = std::fs::symlink_metadata(path).with_context(|| format!("failed to read {}", shown.display()))?;
    if !meta.is_file() {
        bail!("{} is not a plain file, which a report has to be", shown.display());
    }
    File::open(path).with_context(|| format!("failed to read {}", shown.display()))
}

/// Text for a gzip header, which knows Latin-1 only: anything else is percent-encoded, and marked.
fn header_text(text: &str) -> String {
    let plain = text.bytes().all(|byte| (b' '..=b'~').contains(&byte) && byte != b'%');
    if plain {
        return text.to_owned();
    }
    let encode = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'/' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    format!("e:{}", text.bytes().map(encode).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::{header_text, pack_gzip, pack_raw};
    use std::collections::BTreeSet;
    use std::io::Read;
    use std::path::PathBuf;

    fn files(list: &[&str]) -> BTreeSet<PathBuf> {
        list.iter().map(PathBuf::from).collect()
    }

    #[test]
    fn a_report_is_one_gzip_member_for_each_file() {
        let place = tempfile::tempdir().unwrap();
        std::fs::create_dir(place.path().join("d")).unwrap();
        std::fs::write(place.path().join("b.env"), "B=2\n").unwrap();
        std::fs::write(place.path().join("d/a.env"), "A=1\n").unwrap();
        let into = place.path().join("out.gz");
        pack_gzip(place.path(), &files(&["d/a.env", "b.env"]), &into).unwrap();
        let packed = std::fs::read(&into).unwrap();
        let mut text = String::new();
        flate2::read::MultiGzDecoder::new(packed.as_slice()).read_to_string(&mut text).unwrap();
        assert_eq!(text, "B=2\nA=1\n");
        let first = flate2::read::GzDecoder::new(packed.as_slice());
        let header = first.header().unwrap();
        assert_eq!((header.filename(), header.comment()), (Some(&b"b.env"[..]), Some(&b"b.env"[..])));
        assert!(header.mtime() > 1_000_000_000);
        std::os::unix::fs::symlink("b.env", place.path().join("link")).unwrap();
        for odd in ["d", "link", "missing"] {
            assert!(pack_gzip(place.path(), &files(&[odd]), &into).is_err(), "{odd}");
        }
    }

    #[test]
    fn one_file_can_go_as_it_is() {
        let place = tempfile::tempdir().unwrap();
        std::fs::write(place.path().join("a"), "A").unwrap();
        std::fs::write(place.path().join("b"), "B").unwrap();
        let into = place.path().join("out");
        pack_raw(place.path(), &files(&["a"]), &into).unwrap();
        assert_eq!(std::fs::read(&into).unwrap(), b"A");
        assert!(pack_raw(place.path(), &files(&["a", "b"]), &into).unwrap_err().to_string().contains("2 were found"));
    }

    #[test]
    fn names_beyond_ascii_are_encoded() {
        assert_eq!(header_text("a b.env"), "a b.env");
        assert_eq!(header_text("ä%.env"), "e:%C3%A4%25.env");
    }
}
