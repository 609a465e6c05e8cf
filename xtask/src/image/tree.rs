//! What a layer holds, kept in memory and written as a tar that is the same each time.
//!
//! Names are sorted, times are one constant, owners are numbers only, and nothing of the machine's file system is
//! looked at: so two builds of the same content have the same digest.

use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use tar::{EntryType, Header};

/// The time of every file: 2025-01-01. Not 0, which some programs take for "no time".
pub const EPOCH: u64 = 1_735_689_600;

/// A file tree, by path without a slash in front.
#[derive(Clone, Debug, Default)]
pub struct Tree(BTreeMap<Vec<u8>, Entry>);

#[derive(Clone, Debug)]
struct Entry {
    mode: u32,
    owner: (u64, u64),
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    Directory,
    File(Vec<u8>),
    Symlink(Vec<u8>),
    Hardlink(Vec<u8>),
}

impl Tree {
    /// Adds a directory and, as root's, those above it that are missing.
    pub fn directory(&mut self, path: &str, mode: u32) {
        self.put(path, mode, Kind::Directory);
    }

    /// Adds a file, root's.
    pub fn file(&mut self, path: &str, mode: u32, content: impl Into<Vec<u8>>) {
        self.put(path, mode, Kind::File(content.into()));
    }

    /// Adds a symbolic link.
    pub fn symlink(&mut self, path: &str, target: &str) {
        self.put(path, 0o777, Kind::Symlink(target.into()));
    }

    /// Gives what is at a path to somebody.
    pub fn own(&mut self, path: &str, user: u64, group: u64) {
        if let Some(entry) = self.0.get_mut(path.as_bytes()) {
            entry.owner = (user, group);
        }
    }

    /// A file's content.
    pub fn content(&self, path: &str) -> Option<&[u8]> {
        match &self.0.get(path.as_bytes())?.kind {
            Kind::File(content) => Some(content),
            _ => None,
        }
    }

    fn put(&mut self, path: &str, mode: u32, kind: Kind) {
        self.insert(path.into(), Entry { mode, owner: (0, 0), kind });
    }

    /// Adds an entry and, as root's, the directories above it that are missing.
    fn insert(&mut self, path: Vec<u8>, entry: Entry) {
        for at in (0..path.len()).filter(|at| path[*at] == b'/') {
            let above = Entry { mode: 0o755, owner: (0, 0), kind: Kind::Directory };
            self.0.entry(path[..at].to_vec()).or_insert(above);
        }
        self.0.insert(path, entry);
    }

    /// Reads a tar and keeps what `wanted` says. Set-id bits are dropped: nothing in our images becomes somebody else.
    pub fn read(archive: impl Read, wanted: impl Fn(&str) -> bool) -> Result<Self> {
        let mut tree = Self::default();
        for entry in tar::Archive::new(archive).entries()? {
            let mut entry = entry.context("failed to read a tar")?;
            let path = plain(&entry.path_bytes());
            if path.is_empty() || !wanted(&String::from_utf8_lossy(&path)) {
                continue;
            }
            let header = entry.header();
            let (mode, owner) = (header.mode()? & 0o1777, (header.uid()?, header.gid()?));
            let target = entry.link_name_bytes().map(|target| target.into_owned());
            let kind = match (header.entry_type(), target) {
                (EntryType::Directory, _) => Kind::Directory,
                (EntryType::Symlink, Some(target)) => Kind::Symlink(target),
                (EntryType::Link, Some(target)) => Kind::Hardlink(plain(&target)),
                (EntryType::Regular, _) => {
                    let mut content = Vec::new();
                    entry.read_to_end(&mut content)?;
                    Kind::File(content)
                }
                (other, _) => bail!("{} is of a kind that no layer of ours holds: {other:?}", String::from_utf8_lossy(&path)),
            };
            tree.insert(path, Entry { mode, owner, kind });
        }
        Ok(tree)
    }

    /// Writes the tree as a tar. Hard links come last, so that what they name is there.
    pub fn write(&self, out: impl Write) -> Result<()> {
        let mut builder = tar::Builder::new(out);
        let is_hard = |entry: &Entry| matches!(entry.kind, Kind::Hardlink(_));
        for (path, entry) in self.0.iter().filter(|(_, it)| !is_hard(it)).chain(self.0.iter().filter(|(_, it)| is_hard(it))) {
            let shown = String::from_utf8_lossy(path);
            append(&mut builder, path, entry).with_context(|| format!("failed to write {shown} into a layer"))?;
        }
        builder.into_inner()?.flush()?;
        Ok(())
    }
}

fn append(builder: &mut tar::Builder<impl Write>, path: &[u8], entry: &Entry) -> Result<()> {
    let mut header = Header::new_gnu();
    header.set_mode(entry.mode);
    header.set_uid(entry.owner.0);
    header.set_gid(entry.owner.1);
    header.set_mtime(EPOCH);
    header.set_size(0);
    let path = as_path(path);
    match &entry.kind {
        Kind::Directory => {
            header.set_entry_type(EntryType::Directory);
            builder.append_data(&mut header, path.join(""), std::io::empty())?;
        }
        Kind::File(content) => {
            header.set_entry_type(EntryType::Regular);
            header.set_size(content.len() as u64);
            builder.append_data(&mut header, path, content.as_slice())?;
        }
        Kind::Symlink(target) => {
            header.set_entry_type(EntryType::Symlink);
            builder.append_link(&mut header, path, as_path(target))?;
        }
        Kind::Hardlink(target) => {
            header.set_entry_type(EntryType::Link);
            builder.append_link(&mut header, path, as_path(target))?;
        }
    }
    Ok(())
}

fn as_path(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}

/// `./usr/bin/` as `usr/bin`.
fn plain(path: &[u8]) -> Vec<u8> {
    let path = path.strip_prefix(b".").filter(|rest| rest.is_empty() || rest[0] == b'/').unwrap_or(path);
    let start = path.iter().position(|byte| *byte != b'/').unwrap_or(path.len());
    let end = path.iter().rposition(|byte| *byte != b'/').map_or(start, |last| last + 1);
    path[start..end].to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(tree: &Tree) -> Vec<u8> {
        let mut out = Vec::new();
        tree.write(&mut out).unwrap();
        out
    }

    #[test]
    fn the_order_of_additions_does_not_matter() {
        let (mut a, mut b) = (Tree::default(), Tree::default());
        a.file("usr/bin/x", 0o755, "x");
        a.symlink("bin", "usr/bin");
        b.symlink("bin", "usr/bin");
        b.file("usr/bin/x", 0o755, "x");
        assert_eq!(written(&a), written(&b));
    }

    #[test]
    fn a_tree_survives_being_written_and_read_but_for_its_set_id_bits() {
        let mut tree = Tree::default();
        tree.file("usr/bin/su", 0o4755, "su");
        tree.directory("tmp", 0o1777);
        tree.directory("home/me", 0o700);
        tree.own("home/me", 100, 65533);
        let long = format!("usr/{}/ő=", "long/".repeat(30));
        tree.file(&long, 0o644, "named at length");
        tree.put("a-link", 0o755, Kind::Hardlink(b"usr/bin/su".to_vec()));
        let again = Tree::read(written(&tree).as_slice(), |_| true).unwrap();
        assert_eq!(again.content(&long), Some(b"named at length".as_slice()));
        assert_eq!(again.0[b"usr/bin/su".as_slice()].mode, 0o755);
        assert_eq!(again.0[b"tmp".as_slice()].mode, 0o1777);
        assert_eq!(again.0[b"home/me".as_slice()].owner, (100, 65533));
        assert!(matches!(&again.0[b"a-link".as_slice()].kind, Kind::Hardlink(target) if target == b"usr/bin/su"));
    }

    #[test]
    fn names_of_a_tar_are_read_without_dots_and_slashes_around_them() {
        assert_eq!(plain(b"./usr/bin/"), b"usr/bin");
        assert_eq!(plain(b"./"), b"");
        assert_eq!(plain(b"."), b"");
        assert_eq!(plain(b".hidden"), b".hidden");
    }
}
