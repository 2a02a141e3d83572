//! User namespaces: whether a container gets one, and whose ids its own are outside.
//!
//! Nothing on disk knows about the mapping: layers, writable layers and volumes have the container's ids, and are
//! mounted ID-mapped. So containers with and without a user namespace share images and volumes.

use corten_image::tar::{IdMap, IdRange};
use corten_wire::api::host_config::HostConfig;
use corten_wire::oci_runtime::IdMapping;

use crate::config::{EngineConfig, UserMap};
use crate::error::{Result, invalid};

/// The mapping of a container, if it gets a user namespace.
pub(crate) fn of<'a>(daemon: &'a EngineConfig, h: &HostConfig) -> Option<&'a UserMap> {
    daemon.userns.as_ref().filter(|_| h.userns_mode != "host")
}

/// What cannot be had together with a user namespace.
pub(crate) fn check(daemon: &EngineConfig, h: &HostConfig) -> Result<()> {
    if of(daemon, h).is_none() {
        return Ok(());
    }
    // COMPAT: moby's words, the two spaces included.
    if h.privileged {
        return Err(invalid(
            "privileged mode is incompatible with user namespaces.  You must run the container in the host namespace when running privileged mode",
        ));
    }
    if h.network_mode == "host" {
        return Err(invalid("cannot share the host's network namespace when user namespaces are enabled"));
    }
    if h.pid_mode == "host" {
        return Err(invalid("cannot share the host PID namespace when user namespaces are enabled"));
    }
    Ok(())
}

impl UserMap {
    /// User and group that the container's root is outside.
    #[must_use]
    pub fn root(&self) -> Option<(u32, u32)> {
        let first = |all: &[IdMapping]| all.iter().find(|m| m.container_id == 0).map(|m| m.host_id);
        Some((first(&self.uids)?, first(&self.gids)?))
    }
}

/// The mapping of a running process, as the kernel has it; none for one that sees the same ids as we do.
pub(crate) fn of_process(pid: i32) -> IdMap {
    let own = std::fs::read_link("/proc/self/ns/user").ok();
    if own.is_none() || std::fs::read_link(format!("/proc/{pid}/ns/user")).ok() == own {
        return IdMap::default();
    }
    let read =
        |file: &str| ranges(&std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default());
    IdMap { uids: read("uid_map"), gids: read("gid_map") }
}

fn ranges(text: &str) -> Vec<IdRange> {
    let line = |l: &str| {
        let mut fields = l.split_ascii_whitespace().map(str::parse);
        let mut next = || fields.next()?.ok();
        Some(IdRange { inside: next()?, outside: next()?, size: next()? })
    };
    text.lines().filter_map(line).collect()
}

/// `--mount …,idmap=uids=FROM-TO-SIZE#…;gids=…`: ids on disk, and whose they are in the container. Empty for those of
/// the container's user namespace.
///
/// # Errors
/// The text is not that.
pub(crate) fn parse_idmap(text: &str) -> Result<(Vec<IdMapping>, Vec<IdMapping>)> {
    let bad = || {
        invalid(format!("invalid idmap {text:?}: uids=FROM-TO-SIZE[#…];gids=FROM-TO-SIZE[#…] is expected"))
    };
    let (mut uids, mut gids) = (Vec::new(), Vec::new());
    if text.is_empty() {
        return Ok((uids, gids));
    }
    for part in text.split(';') {
        let (list, all) = match part.split_once('=').ok_or_else(bad)? {
            ("uids", list) => (list, &mut uids),
            ("gids", list) => (list, &mut gids),
            _ => return Err(bad()),
        };
        for range in list.split('#') {
            let mut numbers = range.split('-').map(|n| n.parse::<u32>().ok());
            let mut next = || numbers.next().flatten().ok_or_else(bad);
            let mapping = IdMapping { container_id: next()?, host_id: next()?, size: next()? };
            let end = |first: u32| first.checked_add(mapping.size);
            let fits =
                mapping.size > 0 && end(mapping.container_id).is_some() && end(mapping.host_id).is_some();
            if numbers.next().is_some() || !fits {
                return Err(bad());
            }
            all.push(mapping);
        }
    }
    if uids.is_empty() || gids.is_empty() {
        return Err(bad());
    }
    Ok((uids, gids))
}

/// The same as the host counts: ids of a container with a user namespace are others there.
pub(crate) fn outside(mappings: &[IdMapping], of_container: Option<&[IdMapping]>) -> Result<Vec<IdMapping>> {
    let Some(ranges) = of_container else { return Ok(mappings.to_vec()) };
    mappings
        .iter()
        .map(|m| {
            let within = |r: &&IdMapping| {
                m.host_id
                    .checked_sub(r.container_id)
                    .is_some_and(|at| u64::from(at) + u64::from(m.size) <= u64::from(r.size))
            };
            let range = ranges.iter().find(within).ok_or_else(|| {
                let last = m.host_id + m.size - 1;
                invalid(format!("idmap: the container has no ids {} to {last}", m.host_id))
            })?;
            Ok(IdMapping { host_id: range.host_id + (m.host_id - range.container_id), ..*m })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idmaps_of_mounts() {
        let read = |text: &str| {
            let show = |all: Vec<IdMapping>| {
                all.iter()
                    .map(|m| format!("{} {} {}", m.container_id, m.host_id, m.size))
                    .collect::<Vec<_>>()
                    .join(",")
            };
            parse_idmap(text).map(|(u, g)| format!("{}/{}", show(u), show(g))).map_err(|_| ())
        };
        assert_eq!(read("").as_deref(), Ok("/"));
        assert_eq!(read("uids=0-1000-1#5-6-7;gids=0-100-1").as_deref(), Ok("0 1000 1,5 6 7/0 100 1"));
        for bad in [
            "uids=0-1-1",
            "uids=0-1;gids=0-1-1",
            "x=1",
            "uids=0-1-0;gids=0-0-1",
            "uids=1-4294967295-2;gids=0-0-1",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
        let container = [IdMapping { container_id: 0, host_id: 100_000, size: 65_536 }];
        let one = [IdMapping { container_id: 0, host_id: 1000, size: 1 }];
        assert_eq!(outside(&one, Some(&container)).unwrap()[0].host_id, 101_000);
        assert_eq!(outside(&one, None).unwrap(), one);
        let far = [IdMapping { container_id: 0, host_id: 65_535, size: 2 }];
        assert!(outside(&far, Some(&container)).is_err());
    }

    #[test]
    fn refusals_are_dockers() {
        let mut daemon = EngineConfig::new("/d".into(), "/e".into());
        let privileged = HostConfig { privileged: true, ..HostConfig::default() };
        check(&daemon, &privileged).unwrap();
        daemon.userns = Some(UserMap::default());
        assert!(
            check(&daemon, &privileged)
                .unwrap_err()
                .to_string()
                .starts_with("privileged mode is incompatible")
        );
        check(&daemon, &HostConfig { userns_mode: "host".into(), ..privileged }).unwrap();
        let pid = HostConfig { pid_mode: "host".into(), ..HostConfig::default() };
        assert!(check(&daemon, &pid).is_err());
    }
}
