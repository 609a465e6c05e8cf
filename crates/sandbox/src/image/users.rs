//! Names of users to numbers, by the image's own `/etc/passwd` and `/etc/group`.
//!
//! The files are looked up as the container will see them, through the layers from the top, and links in them lead nowhere
//! but into the image.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Component, Path, PathBuf};

use super::Image;
use super::error::ImageError;
use crate::User;

/// More than this is no table of users.
const TABLE_BYTES: u64 = 8 << 20;
/// How many links are followed for one file.
const LINKS: usize = 32;
const OPAQUE: &str = "trusted.overlay.opaque";

/// The ids `user` means in `image`: a name or a number, with `:group` or without; empty for root. Further groups are those
/// that `/etc/group` lists the name under, unless a group was given.
pub fn resolve_user(image: &Image, user: &str) -> Result<User, ImageError> {
    let (name, group) = match user.split_once(':') {
        Some((name, group)) => (name, Some(group).filter(|group| !group.is_empty())),
        None => (user, None),
    };
    let name = if name.is_empty() { "0" } else { name };
    let passwd = table(image, "etc/passwd")?;
    let groups = table(image, "etc/group")?;
    let error = |reason: &str| ImageError::User { user: user.chars().take(100).collect(), reason: reason.to_owned() };
    let account = accounts(&passwd).find(|account| account.name == name).or_else(|| {
        let uid: u32 = name.parse().ok()?;
        accounts(&passwd).find(|account| account.uid == uid)
    });
    let uid = match (&account, name.parse::<u32>()) {
        (Some(account), _) => account.uid,
        (None, Ok(uid)) => uid,
        (None, Err(_)) => return Err(error("no matching entries in passwd file")),
    };
    if let Some(group) = group {
        let gid = group_id(&groups, group).ok_or_else(|| error("no matching entries in group file"))?;
        return Ok(User { uid, gid, groups: Vec::new() });
    }
    let gid = account.as_ref().map_or(0, |account| account.gid);
    let further = account.map(|account| memberships(&groups, account.name, gid)).unwrap_or_default();
    Ok(User { uid, gid, groups: further })
}

struct Account<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
}

fn accounts(passwd: &str) -> impl Iterator<Item = Account<'_>> {
    passwd.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let (name, _, uid, gid) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        Some(Account { name, uid: uid.parse().ok()?, gid: gid.parse().ok()? })
    })
}

fn groups_of(groups: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    groups.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let (name, _, gid) = (fields.next()?, fields.next()?, fields.next()?);
        Some((name, gid.parse().ok()?, fields.next().unwrap_or_default()))
    })
}

fn group_id(groups: &str, wanted: &str) -> Option<u32> {
    let named = groups_of(groups).find(|(name, _, _)| *name == wanted).map(|(_, gid, _)| gid);
    named.or_else(|| wanted.parse().ok())
}

fn memberships(groups: &str, user: &str, primary: u32) -> Vec<u32> {
    let mut found: Vec<u32> = groups_of(groups)
        .filter(|(_, gid, members)| *gid != primary && members.split(',').any(|member| member == user))
        .map(|(_, gid, _)| gid)
        .take(65_536)
        .collect();
    found.sort_unstable();
    found.dedup();
    found
}

fn table(image: &Image, path: &str) -> Result<String, ImageError> {
    let layers: Vec<&Path> = image
        .root
        .overlays
        .iter()
        .find(|overlay| overlay.at == Path::new("/"))
        .map(|overlay| overlay.lower.iter().map(|layer| layer.path.as_path()).collect())
        .unwrap_or_default();
    let Some(file) = find(&layers, Path::new(path)) else { return Ok(String::new()) };
    let mut content = Vec::new();
    File::open(&file)
        .and_then(|open| open.take(TABLE_BYTES).read_to_end(&mut content))
        .map_err(ImageError::disk("read", &file))?;
    Ok(String::from_utf8_lossy(&content).into_owned())
}

/// Where the regular file that an overlay of `layers` shows at `path` lies.
fn find(layers: &[&Path], path: &Path) -> Option<PathBuf> {
    let mut links = LINKS;
    let mut left: Vec<_> = names(path);
    let mut at = PathBuf::new();
    while let Some(name) = left.pop() {
        if name == ".." {
            at.pop();
            continue;
        }
        let next = at.join(&name);
        let found = look_up(layers, &next)?;
        let kind = fs::symlink_metadata(&found).ok()?.file_type();
        if kind.is_symlink() {
            links = links.checked_sub(1)?;
            let target = fs::read_link(&found).ok()?;
            if target.is_absolute() {
                at = PathBuf::new();
            }
            left.extend(names(&target));
        } else if left.is_empty() {
            return kind.is_file().then_some(found);
        } else {
            at = next;
        }
    }
    None
}

/// Parts of a path, last first.
fn names(path: &Path) -> Vec<std::ffi::OsString> {
    let part = |part: Component<'_>| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    };
    path.components().rev().filter_map(part).collect()
}

/// The uppermost entry at `path`, none of whose parents is a link, unless something above hides it.
fn look_up(layers: &[&Path], path: &Path) -> Option<PathBuf> {
    for layer in layers {
        let mut place = layer.to_path_buf();
        let mut hides = false;
        let mut there = true;
        for part in path.components() {
            place.push(part);
            let Ok(metadata) = fs::symlink_metadata(&place) else {
                there = false;
                break;
            };
            let kind = metadata.file_type();
            if kind.is_char_device() && metadata.rdev() == 0 {
                return None;
            }
            if place == layer.join(path) {
                break;
            }
            if !kind.is_dir() {
                return None;
            }
            hides |= is_opaque(&place);
        }
        if there {
            return Some(place);
        }
        if hides {
            return None;
        }
    }
    None
}

fn is_opaque(directory: &Path) -> bool {
    let mut value = [0; 1];
    rustix::fs::lgetxattr(directory, OPAQUE, &mut value).is_ok_and(|length| length == 1 && value[0] == b'y')
}
