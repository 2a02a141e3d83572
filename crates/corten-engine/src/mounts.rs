//! What a container has mounted: `-v`, `--mount`, `--tmpfs`, `--volumes-from` and the image's volumes, made into one
//! list of [`MountRecord`]s. Pure; making volumes and host directories is done by others.
//!
//! Order and precedence are Docker's: `--volumes-from`, then `Binds`, then `Mounts`, then `Tmpfs`, then the
//! configuration's volumes where nothing else is mounted at their path.

use corten_base::Id;
use corten_wire::api::TextMap;
use corten_wire::api::container::ContainerConfig;
use corten_wire::api::host_config::HostConfig;
use corten_wire::api::mount::Mount;

use crate::error::{Result, invalid};
use crate::record::{MountKind, MountRecord};
use crate::userns::parse_idmap;
use crate::validate::{clean, is_propagation};

/// A mount and, for a volume, what to make it with if it is not there yet.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Wanted {
    pub(crate) record: MountRecord,
    pub(crate) labels: TextMap,
    pub(crate) options: TextMap,
}

impl From<MountRecord> for Wanted {
    fn from(record: MountRecord) -> Self {
        Self { record, ..Self::default() }
    }
}

/// Puts the list together. `of` gives the mounts of another container.
pub(crate) fn collect(
    host: &HostConfig,
    config: &ContainerConfig,
    of: impl Fn(&str) -> Result<Vec<MountRecord>>,
) -> Result<Vec<Wanted>> {
    let mut list: Vec<Wanted> = Vec::new();
    let set = |list: &mut Vec<Wanted>, wanted: Wanted| {
        list.retain(|w| w.record.destination != wanted.record.destination);
        list.push(wanted);
    };
    for spec in host.volumes_from.iter().flatten() {
        let (name, mode) = spec.split_once(':').unwrap_or((spec, "rw"));
        if name.is_empty() {
            return Err(invalid(format!("malformed volumes-from specification: {spec}")));
        }
        let writable = !mode.split(',').any(|m| m == "ro");
        if let Some(bad) = mode.split(',').find(|m| !matches!(*m, "ro" | "rw" | "z" | "Z" | "nocopy")) {
            return Err(invalid(format!("invalid mode: {bad}")));
        }
        for from in of(name)?.into_iter().filter(|m| !m.hidden && m.kind != MountKind::Tmpfs) {
            let record = MountRecord {
                rw: from.rw && writable,
                mode: String::new(),
                copy: false,
                anonymous: false,
                ..from
            };
            set(&mut list, record.into());
        }
    }
    let mut taken: Vec<String> = Vec::new();
    let mut claim = |destination: &str| {
        if taken.iter().any(|t| t == destination) {
            return Err(invalid(format!("Duplicate mount point: {destination}")));
        }
        taken.push(destination.to_owned());
        Ok(())
    };
    for spec in host.binds.iter().flatten() {
        let record = bind(spec)?;
        claim(&record.destination)?;
        set(&mut list, record.into());
    }
    for mount in host.mounts.iter().flatten() {
        let wanted = self::mount(mount);
        claim(&wanted.record.destination)?;
        set(&mut list, wanted);
    }
    for (path, options) in &host.tmpfs {
        let record = tmpfs(path, options)?;
        claim(&record.destination)?;
        set(&mut list, MountRecord { hidden: true, ..record }.into());
    }
    for path in config.volumes.iter().flatten().map(|(path, _)| path) {
        if !path.starts_with('/') {
            return Err(invalid(format!("invalid volume specification: '{path}'")));
        }
        let destination = clean(path);
        if destination == "/" {
            return Err(invalid("invalid volume spec \"/\": invalid volume specification: '/'"));
        }
        if !list.iter().any(|w| w.record.destination == destination) {
            list.push(anonymous(destination, "").into());
        }
    }
    Ok(list)
}

fn anonymous(destination: String, mode: &str) -> MountRecord {
    MountRecord {
        kind: MountKind::Volume,
        destination,
        name: Id::random().to_string(),
        driver: "local".into(),
        mode: mode.into(),
        rw: true,
        copy: true,
        anonymous: true,
        ..MountRecord::default()
    }
}

/// `[source:]target[:mode,…]`.
fn bind(spec: &str) -> Result<MountRecord> {
    let bad = || invalid(format!("invalid volume specification: '{spec}'"));
    let parts: Vec<&str> = spec.split(':').collect();
    let (source, target, mode) = match parts[..] {
        [target] => ("", target, ""),
        [source, target] if target.starts_with('/') || !valid_mode(target) => (source, target, ""),
        [source, target, mode] => (source, target, mode),
        _ => return Err(bad()),
    };
    if parts.len() > 1 && source.is_empty() || target.is_empty() {
        return Err(bad());
    }
    if !mode.is_empty() && !valid_mode(mode) {
        return Err(invalid(format!("invalid mode: {mode}")));
    }
    let kind = if source.starts_with('/') { "bind" } else { "volume" };
    let because = |why: String| {
        invalid(format!(
            "invalid volume specification: '{spec}': invalid mount config for type {kind:?}: {why}"
        ))
    };
    if !target.starts_with('/') {
        return Err(because(format!("invalid mount path: '{target}' mount path must be absolute")));
    }
    let destination = clean(target);
    if destination == "/" {
        return Err(because("invalid specification: destination can't be '/'".into()));
    }
    let words: Vec<&str> = mode.split(',').filter(|m| !m.is_empty()).collect();
    let rw = !words.contains(&"ro");
    if source.is_empty() {
        return Ok(anonymous(destination, ""));
    }
    if kind == "bind" {
        if words.contains(&"nocopy") {
            return Err(invalid(format!("invalid mode: {mode}")));
        }
        let propagation = words.iter().find(|w| is_propagation(w)).copied().unwrap_or("rprivate");
        let idmap = words.iter().find_map(|w| idmap(w));
        parse_idmap(idmap.unwrap_or_default())?;
        return Ok(MountRecord {
            destination,
            source: clean(source),
            mode: mode.into(),
            rw,
            propagation: propagation.into(),
            create_source: true,
            idmap: idmap.map(str::to_owned),
            ..MountRecord::default()
        });
    }
    if words.iter().any(|w| is_propagation(w) || idmap(w).is_some()) {
        return Err(invalid(format!("invalid mode: {mode}")));
    }
    Ok(MountRecord {
        kind: MountKind::Volume,
        destination,
        name: source.into(),
        driver: "local".into(),
        mode: if mode.is_empty() { "z".into() } else { mode.into() },
        rw,
        copy: !words.contains(&"nocopy"),
        ..MountRecord::default()
    })
}

/// The value of the option `idmap` (with or without one), if it is that.
fn idmap(mode: &str) -> Option<&str> {
    let rest = mode.strip_prefix("idmap")?;
    if rest.is_empty() { Some("") } else { rest.strip_prefix('=') }
}

fn valid_mode(mode: &str) -> bool {
    let known = |m: &str| {
        matches!(m, "ro" | "rw" | "z" | "Z" | "nocopy" | "consistent" | "cached" | "delegated")
            || is_propagation(m)
            || idmap(m).is_some()
    };
    let words: Vec<&str> = mode.split(',').collect();
    let count = |f: &dyn Fn(&str) -> bool| words.iter().filter(|w| f(w)).count();
    words.iter().all(|w| known(w))
        && count(&|w| matches!(w, "ro" | "rw")) <= 1
        && count(&is_propagation) <= 1
        && count(&|w| idmap(w).is_some()) <= 1
        && count(&|w| matches!(w, "z" | "Z")) <= 1
}

/// One of `HostConfig.Mounts`; `validate` has checked it.
fn mount(m: &Mount) -> Wanted {
    let destination = clean(&m.target);
    let base = MountRecord { destination, rw: !m.read_only, ..MountRecord::default() };
    match m.kind.as_str() {
        "bind" => {
            let options = m.bind_options.clone().unwrap_or_default();
            let propagation = if options.propagation.is_empty() {
                "rprivate".to_owned()
            } else {
                options.propagation.clone()
            };
            MountRecord {
                source: clean(&m.source),
                propagation,
                create_source: options.create_mountpoint,
                non_recursive: options.non_recursive,
                read_only_non_recursive: options.read_only_non_recursive,
                idmap: options.id_map,
                ..base
            }
            .into()
        }
        "tmpfs" => {
            let options = m.tmpfs_options.clone().unwrap_or_default();
            let mut words = default_tmpfs();
            if options.size_bytes > 0 {
                words.push(format!("size={}", options.size_bytes));
            }
            if options.mode != 0 {
                words.push(format!("mode={:o}", options.mode));
            }
            for option in &options.options {
                merge_option(&mut words, &option.join("="));
            }
            if m.read_only {
                words.push("ro".into());
            }
            MountRecord { kind: MountKind::Tmpfs, tmpfs: words, ..base }.into()
        }
        "image" => MountRecord {
            kind: MountKind::Image,
            name: m.source.clone(),
            rw: false,
            subpath: m.image_options.clone().unwrap_or_default().subpath,
            ..base
        }
        .into(),
        _ => {
            let options = m.volume_options.clone().unwrap_or_default();
            let record = MountRecord {
                kind: MountKind::Volume,
                anonymous: m.source.is_empty(),
                name: if m.source.is_empty() { Id::random().to_string() } else { m.source.clone() },
                driver: "local".into(),
                mode: "z".into(),
                copy: !options.no_copy,
                subpath: options.subpath.clone(),
                ..base
            };
            Wanted {
                record,
                labels: options.labels,
                options: options.driver_config.map(|d| d.options).unwrap_or_default(),
            }
        }
    }
}

fn default_tmpfs() -> Vec<String> {
    ["noexec", "nosuid", "nodev"].map(str::to_owned).to_vec()
}

/// Adds an option; `exec` takes `noexec` away and the like.
fn merge_option(words: &mut Vec<String>, option: &str) {
    let key = |w: &str| w.split('=').next().unwrap_or_default().to_owned();
    let opposite = match option {
        "rw" => "ro".to_owned(),
        "ro" => "rw".to_owned(),
        o => o.strip_prefix("no").map_or_else(|| format!("no{o}"), str::to_owned),
    };
    words.retain(|w| *w != opposite && key(w) != key(option));
    words.push(option.to_owned());
}

/// Options of mount(8) that a tmpfs understands.
const TMPFS: &[&str] = &[
    "ro",
    "rw",
    "exec",
    "noexec",
    "suid",
    "nosuid",
    "dev",
    "nodev",
    "sync",
    "async",
    "atime",
    "noatime",
    "diratime",
    "nodiratime",
    "relatime",
    "norelatime",
    "strictatime",
    "nostrictatime",
    "size",
    "mode",
    "uid",
    "gid",
    "nr_inodes",
    "nr_blocks",
    "mpol",
    "private",
    "rprivate",
    "shared",
    "rshared",
    "slave",
    "rslave",
    "huge",
];

fn tmpfs(path: &str, options: &str) -> Result<MountRecord> {
    if !path.starts_with('/') {
        return Err(invalid(format!("invalid mount path: '{path}' mount path must be absolute")));
    }
    let destination = clean(path);
    if destination == "/" {
        return Err(invalid(
            "invalid mount config for type \"tmpfs\": invalid specification: destination can't be '/'",
        ));
    }
    let mut words = default_tmpfs();
    for option in options.split(',').filter(|o| !o.is_empty()) {
        let key = option.split('=').next().unwrap_or_default();
        if !TMPFS.contains(&key) {
            return Err(invalid(format!("invalid tmpfs option [{option:?}]")));
        }
        merge_option(&mut words, option);
    }
    Ok(MountRecord { kind: MountKind::Tmpfs, destination, rw: true, tmpfs: words, ..MountRecord::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(host: &str, config: &str) -> Result<Vec<Wanted>, String> {
        let of = |name: &str| match name {
            "other" => Ok(vec![MountRecord {
                kind: MountKind::Volume,
                destination: "/v".into(),
                name: "vol".into(),
                rw: true,
                mode: "z".into(),
                ..MountRecord::default()
            }]),
            _ => Err(crate::Error::NoSuchContainer(name.into())),
        };
        collect(&serde_json::from_str(host).unwrap(), &serde_json::from_str(config).unwrap(), of)
            .map_err(|e| e.to_string())
    }

    #[test]
    fn binds_and_volumes() {
        let list =
            all(r#"{"Binds":["/usr:/host:ro","named:/n","/anon"]}"#, r#"{"Volumes":{"/image":{},"/n":{}}}"#)
                .unwrap();
        let brief: Vec<_> = list
            .iter()
            .map(|w| {
                (w.record.view().kind, w.record.destination.as_str(), w.record.mode.as_str(), w.record.rw)
            })
            .collect();
        assert_eq!(
            brief,
            [
                ("bind".to_owned(), "/host", "ro", false),
                ("volume".to_owned(), "/n", "z", true),
                ("volume".to_owned(), "/anon", "", true),
                ("volume".to_owned(), "/image", "", true),
            ]
        );
        assert_eq!(list[0].record.propagation, "rprivate");
        assert_eq!(list[2].record.name.len(), 64);
    }

    #[test]
    fn refusals() {
        for (host, want) in [
            (r#"{"Binds":["relative:/x:bogus"]}"#, "invalid mode: bogus"),
            (
                r#"{"Binds":["/tmp:/"]}"#,
                "invalid volume specification: '/tmp:/': invalid mount config for type \"bind\": invalid specification: destination can't be '/'",
            ),
            (r#"{"Binds":["/tmp:/x","/var:/x"]}"#, "Duplicate mount point: /x"),
            (r#"{"Binds":["/tmp:/x:ro:y"]}"#, "invalid volume specification: '/tmp:/x:ro:y'"),
            (r#"{"VolumesFrom":["nope"]}"#, "No such container: nope"),
            (r#"{"Tmpfs":{"/t":"bogus=1"}}"#, "invalid tmpfs option [\"bogus=1\"]"),
        ] {
            assert_eq!(all(host, "{}").unwrap_err(), want, "{host}");
        }
    }

    #[test]
    fn tmpfs_and_volumes_from() {
        let list = all(r#"{"Tmpfs":{"/t":"size=64k,exec"},"VolumesFrom":["other:ro"]}"#, "{}").unwrap();
        assert!(!list[0].record.rw && list[0].record.mode.is_empty());
        assert_eq!(list[1].record.tmpfs, ["nosuid", "nodev", "size=64k", "exec"]);
    }
}
