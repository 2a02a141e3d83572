//! `--chown` and `--chmod`.

use std::io::Read;
use std::os::fd::BorrowedFd;

use rustix::fs::OFlags;

use super::tree;
use crate::error::BuildError;

/// Largest passwd or group file that is read.
const FILE_LIMIT: u64 = 4 << 20;

/// Owner that `--chown=user[:group]` names, by the files of the image.
pub(crate) fn owner(root: BorrowedFd<'_>, text: &str) -> Result<(u32, u32), BuildError> {
    if text.is_empty() {
        return Ok((0, 0));
    }
    let (user, group) = match text.split_once(':') {
        None => (text, text),
        Some((user, group)) if !group.contains(':') => (user, group),
        Some(_) => return Err(BuildError::invalid(format!("invalid chown string format: {text}"))),
    };
    let (user, group) =
        (if user.is_empty() { "0" } else { user }, if group.is_empty() { "0" } else { group });
    let find = |name: &str, file: &str, what: &str, thing: &str| {
        id(root, name, file).ok_or_else(|| {
            BuildError::invalid(format!(
                "unable to convert uid/gid chown string to host mapping: can't find {what} for {thing} {name}: no such {thing}: {name}"
            ))
        })
    };
    Ok((find(user, "etc/passwd", "uid", "user")?, find(group, "etc/group", "gid", "group")?))
}

/// A number as it is, a name by the file. A name of digits is a number, whatever the file says.
fn id(root: BorrowedFd<'_>, name: &str, file: &str) -> Option<u32> {
    if let Ok(number) = name.parse() {
        return Some(number);
    }
    let file = std::fs::File::from(tree::open(root, file, OFlags::RDONLY).ok()?);
    let mut text = Vec::new();
    file.take(FILE_LIMIT).read_to_end(&mut text).ok()?;
    String::from_utf8_lossy(&text).lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok())?
    })
}

/// `--chmod`: octal, or `u=rwX,go=rX`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ModeChange {
    Octal(u32),
    Symbolic(Vec<Clause>),
}

/// `ugo+rwx`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Clause {
    /// Mask of whose bits are changed.
    who: u32,
    operator: char,
    permissions: String,
}

impl ModeChange {
    pub(crate) fn parse(text: &str) -> Result<Option<Self>, BuildError> {
        let invalid = || {
            BuildError::invalid(format!(
                "invalid chmod parameter: '{text}'. it should be octal string and between 0 and 07777"
            ))
        };
        if text.is_empty() {
            return Ok(None);
        }
        if text.bytes().all(|b| b.is_ascii_digit()) {
            let mode = u32::from_str_radix(text, 8).ok().filter(|m| *m <= 0o7777).ok_or_else(invalid)?;
            return Ok(Some(Self::Octal(mode)));
        }
        let mut clauses = Vec::new();
        for part in text.split(',') {
            let at = part.find(['+', '-', '=']).ok_or_else(invalid)?;
            let (who, rest) = part.split_at(at);
            let mut mask = 0;
            for c in who.chars() {
                mask |= match c {
                    'u' => 0o4700,
                    'g' => 0o2070,
                    'o' => 0o1007,
                    'a' => 0o7777,
                    _ => return Err(invalid()),
                };
            }
            let permissions = &rest[1..];
            if !permissions.chars().all(|c| "rwxXst".contains(c)) {
                return Err(invalid());
            }
            clauses.push(Clause {
                who: if mask == 0 { 0o7777 } else { mask },
                operator: rest.chars().next().unwrap_or('='),
                permissions: permissions.to_owned(),
            });
        }
        Ok(Some(Self::Symbolic(clauses)))
    }

    pub(crate) fn apply(&self, mode: u32, is_dir: bool) -> u32 {
        let clauses = match self {
            Self::Octal(mode) => return *mode,
            Self::Symbolic(clauses) => clauses,
        };
        clauses.iter().fold(mode, |mode, clause| {
            let mut bits = 0;
            for c in clause.permissions.chars() {
                bits |= match c {
                    'r' => 0o444,
                    'w' => 0o222,
                    'x' => 0o111,
                    'X' if is_dir || mode & 0o111 != 0 => 0o111,
                    's' => 0o6000,
                    't' => 0o1000,
                    _ => 0,
                };
            }
            let bits = bits & clause.who;
            match clause.operator {
                '+' => mode | bits,
                '-' => mode & !bits,
                _ => (mode & !(clause.who & 0o777)) | bits,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn modes() {
        for (text, mode, is_dir, want) in [
            ("755", 0o600, false, 0o755),
            ("u=rwX,go=rX", 0o600, false, 0o644),
            ("u=rwX,go=rX", 0o700, true, 0o755),
            ("+x", 0o644, false, 0o755),
            ("go-r", 0o644, false, 0o600),
            ("u+s", 0o755, false, 0o4755),
        ] {
            assert_eq!(ModeChange::parse(text).unwrap().unwrap().apply(mode, is_dir), want, "{text}");
        }
        assert!(ModeChange::parse("99").is_err() && ModeChange::parse("u~x").is_err());
    }

    #[test]
    fn owners() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        std::fs::write(dir.path().join("etc/passwd"), "root:x:0:0::/:\nalice:x:1000:1000::/:\n1:x:7:7::/:\n")
            .unwrap();
        std::fs::write(dir.path().join("etc/group"), "wheel:x:10:\nalice:x:1001:\n").unwrap();
        let root = std::fs::File::open(dir.path()).unwrap();
        let check = |text: &str| owner(root.as_fd(), text).map_err(|e| e.to_string());
        assert_eq!(check("alice:wheel"), Ok((1000, 10)));
        assert_eq!(check("alice"), Ok((1000, 1001)));
        assert_eq!(check("1:2"), Ok((1, 2)));
        assert_eq!(check("5"), Ok((5, 5)));
        assert!(check("bob").unwrap_err().ends_with("no such user: bob"));
        assert!(check("0:staff").unwrap_err().ends_with("no such group: staff"));
    }
}
