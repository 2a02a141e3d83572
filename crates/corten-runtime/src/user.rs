//! `--user` and `--group-add`: names looked up in the container's own passwd and group files, beneath its root.
//!
//! A number is always a number, even if some user is called that (CVE-2016-3697). The files are read up to
//! [`MAX_FILE`] bytes, whatever the image contains.

use std::ffi::CStr;
use std::io;
use std::os::fd::BorrowedFd;

use corten_wire::shim::UserSpec;

/// Largest passwd or group file that we read.
const MAX_FILE: usize = 4 << 20;
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

    /// With the names that were looked for.
    pub(crate) fn of(miss: &Miss, spec: &UserSpec) -> Self {
        let (user, group) = parts(spec);
        match miss {
            Miss::User => Self::NoUser(user.to_owned()),
            Miss::Group(0) => Self::NoGroup(group.to_owned()),
            Miss::Group(n) => Self::NoGroup(spec.group_add.get(n - 1).cloned().unwrap_or_default()),
            Miss::Range => Self::Range,
            Miss::Passwd(e) => Self::File { path: "/etc/passwd", source: copy(e) },
            Miss::Groups(e) => Self::File { path: "/etc/group", source: copy(e) },
        }
    }
}

fn copy(e: &io::Error) -> io::Error {
    e.raw_os_error().map_or_else(|| e.kind().into(), io::Error::from_raw_os_error)
}

/// Why a lookup failed, without names: it may happen where there is no memory for them.
#[derive(Debug)]
pub(crate) enum Miss {
    /// The user is not there.
    User,
    /// The group is not there: that of the user at 0, then the added ones.
    Group(usize),
    /// A number that is none.
    Range,
    /// The file cannot be read.
    Passwd(io::Error),
    /// The file cannot be read.
    Groups(io::Error),
}

/// Room for what a lookup reads and finds. The kernel gives memory only for what is used of it.
#[derive(Debug, Default)]
pub(crate) struct Room {
    passwd: Vec<u8>,
    group: Vec<u8>,
    /// Which groups are in the list already: an image can name hundreds of thousands.
    seen: Seen,
}

impl Room {
    /// For a home directory only.
    pub(crate) fn of_home() -> Self {
        Self { passwd: Vec::with_capacity(MAX_FILE + 1), ..Self::default() }
    }

    /// For everything.
    pub(crate) fn of_lookup() -> Self {
        Self { group: Vec::with_capacity(MAX_FILE + 1), seen: Seen::new(), ..Self::of_home() }
    }
}

/// A set of numbers, hashed into a table of fixed size; 0 is a free place.
#[derive(Debug, Default)]
struct Seen(Vec<u32>);

impl Seen {
    fn new() -> Self {
        Self(vec![0; 2 * MAX_GROUPS])
    }

    /// Whether it is new.
    fn insert(&mut self, id: u32) -> bool {
        let (mark, last) = (id.wrapping_add(1), self.0.len() - 1);
        let mut at = (id.wrapping_mul(0x9E37_79B1) >> 8) as usize & last;
        while self.0[at] != 0 {
            if self.0[at] == mark {
                return false;
            }
            at = (at + 1) & last;
        }
        self.0[at] = mark;
        true
    }
}

impl Identity {
    /// Nobody yet, with room for all groups that there can be.
    pub(crate) fn with_room() -> Self {
        Self { groups: Vec::with_capacity(MAX_GROUPS), ..Self::default() }
    }
}

/// What is not there is empty.
fn read(root: BorrowedFd<'_>, path: &CStr, into: &mut Vec<u8>) -> Result<(), io::Error> {
    match corten_sys::path::read_into(root, path, into) {
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            into.clear();
            Ok(())
        }
        other => other,
    }
}

struct Passwd<'a> {
    name: &'a [u8],
    uid: u32,
    gid: u32,
    home: &'a [u8],
}

fn id(field: &[u8]) -> Option<u32> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|b| *b == b'\n').map(<[u8]>::trim_ascii).filter(|l| !l.starts_with(b"#"))
}

fn passwd(text: &[u8]) -> impl Iterator<Item = Passwd<'_>> {
    lines(text).filter_map(|line| {
        let mut fields = line.split(|b| *b == b':');
        let (name, _, uid, gid) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        let home = fields.nth(1).unwrap_or_default();
        Some(Passwd { name, uid: id(uid)?, gid: id(gid)?, home })
    })
}

fn groups(text: &[u8]) -> impl Iterator<Item = (&[u8], u32, &[u8])> {
    lines(text).filter_map(|line| {
        let mut fields = line.split(|b| *b == b':');
        let (name, _, gid) = (fields.next()?, fields.next()?, fields.next()?);
        Some((name, id(gid)?, fields.next().unwrap_or_default()))
    })
}

/// `Some` if the text is a number at all; then it is never a name.
fn number(text: &str) -> Option<Result<u32, Miss>> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let value =
        text.parse::<i64>().ok().and_then(|n| u32::try_from(n).ok()).filter(|n| *n <= i32::MAX as u32);
    Some(value.ok_or(Miss::Range))
}

/// User and group of `--user`.
fn parts(spec: &UserSpec) -> (&str, &str) {
    spec.user.split_once(':').unwrap_or((&spec.user, ""))
}

/// Resolves a user specification beneath `root`.
///
/// # Errors
/// See [`UserError`]; the texts are the reference engine's.
pub fn resolve(root: BorrowedFd<'_>, spec: &UserSpec) -> Result<Identity, UserError> {
    let (mut room, mut identity) = (Room::of_lookup(), Identity::with_room());
    resolve_into(root, spec, &mut room, &mut identity).map_err(|miss| UserError::of(&miss, spec))?;
    identity.groups.shrink_to_fit();
    Ok(identity)
}

/// As [`resolve`], in the room that there is.
pub(crate) fn resolve_into(
    root: BorrowedFd<'_>,
    spec: &UserSpec,
    room: &mut Room,
    identity: &mut Identity,
) -> Result<(), Miss> {
    if !(spec.user.is_empty() && spec.group_add.is_empty()) {
        read(root, c"/etc/group", &mut room.group).map_err(Miss::Groups)?;
    }
    if !spec.user.is_empty() {
        read(root, c"/etc/passwd", &mut room.passwd).map_err(Miss::Passwd)?;
    }
    look_up(spec, room, identity)
}

/// The same with the texts of the two files; for the fuzzer.
pub(crate) fn look_up_in(passwd: &str, group: &str, spec: &UserSpec) -> Result<Identity, UserError> {
    let (passwd, group) = (passwd.as_bytes().to_vec(), group.as_bytes().to_vec());
    let (mut room, mut identity) = (Room { passwd, group, seen: Seen::new() }, Identity::with_room());
    look_up(spec, &mut room, &mut identity).map_err(|miss| UserError::of(&miss, spec))?;
    Ok(identity)
}

fn look_up(spec: &UserSpec, room: &mut Room, identity: &mut Identity) -> Result<(), Miss> {
    let Room { passwd: passwd_text, group: group_text, seen } = room;
    let (user, group) = parts(spec);
    let mut name: Option<&[u8]> = None;
    if !spec.user.is_empty() {
        let wanted = number(user).transpose()?;
        let found = passwd(passwd_text).find(|p| match wanted {
            Some(uid) => p.uid == uid,
            None if user.is_empty() => p.uid == 0,
            None => p.name == user.as_bytes(),
        });
        match (found, wanted) {
            (Some(p), _) => {
                (identity.uid, identity.gid) = (p.uid, p.gid);
                name = Some(p.name);
            }
            (None, Some(uid)) => identity.uid = uid,
            (None, None) if user.is_empty() => {}
            (None, None) => return Err(Miss::User),
        }
    }
    if !group.is_empty() {
        identity.gid = find_group(group_text, group, 0)?;
    }
    identity.groups.clear();
    let gid = identity.gid;
    let mut add = |gid: u32| {
        if identity.groups.len() < MAX_GROUPS && seen.insert(gid) {
            identity.groups.push(gid);
        }
    };
    if spec.user.is_empty() && spec.group_add.is_empty() {
        identity.groups.push(gid);
        return Ok(());
    }
    add(gid);
    if let Some(name) = name.filter(|_| group.is_empty()) {
        let member = |members: &[u8]| members.split(|b| *b == b',').any(|m| m == name);
        groups(group_text).filter(|g| member(g.2)).for_each(|g| add(g.1));
    }
    for (n, extra) in spec.group_add.iter().enumerate() {
        add(find_group(group_text, extra, n + 1)?);
    }
    if identity.uid > i32::MAX as u32 || identity.groups.iter().any(|g| *g > i32::MAX as u32) {
        return Err(Miss::Range);
    }
    Ok(())
}

fn find_group(text: &[u8], wanted: &str, which: usize) -> Result<u32, Miss> {
    if let Some(gid) = number(wanted) {
        return gid;
    }
    let found = groups(text).find(|g| g.0 == wanted.as_bytes());
    found.map(|g| g.1).ok_or(Miss::Group(which))
}

/// The home directory of a user, `/` if unknown.
#[must_use]
pub fn home(root: BorrowedFd<'_>, uid: u32) -> String {
    String::from_utf8_lossy(home_in(root, uid, &mut Room::of_home())).into_owned()
}

/// As [`home`], in the room that there is.
pub(crate) fn home_in<'a>(root: BorrowedFd<'_>, uid: u32, room: &'a mut Room) -> &'a [u8] {
    if read(root, c"/etc/passwd", &mut room.passwd).is_err() {
        room.passwd.clear();
    }
    let home = passwd(&room.passwd).find(|p| p.uid == uid).map(|p| p.home);
    home.filter(|h| !h.is_empty()).unwrap_or(b"/")
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
        std::fs::File::create(dir.join("etc/passwd")).unwrap().set_len(MAX_FILE as u64 + 1).unwrap();
        assert!(get("alice", &[]).is_err());
        std::fs::remove_dir_all(dir).unwrap();
    }
}
