//! `idmap=uids=FROM-TO-SIZE#…;gids=…` among the options of a mount, as podman passes it on: a mount's owners in one word
//! instead of in the specification's lists.
//!
//! FROM are ids on disk, TO those that the host sees instead; with `@` before the three numbers, those that the
//! container sees.

use corten_wire::oci_runtime::{IdMapping, Spec};

use super::OciError;

/// All ids: what is not spoken of stays as it is.
const SAME: IdMapping = IdMapping { container_id: 0, host_id: 0, size: u32::MAX };

/// Puts what such options say where the specification has it.
pub(super) fn spell_out(spec: &mut Spec) -> Result<(), OciError> {
    let none = Default::default();
    let linux = spec.linux.as_ref().unwrap_or(&none);
    for mount in &mut spec.mounts {
        for option in &mut mount.options {
            let Some((name @ ("idmap" | "ridmap"), text)) = option.split_once('=') else { continue };
            let wrong = || OciError::refused(format!("invalid mount option {name}={text}"));
            let both = [("uids", &linux.uid_mappings), ("gids", &linux.gid_mappings)];
            let [uids, gids] = both.map(|(kind, container)| mappings(text, kind, container));
            let known = |part: &str| part.starts_with("uids=") || part.starts_with("gids=");
            if !text.split(';').all(known) {
                return Err(wrong());
            }
            mount.uid_mappings = uids.ok_or_else(wrong)?;
            mount.gid_mappings = gids.ok_or_else(wrong)?;
            *option = name.to_owned();
        }
    }
    Ok(())
}

/// Those of one kind. Who says nothing of it means the container's users, or where there are none that nothing changes.
fn mappings(text: &str, kind: &str, container: &[IdMapping]) -> Option<Vec<IdMapping>> {
    let list = text.split(';').find_map(|part| part.strip_prefix(kind)?.strip_prefix('='));
    match list {
        None if container.is_empty() => Some(vec![SAME]),
        None => Some(container.to_vec()),
        Some(list) => list.split('#').map(|triplet| mapping(triplet, container)).collect(),
    }
}

fn mapping(triplet: &str, container: &[IdMapping]) -> Option<IdMapping> {
    let (relative, numbers) = triplet.strip_prefix('@').map_or((false, triplet), |rest| (true, rest));
    let mut numbers = numbers.split('-').map(|n| n.parse::<u32>().ok());
    let mut next = || numbers.next().flatten();
    let (container_id, to, size) = (next()?, next()?, next()?);
    if numbers.next().is_some() || size == 0 || container_id.checked_add(size).is_none() {
        return None;
    }
    let last = to.checked_add(size - 1)?;
    let host_id = if relative && !container.is_empty() {
        let within = |m: &&IdMapping| {
            to >= m.container_id && u64::from(last) < u64::from(m.container_id) + u64::from(m.size)
        };
        let range = container.iter().find(within)?;
        range.host_id + (to - range.container_id)
    } else {
        to
    };
    Some(IdMapping { container_id, host_id, size })
}

#[cfg(test)]
mod tests {
    use super::*;
    use corten_wire::oci_runtime::{Linux, Mount};

    #[test]
    fn options_become_lists() {
        let map = |container_id, host_id, size| IdMapping { container_id, host_id, size };
        let show = |all: &[IdMapping]| {
            let all: Vec<_> =
                all.iter().map(|m| format!("{}:{}:{}", m.container_id, m.host_id, m.size)).collect();
            all.join(",")
        };
        let read = |option: &str, users: bool| {
            let mappings = if users { vec![map(0, 100_000, 1000)] } else { Vec::new() };
            let linux = Linux { uid_mappings: mappings.clone(), gid_mappings: mappings, ..Linux::default() };
            let mount = Mount { options: vec!["rbind".into(), option.to_owned()], ..Mount::default() };
            let mut spec = Spec { mounts: vec![mount], linux: Some(linux), ..Spec::default() };
            spell_out(&mut spec).ok()?;
            let mount = &spec.mounts[0];
            Some(format!("{} {} {}", mount.options[1], show(&mount.uid_mappings), show(&mount.gid_mappings)))
        };
        for (option, users, want) in [
            ("idmap=uids=0-5-10#10-15-1;gids=1-2-3", false, Some("idmap 0:5:10,10:15:1 1:2:3")),
            ("ridmap=uids=0-5-1", false, Some("ridmap 0:5:1 0:0:4294967295")),
            ("idmap=gids=0-7-1", true, Some("idmap 0:100000:1000 0:7:1")),
            ("idmap=uids=@7-3-2;gids=@0-0-1000", true, Some("idmap 7:100003:2 0:100000:1000")),
            ("idmap=uids=@0-999-2;gids=0-0-1", true, None),
            ("idmap", true, Some("idmap  ")),
            ("idmap=", false, None),
            ("idmap=uids=0-1", false, None),
            ("idmap=uids=0-1-0;gids=0-0-1", false, None),
            ("idmap=uids=0-1-2-3", false, None),
            ("idmap=uids=x-1-2", false, None),
            ("idmap=users=0-1-2", false, None),
        ] {
            assert_eq!(read(option, users).as_deref(), want, "{option}");
        }
    }
}
