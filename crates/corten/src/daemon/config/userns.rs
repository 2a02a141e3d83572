//! `--userns-remap`: whose ranges of subordinate ids containers get.
//!
//! `default` stands for the user `dockremap`, which is made if it is not there, with ranges at the end of those that
//! are given out already.

use std::path::Path;
use std::process::Command;

use corten_engine::UserMap;
use corten_wire::oci_runtime::IdMapping;

use super::{SettingsError, wrong};

const DEFAULT_USER: &str = "dockremap";
const DEFAULT_SIZE: u32 = 65_536;
/// Where the first ranges begin, as shadow's tools do it.
const FIRST: u32 = 100_000;

/// The files that say who is who and whose ids are whose.
struct Files {
    passwd: String,
    group: String,
    subuid: String,
    subgid: String,
}

impl Files {
    fn read(dir: &Path) -> Self {
        let read = |name: &str| std::fs::read_to_string(dir.join(name)).unwrap_or_default();
        Self { passwd: read("passwd"), group: read("group"), subuid: read("subuid"), subgid: read("subgid") }
    }
}

/// Reads `default`, `user[:group]` or `uid[:gid]`; `None` for root, which nothing can be mapped to. With `make`, the
/// default user comes into being.
pub(super) fn read(text: &str, make: bool) -> Result<Option<UserMap>, SettingsError> {
    let etc = Path::new("/etc");
    if text != "default" {
        return map(text, &Files::read(etc));
    }
    let mut files = Files::read(etc);
    if make && entry(&files.passwd, DEFAULT_USER).is_none() {
        run(Command::new("useradd").args(["--system", "--shell", "/bin/false", DEFAULT_USER]))?;
        files = Files::read(etc);
    }
    if make && ranges(&files.subuid, DEFAULT_USER, None).is_empty() {
        let (first, last) = free(&files.subuid, &files.subgid);
        let range = format!("{first}-{last}");
        run(Command::new("usermod").args(["-v", &range, "-w", &range, DEFAULT_USER]))?;
        files = Files::read(etc);
    }
    match entry(&files.passwd, DEFAULT_USER) {
        None if !make => Ok(None),
        _ => map(DEFAULT_USER, &files),
    }
}

fn run(command: &mut Command) -> Result<(), SettingsError> {
    let shown = format!("{command:?}");
    let failed = |why: &str| wrong(format!("Couldn't create subordinate ID ranges: {shown}: {why}"));
    let output = command.output().map_err(|e| failed(&e.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    Err(failed(String::from_utf8_lossy(&output.stderr).trim()))
}

/// Name and id of an entry of passwd or group, found by either.
fn entry(text: &str, wanted: &str) -> Option<(String, u32)> {
    let number = wanted.parse::<u32>().ok();
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let id = fields.nth(1)?.parse().ok()?;
        (name == wanted || number == Some(id)).then(|| (name.to_owned(), id))
    })
}

fn map(text: &str, files: &Files) -> Result<Option<UserMap>, SettingsError> {
    let (user, group) = text.split_once(':').unwrap_or((text, ""));
    if user.is_empty() || group.contains(':') {
        return Err(wrong(format!("invalid user/group specification in --userns-remap: {text:?}")));
    }
    let (name, uid) = entry(&files.passwd, user)
        .ok_or_else(|| wrong(format!("error during {user:?} lookup: user: unknown user {user}")))?;
    let group = if group.is_empty() { name.as_str() } else { group };
    let (group, _) = entry(&files.group, group).ok_or_else(|| {
        wrong(format!("error during gid lookup for {group:?}: group: unknown group {group}"))
    })?;
    if name == "root" {
        return Ok(None);
    }
    let of = |file: &str, what: &str| {
        let all = ranges(file, &name, Some(uid));
        if all.is_empty() {
            return Err(wrong(format!("Can't create ID mappings: no {what} ranges found for user {name:?}")));
        }
        Ok(all)
    };
    let (uids, gids) = (of(&files.subuid, "subuid")?, of(&files.subgid, "subgid")?);
    Ok(Some(UserMap { name: format!("{name}:{group}"), uids, gids }))
}

/// The ranges of a user, one after the other from 0 inside.
fn ranges(text: &str, name: &str, uid: Option<u32>) -> Vec<IdMapping> {
    let mut next = 0u32;
    let mut all = Vec::new();
    for line in text.lines() {
        let mut fields = line.trim().split(':');
        let owner = fields.next().unwrap_or_default();
        let mut number = || fields.next().and_then(|n| n.parse::<u32>().ok());
        let (Some(first), Some(size)) = (number(), number()) else { continue };
        let is_owner = owner == name || uid.is_some_and(|u| owner == u.to_string());
        let Some(end) = next.checked_add(size).filter(|_| is_owner && size > 0) else { continue };
        all.push(IdMapping { container_id: next, host_id: first, size });
        next = end;
    }
    all
}

/// A range behind all that are given out.
fn free(subuid: &str, subgid: &str) -> (u32, u32) {
    let ends = subuid.lines().chain(subgid.lines()).filter_map(|line| {
        let mut fields = line.trim().split(':').skip(1).map(str::parse::<u32>);
        Some(fields.next()?.ok()?.saturating_add(fields.next()?.ok()?))
    });
    let first = ends.max().unwrap_or(FIRST).max(FIRST);
    (first, first.saturating_add(DEFAULT_SIZE - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files() -> Files {
        Files {
            passwd: "root:x:0:0::/root:/bin/sh\nalice:x:1000:1000::/:/bin/sh\nbob:x:1001:1001::/:/bin/sh\n"
                .into(),
            group: "root:x:0:\nalice:x:1000:\nbob:x:1001:\n".into(),
            subuid: "alice:100000:1000\n1000:300000:64536\nother:400000:65536\n".into(),
            subgid: "alice:200000:65536\n".into(),
        }
    }

    #[test]
    fn users_and_their_ranges() {
        let all = map("alice", &files()).unwrap().unwrap();
        assert_eq!(all.name, "alice:alice");
        let shown: Vec<_> = all.uids.iter().map(|m| (m.container_id, m.host_id, m.size)).collect();
        assert_eq!(shown, [(0, 100_000, 1000), (1000, 300_000, 64_536)]);
        assert_eq!(all.root(), Some((100_000, 200_000)));
        assert_eq!(map("1000:bob", &files()).unwrap().unwrap().name, "alice:bob");
        assert!(map("root", &files()).unwrap().is_none());
        assert_eq!(free(&files().subuid, &files().subgid), (465_536, 531_071));
        for (text, want) in [
            ("bob", "Can't create ID mappings: no subuid ranges found for user \"bob\""),
            ("carol", "error during \"carol\" lookup: user: unknown user carol"),
            ("alice:carol", "error during gid lookup for \"carol\": group: unknown group carol"),
            ("a:b:c", "invalid user/group specification in --userns-remap: \"a:b:c\""),
        ] {
            assert_eq!(map(text, &files()).unwrap_err().to_string(), want);
        }
    }
}
