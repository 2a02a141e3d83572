//! Mount options as the OCI specification and fstab write them.

use corten_sys::mount::{Change, Propagation, attr};

/// Options of one mount, sorted by who deals with them.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// It is a bind mount.
    pub(crate) bind: bool,
    /// … with what is mounted below.
    pub(crate) recursive: bool,
    /// For the mount itself.
    pub(crate) change: Change,
    /// For the mount and those below.
    pub(crate) deep: Change,
    /// For the mount and those below, where true.
    pub(crate) propagation: Option<(Propagation, bool)>,
    /// Files belong to other ids than on disk; for those below as well, where true.
    pub(crate) map_ids: Option<bool>,
    /// It begins with what is in its place.
    pub(crate) copy_up: bool,
    /// For the file system.
    pub(crate) data: Vec<String>,
}

/// Sorts the options; an option that asks for what we do not have is an error.
pub(crate) fn parse(fstype: &str, options: &[String]) -> Result<Options, String> {
    let mut all = Options { bind: fstype == "bind", ..Options::default() };
    for option in options {
        let name = option.as_str();
        match name {
            "bind" => all.bind = true,
            "rbind" => (all.bind, all.recursive) = (true, true),
            "defaults" | "" | "async" | "nomand" | "nolazytime" | "noiversion" => {}
            "private" => all.propagation = Some((Propagation::Private, false)),
            "rprivate" => all.propagation = Some((Propagation::Private, true)),
            "slave" => all.propagation = Some((Propagation::Slave, false)),
            "rslave" => all.propagation = Some((Propagation::Slave, true)),
            "shared" => all.propagation = Some((Propagation::Shared, false)),
            "rshared" => all.propagation = Some((Propagation::Shared, true)),
            "unbindable" => all.propagation = Some((Propagation::Unbindable, false)),
            "runbindable" => all.propagation = Some((Propagation::Unbindable, true)),
            "tmpcopyup" if fstype == "tmpfs" => all.copy_up = true,
            "idmap" => all.map_ids = Some(false),
            "ridmap" => all.map_ids = Some(true),
            "tmpcopyup" | "remount" => {
                return Err(format!("mount option {name:?} is not supported"));
            }
            _ => {
                if let Some((set, clear)) = attribute(name) {
                    adjust(&mut all.change, set, clear);
                } else if let Some((set, clear)) = name.strip_prefix('r').and_then(attribute) {
                    adjust(&mut all.deep, set, clear);
                } else {
                    all.data.push(option.clone());
                }
            }
        }
    }
    if all.bind {
        // COMPAT: what is for a file system says nothing to one that is there already; mount(2) ignores it, and so do
        // runc and crun.
        all.data.clear();
    }
    Ok(all)
}

fn adjust(change: &mut Change, set: u64, clear: u64) {
    change.set = change.set & !clear | set;
    change.clear = change.clear & !set | clear;
    // The kernel wants all access-time bits cleared where one is set.
    if change.set & attr::ATIME != 0 {
        change.clear |= attr::ATIME;
    }
}

fn attribute(name: &str) -> Option<(u64, u64)> {
    Some(match name {
        "ro" => (attr::RDONLY, 0),
        "rw" => (0, attr::RDONLY),
        "nosuid" => (attr::NOSUID, 0),
        "suid" => (0, attr::NOSUID),
        "nodev" => (attr::NODEV, 0),
        "dev" => (0, attr::NODEV),
        "noexec" => (attr::NOEXEC, 0),
        "exec" => (0, attr::NOEXEC),
        "noatime" => (attr::NOATIME, attr::ATIME),
        "strictatime" => (attr::STRICTATIME, attr::ATIME),
        "relatime" | "atime" | "norelatime" | "nostrictatime" => (0, attr::ATIME),
        "nodiratime" => (attr::NODIRATIME, 0),
        "diratime" => (0, attr::NODIRATIME),
        "nosymfollow" => (attr::NOSYMFOLLOW, 0),
        "symfollow" => (0, attr::NOSYMFOLLOW),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sorted_by_addressee() {
        let parse = |text: &str| super::parse("", &text.split(',').map(str::to_owned).collect::<Vec<_>>());
        let o = parse("rbind,rro,nosuid,rslave").unwrap();
        assert!(o.bind && o.recursive && o.data.is_empty());
        assert_eq!((o.deep.set, o.change.set), (attr::RDONLY, attr::NOSUID));
        assert_eq!(o.propagation, Some((Propagation::Slave, true)));
        let o = parse("ro,rw,size=64k,mode=700,strictatime").unwrap();
        assert_eq!(o.data, ["size=64k", "mode=700"]);
        assert_eq!(o.change.set, attr::STRICTATIME);
        assert!(parse("bind,size=3").unwrap().data.is_empty() && parse("tmpcopyup").is_err());
    }
}
