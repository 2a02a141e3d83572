//! The local driver's own mounts: what `type`, `device` and `o` of a volume mean to mount(2). Options are mount(8)'s,
//! so a network file system is mounted without a helper program: names of servers are looked up here, as the kernel
//! only takes addresses. Which volume is mounted when is not decided here.

use std::ffi::CString;
use std::net::{IpAddr, ToSocketAddrs};
use std::path::Path;

use corten_wire::api::TextMap;
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};

use crate::error::{Error, Result, internal, invalid};

/// Refuses options that no mount can be made of.
pub(super) fn check(name: &str, options: &TextMap) -> Result<()> {
    if let Some(bad) = options.keys().find(|k| !matches!(k.as_str(), "type" | "device" | "o" | "size")) {
        return Err(invalid(format!("create {name}: invalid option: {bad:?}")));
    }
    let given = |key: &str| options.get(key).is_some_and(|v| !v.is_empty());
    if given("size") {
        return Err(invalid(format!("create {name}: quota size requested but no quota support")));
    }
    for (key, needed) in [("type", "device"), ("device", "type"), ("o", "device"), ("o", "type")] {
        if given(key) && !given(needed) {
            return Err(invalid(format!("create {name}: missing required option: {needed:?}")));
        }
    }
    Ok(())
}

/// What mount(2) is called with.
#[derive(Debug, PartialEq, Eq)]
struct Call {
    device: String,
    fstype: String,
    flags: MountFlags,
    propagation: MountPropagationFlags,
    data: String,
}

impl Call {
    /// `resolve` finds the address of a server.
    fn of(options: &TextMap, resolve: impl Fn(&str) -> std::io::Result<IpAddr>) -> Result<Self> {
        let get = |key: &str| options.get(key).map_or("", String::as_str);
        let (mut flags, mut propagation) = (MountFlags::empty(), MountPropagationFlags::empty());
        let mut data = Vec::new();
        for word in get("o").split(',').filter(|w| !w.is_empty()) {
            if let Some((on, flag)) = flag(word) {
                flags.set(flag, on);
            } else if let Some(kind) = self::propagation(word) {
                propagation |= kind;
            } else {
                data.push(word.to_owned());
            }
        }
        let mut device = get("device").to_owned();
        if matches!(get("type"), "nfs" | "nfs4" | "cifs" | "smb3") {
            let address = |host: &str| {
                let fail =
                    |e| Error::io(format!("error resolving passed in network volume address {host}"), e);
                if host.parse::<IpAddr>().is_ok() {
                    Ok(host.to_owned())
                } else {
                    resolve(host).map(|ip| ip.to_string()).map_err(fail)
                }
            };
            match data.iter_mut().find_map(|w| Some((w.strip_prefix("addr=")?.to_owned(), w))) {
                Some((host, word)) => *word = format!("addr={}", address(&host)?),
                None if get("type").starts_with("nfs") => {}
                // The host of `//server/share`.
                None => {
                    let server = device.trim_start_matches('/').split('/').next().unwrap_or_default();
                    if !server.is_empty() {
                        data.push(format!("addr={}", address(server)?));
                    }
                }
            }
        }
        if flags.contains(MountFlags::BIND) {
            data.clear();
        } else if device.is_empty() {
            device = "none".into();
        }
        Ok(Self { device, fstype: get("type").to_owned(), flags, propagation, data: data.join(",") })
    }
}

/// Mounts what the options describe.
pub(super) fn mount(options: &TextMap, target: &Path) -> Result<()> {
    let lookup = |host: &str| {
        let mut found = (host, 0).to_socket_addrs()?;
        found.next().map(|a| a.ip()).ok_or_else(|| std::io::Error::other("no such host"))
    };
    let call = Call::of(options, lookup)?;
    let fail = |e: rustix::io::Errno| {
        Error::io(
            format!(
                "failed to mount local volume: mount {}:{}, data: {}",
                call.device,
                target.display(),
                without_secrets(&call.data)
            ),
            e,
        )
    };
    let data = CString::new(call.data.as_str()).map_err(|_| invalid("mount options contain a zero byte"))?;
    rustix::mount::mount(
        call.device.as_str(),
        target,
        call.fstype.as_str(),
        call.flags,
        Some(data.as_c_str()),
    )
    .map_err(fail)?;
    // The first call of a bind mount ignores every other flag.
    let more = call.flags - MountFlags::REC;
    if call.flags.contains(MountFlags::BIND) && more != MountFlags::BIND {
        rustix::mount::mount_remount(target, more, c"").map_err(fail)?;
    }
    if !call.propagation.is_empty() {
        rustix::mount::mount_change(target, call.propagation).map_err(fail)?;
    }
    Ok(())
}

/// Takes the mount away, if there is one.
pub(super) fn unmount(target: &Path) -> Result<()> {
    if is_mounted(target) {
        rustix::mount::unmount(target, UnmountFlags::DETACH)
            .map_err(|e| Error::io(format!("unmount {}", target.display()), std::io::Error::from(e)))?;
    }
    if is_mounted(target) {
        return Err(internal(format!("{} is still mounted", target.display())));
    }
    Ok(())
}

/// Whether a path is the root of a mount. Does not talk to the server of a network file system.
pub(super) fn is_mounted(path: &Path) -> bool {
    use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | AtFlags::STATX_DONT_SYNC;
    let found = statx(CWD, path, flags, StatxFlags::empty());
    found.is_ok_and(|s| s.stx_attributes.contains(rustix::fs::StatxAttributes::MOUNT_ROOT))
}

/// A flag of mount(8), and whether the word sets or clears it.
fn flag(word: &str) -> Option<(bool, MountFlags)> {
    Some(match word {
        "bind" => (true, MountFlags::BIND),
        "rbind" => (true, MountFlags::BIND | MountFlags::REC),
        "ro" => (true, MountFlags::RDONLY),
        "rw" => (false, MountFlags::RDONLY),
        "noexec" => (true, MountFlags::NOEXEC),
        "exec" => (false, MountFlags::NOEXEC),
        "nosuid" => (true, MountFlags::NOSUID),
        "suid" => (false, MountFlags::NOSUID),
        "nodev" => (true, MountFlags::NODEV),
        "dev" => (false, MountFlags::NODEV),
        "noatime" => (true, MountFlags::NOATIME),
        "atime" => (false, MountFlags::NOATIME),
        "nodiratime" => (true, MountFlags::NODIRATIME),
        "diratime" => (false, MountFlags::NODIRATIME),
        "relatime" => (true, MountFlags::RELATIME),
        "norelatime" => (false, MountFlags::RELATIME),
        "strictatime" => (true, MountFlags::STRICTATIME),
        "nostrictatime" => (false, MountFlags::STRICTATIME),
        "sync" => (true, MountFlags::SYNCHRONOUS),
        "async" => (false, MountFlags::SYNCHRONOUS),
        "dirsync" => (true, MountFlags::DIRSYNC),
        "mand" => (true, MountFlags::PERMIT_MANDATORY_FILE_LOCKING),
        "nomand" => (false, MountFlags::PERMIT_MANDATORY_FILE_LOCKING),
        "defaults" => (true, MountFlags::empty()),
        _ => return None,
    })
}

fn propagation(word: &str) -> Option<MountPropagationFlags> {
    let kind = match word.strip_prefix('r').unwrap_or(word) {
        "private" => MountPropagationFlags::PRIVATE,
        "shared" => MountPropagationFlags::SHARED,
        "slave" => MountPropagationFlags::DOWNSTREAM,
        "unbindable" => MountPropagationFlags::UNBINDABLE,
        _ => return None,
    };
    Some(if word.starts_with('r') { kind | MountPropagationFlags::REC } else { kind })
}

/// The options without passwords, for errors.
fn without_secrets(data: &str) -> String {
    let words = data.split(',').map(|w| match w.split_once('=') {
        Some((key @ ("password" | "pass" | "password2"), _)) => format!("{key}=********"),
        _ => w.to_owned(),
    });
    words.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(kind: &str, device: &str, o: &str) -> TextMap {
        let all = [("type", kind), ("device", device), ("o", o)];
        all.into_iter().filter(|(_, v)| !v.is_empty()).map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
    }

    #[test]
    fn servers_are_addresses_and_flags_are_no_data() {
        let resolve = |host: &str| match host {
            "nas" => Ok("192.0.2.7".parse().unwrap()),
            _ => Err(std::io::Error::other("no such host")),
        };
        for (kind, device, o, want) in [
            ("nfs", ":/x", "addr=nas,rw,nfsvers=4,noatime", Ok((":/x", "addr=192.0.2.7,nfsvers=4"))),
            ("nfs", ":/x", "addr=198.51.100.1", Ok((":/x", "addr=198.51.100.1"))),
            ("nfs4", ":/x", "addr=2001:db8::1,ro", Ok((":/x", "addr=2001:db8::1"))),
            ("cifs", "//nas/share", "username=me", Ok(("//nas/share", "username=me,addr=192.0.2.7"))),
            ("cifs", "//nas/share", "addr=nas", Ok(("//nas/share", "addr=192.0.2.7"))),
            ("cifs", "//192.0.2.9/s", "ro", Ok(("//192.0.2.9/s", "addr=192.0.2.9"))),
            ("tmpfs", "tmpfs", "size=1m,uid=5,nosuid", Ok(("tmpfs", "size=1m,uid=5"))),
            ("none", "/srv", "bind,uid=5", Ok(("/srv", ""))),
            (
                "nfs",
                ":/x",
                "addr=gone",
                Err("error resolving passed in network volume address gone: no such host"),
            ),
        ] {
            let got = Call::of(&options(kind, device, o), resolve).map_err(|e| e.chain());
            let got = got.as_ref().map(|c| (c.device.as_str(), c.data.as_str())).map_err(String::as_str);
            assert_eq!(got, want, "{kind} {device} {o}");
        }
    }

    #[test]
    fn flags_and_propagation() {
        let call =
            Call::of(&options("none", "/x", "rbind,ro,noexec,exec,rslave"), |_| unreachable!()).unwrap();
        assert_eq!(call.flags, MountFlags::BIND | MountFlags::REC | MountFlags::RDONLY);
        assert_eq!(call.propagation, MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC);
    }

    #[test]
    fn what_is_missing_is_named() {
        for (kind, device, o, want) in [
            ("nfs", "", "addr=1.2.3.4", "create v: missing required option: \"device\""),
            ("", "/x", "bind", "create v: missing required option: \"type\""),
            ("", "", "ro", "create v: missing required option: \"device\""),
        ] {
            assert_eq!(check("v", &options(kind, device, o)).unwrap_err().to_string(), want);
        }
        let quota = TextMap::from([("size".to_owned(), "1g".to_owned())]);
        let text = check("v", &quota).unwrap_err().to_string();
        assert_eq!(text, "create v: quota size requested but no quota support");
    }

    #[test]
    fn passwords_are_not_shown() {
        assert_eq!(without_secrets("username=a,password=b,x"), "username=a,password=********,x");
    }
}
