//! `--user` and `--group-add`: names looked up in the container's own passwd and group files, beneath its root.
//!
//! A number is always a number, even if some user is called that (CVE-2016-3697). The files are read up to
//! [`MAX_FILE`] bytes, whatever the image contains.

use std::collections::HashSet;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;

use corten_wire::shim::UserSpec;

/// Largest passwd or group file that we read.
const MAX_FILE: u64 = 4 << 20;
/// Most supplementary groups; the kernel's own limit.
const MAX_GROUPS: usize = 65_536;

/// Who a process runs as.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    /// User.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Supplementary groups, the primary one included (CVE-2022-36109).
    pub groups: Vec<u32>,
}

/// The user or group cannot be determined.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// No such name.
    #[error("unable to find user {0}: no matching entries in passwd file")]
    NoUser(String),
    /// No such name.
    #[error("unable to find group {0}: no matching entries in group file")]
    NoGroup(String),
    /// A number that is none.
    #[error("uids and gids must be in range 0-2147483647")]
    Range,
    /// The file is there but cannot be read, or is too large.
    #[error("{path}: {source}")]
    File {
        /// `/etc/passwd` or `/etc/group`.
        path: &'static str,
        /// Why.
        source: io::Error,
    },
}

impl UserError {
    /// For the API's status; the reference engine answers 500 to all of them.
    #[must_use]
    pub fn kind(&self) -> corten_base::Kind {
        corten_base::Kind::Internal
    }
}

fn read(root: BorrowedFd<'_>, path: &'static str) -> Result<String, UserError> {
    match corten_sys::path::read_limited(root, Path::new(path), MAX_FILE) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(String::new())
        }
        Err(source) => Err(UserError::File { path, source }),
    }
}

struct Passwd<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

fn passwd(text: &str) -> impl Iterator<Item = Passwd<'_>> {
    text.lines().filter(|l| !l.trim_start().starts_with('#')).filter_map(|line| {
        let mut fields = line.trim().split(':');
        let (name, _, uid, gid) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        let home = fields.nth(1).unwrap_or_default();
        Some(Passwd { name, uid: uid.parse().ok()?, gid: gid.parse().ok()?, home })
    })
}

fn groups(text: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    text.lines().filter(|l| !l.trim_start().starts_with('#')).filter_map(|line| {
        let mut fields = line.trim().split(':');
        let (name, _, gid) = (fields.next()?, fields.next()?, fields.next()?);
        Some((name, gid.parse().ok()?, fields.next().unwrap_or_default()))
    })
}

/// `Some` if the text is a number at all; then it is never a name.
fn number(text: &str) -> Option<Result<u32, UserError>> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let value =
        text.parse::<i64>().ok().and_then(|n| u32::try_from(n).ok()).filter(|n| *n <= i32::MAX as u32);
    Some(value.ok_or(UserError::Range))
}

/// Resolves a user specification beneath `root`.
///
/// # Errors
/// See [`UserError`]; the texts are the reference engine's.
pub fn resolve(root: BorrowedFd<'_>, spec: &UserSpec) -> Result<Identity, UserError> {
    let group_text = if spec.user.is_empty() && spec.group_add.is_empty() {
        String::new()
    } else {
        read(root, "/etc/group")?
    };
    let passwd_text = if spec.user.is_empty() { String::new() } else { read(root, "/etc/passwd")? };
    look_up(&passwd_text, &group_text, spec)
}

/// The same with the texts of the two files.
pub(crate) fn look_up(passwd_text: &str, group_text: &str, spec: &UserSpec) -> Result<Identity, UserError> {
    let (user, group) = spec.user.split_once(':').unwrap_or((&spec.user, ""));
    let mut identity = Identity::default();
    let mut name = None;
    if !spec.user.is_empty() {
        let wanted = number(user).transpose()?;
        let found = passwd(passwd_text).find(|p| match wanted {
            Some(uid) => p.uid == uid,
            None if user.is_empty() => p.uid == 0,
            None => p.name == user,
        });
        match (found, wanted) {
            (Some(p), _) => {
                identity = Identity { uid: p.uid, gid: p.gid, groups: Vec::new() };
                name = Some(p.name.to_owned());
            }
            (None, Some(uid)) => identity.uid = uid,
            (None, None) if user.is_empty() => {}
            (None, None) => return Err(UserError::NoUser(user.to_owned())),
        }
    }
    let mut supplementary = Vec::new();
    if !group.is_empty() {
        identity.gid = find_group(group_text, group)?;
    } else if let Some(name) = name {
        let member = |members: &str| members.split(',').any(|m| m == name);
        supplementary.extend(groups(group_text).filter(|g| member(g.2)).map(|g| g.1));
    }
    for extra in &spec.group_add {
        supplementary.push(find_group(group_text, extra)?);
    }
    // A set beside the list: an image can name hundreds of thousands of groups.
    let mut seen = HashSet::from([identity.gid]);
    identity.groups = vec![identity.gid];
    for gid in supplementary {
        if identity.groups.len() < MAX_GROUPS && seen.insert(gid) {
            identity.groups.push(gid);
        }
    }
    if identity.uid > i32::MAX as u32 || identity.groups.iter().any(|g| *g > i32::MAX as u32) {
        return Err(UserError::Range);
    }
    Ok(identity)
}

fn find_group(text: &str, wanted: &str) -> Result<u32, UserError> {
    if let Some(gid) = number(wanted) {
        return gid;
    }
    let found = groups(text).find(|g| g.0 == wanted);
    found.map(|g| g.1).ok_or_else(|| UserError::NoGroup(wanted.to_owned()))
}

/// The home directory of a user, `/` if unknown.
#[must_use]
pub fn home(root: BorrowedFd<'_>, uid: u32) -> String {
    let text = read(root, "/etc/passwd").unwrap_or_default();
    let home = passwd(&text).find(|p| p.uid == uid).map(|p| p.home.to_owned());
    home.filter(|h| !h.is_empty()).unwrap_or_else(|| "/".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn names_numbers_and_traps() {
        let dir = std::env::temp_dir().join(format!("corten-user-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("etc")).unwrap();
        let passwd = "root:x:0:0:root:/root:/bin/sh\n# no\nbroken\n1000:x:0:0:trap:/:/bin/sh\n\
                      alice:x:1000:1000::/home:/bin/sh\n";
        std::fs::write(dir.join("etc/passwd"), passwd).unwrap();
        std::fs::write(dir.join("etc/group"), "root:x:0:\nwheel:x:10:alice\ndaemon:x:1:\nalice:x:1000:\n")
            .unwrap();
        let root = std::fs::File::open(&dir).unwrap();
        let get = |user: &str, add: &[&str]| {
            let group_add = add.iter().map(ToString::to_string).collect();
            resolve(root.as_fd(), &UserSpec { user: user.into(), group_add })
                .map(|i| format!("{}:{} {:?}", i.uid, i.gid, i.groups))
                .map_err(|e| e.to_string())
        };
        for (user, add, want) in [
            ("", &[][..], Ok("0:0 [0]")),
            ("alice", &[], Ok("1000:1000 [1000, 10]")),
            ("1000", &[], Ok("1000:1000 [1000, 10]")),
            ("1234:4321", &[], Ok("1234:4321 [4321]")),
            ("1234", &[], Ok("1234:0 [0]")),
            ("alice:wheel", &[], Ok("1000:10 [10]")),
            ("alice", &["daemon", "77"], Ok("1000:1000 [1000, 10, 1, 77]")),
            (":wheel", &[], Ok("0:10 [10]")),
            ("nobody-here", &[], Err("unable to find user nobody-here: no matching entries in passwd file")),
            ("root:nogroup", &[], Err("unable to find group nogroup: no matching entries in group file")),
            ("-1", &[], Err("uids and gids must be in range 0-2147483647")),
            ("4294967296", &[], Err("uids and gids must be in range 0-2147483647")),
        ] {
            assert_eq!(get(user, add), want.map(str::to_owned).map_err(str::to_owned), "{user} {add:?}");
        }
        assert_eq!((home(root.as_fd(), 1000), home(root.as_fd(), 9)), ("/home".into(), "/".into()));
        std::fs::File::create(dir.join("etc/passwd")).unwrap().set_len(MAX_FILE + 1).unwrap();
        assert!(get("alice", &[]).is_err());
        std::fs::remove_dir_all(dir).unwrap();
    }
}
