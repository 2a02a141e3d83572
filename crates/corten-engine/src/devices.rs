//! `DeviceRequests` (`--gpus`, `--device vendor.com/class=name`): which devices they mean, and what these change in a
//! container's configuration.
//!
//! There is one driver, the Container Device Interface; requests for GPUs are put into its names. Nothing but the
//! request decides: annotations of containers and images are never looked at (CVE-2026-53492).

mod cdi;
mod edits;

use std::path::PathBuf;

use corten_wire::api::host_config::DeviceRequest;
use corten_wire::api::system::DeviceInfo;
use corten_wire::oci_runtime::Spec;

use crate::error::{Result, internal};
use cdi::Registry;

/// Kinds of GPUs by vendor, in the order in which a request that names no driver finds them.
const GPUS: [(&str, &str); 2] = [("nvidia", "nvidia.com/gpu"), ("amd", "amd.com/gpu")];

/// What devices change besides the specification.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Injected {
    /// Groups that the container's user is to be in.
    pub(crate) groups: Vec<u32>,
    /// Programs are to be run while the container is made.
    pub(crate) hooks: bool,
}

/// Puts the devices of all requests into the specification.
pub(crate) fn inject(
    spec: &mut Spec,
    requests: &[DeviceRequest],
    dirs: &[PathBuf],
    uid: Option<u32>,
) -> Result<Injected> {
    if requests.is_empty() {
        return Ok(Injected::default());
    }
    let registry = Registry::read(dirs);
    let mut names = Vec::new();
    for request in requests {
        names.extend(wanted(request, &registry, !dirs.is_empty())?);
    }
    let all = registry.resolve(&names).map_err(|e| internal(format!("CDI device injection failed: {e}")))?;
    edits::apply(spec, &all, uid).map_err(|e| internal(format!("CDI device injection failed: {e}")))
}

/// `GET /info` shows what could be asked for.
pub(crate) fn discovered(dirs: &[PathBuf]) -> Vec<DeviceInfo> {
    let registry = Registry::read(dirs);
    registry.names().map(|id| DeviceInfo { source: "cdi".to_owned(), id: id.to_owned() }).collect()
}

/// The qualified names that a request means.
fn wanted(request: &DeviceRequest, registry: &Registry, enabled: bool) -> Result<Vec<String>> {
    let refuse = || {
        let sets = request.capabilities.iter().flatten().map(|set| format!("[{}]", set.join(" ")));
        let sets = sets.collect::<Vec<_>>().join(" ");
        internal(format!("could not select device driver {:?} with capabilities: [{sets}]", request.driver))
    };
    let ids = request.device_ids.as_deref().unwrap_or_default();
    if request.driver == "cdi" {
        return if enabled { Ok(ids.to_vec()) } else { Err(refuse()) };
    }
    let gpu = request.capabilities.iter().flatten().any(|set| set.iter().any(|c| c == "gpu"));
    let driver = request.driver.strip_suffix(".cdi").unwrap_or(&request.driver);
    let known = GPUS.iter().filter(|(vendor, _)| driver.is_empty() || driver == *vendor);
    let kind = known.map(|(_, kind)| *kind).find(|kind| registry.has_kind(kind));
    let Some(kind) = kind.filter(|_| gpu) else { return Err(refuse()) };
    if !ids.is_empty() && request.count > 0 {
        return Err(internal("cannot set both Count and DeviceIDs on device request"));
    }
    let own = |id: &String| if id.contains('=') { id.clone() } else { format!("{kind}={id}") };
    Ok(match (ids, request.count) {
        ([], count) if count < 0 => vec![format!("{kind}=all")],
        ([], count) => (0..count).map(|n| format!("{kind}={n}")).collect(),
        (ids, _) => ids.iter().map(own).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const VENDOR: &str = r#"
cdiVersion: "0.6.0"
kind: vendor.com/net
containerEdits:
  env: [ "VENDOR=1", "PATH=/vendor" ]
devices:
  - name: a
    containerEdits:
      deviceNodes:
        - { path: /dev/vendor, hostPath: /dev/null, permissions: rw }
      mounts:
        - { hostPath: /usr, containerPath: /vendor/lib, options: [ ro, bind ] }
      additionalGids: [ 42 ]
  - name: b
    containerEdits:
      hooks:
        - { hookName: createContainer, path: /bin/true, args: [ "true", "x" ] }
"#;

    fn dirs() -> (tempfile::TempDir, Vec<PathBuf>) {
        let dir = tempfile::tempdir().unwrap();
        let (low, high) = (dir.path().join("low"), dir.path().join("high"));
        for d in [&low, &high] {
            std::fs::create_dir(d).unwrap();
        }
        std::fs::write(low.join("vendor.yaml"), VENDOR).unwrap();
        std::fs::write(low.join("ignored.txt"), "nonsense").unwrap();
        let gpu = |n: &str| format!(r#"{{"name":"{n}","containerEdits":{{"env":["GPU_{n}=1"]}}}}"#);
        let gpus = ["0", "1", "all"].map(gpu).join(",");
        let text = format!(r#"{{"cdiVersion":"0.5.0","kind":"nvidia.com/gpu","devices":[{gpus}]}}"#);
        std::fs::write(high.join("nvidia.json"), text).unwrap();
        (dir, vec![low, high, "/nowhere".into()])
    }

    fn request(text: &str) -> DeviceRequest {
        serde_json::from_str(text).unwrap()
    }

    fn env(requests: &[&str]) -> Result<Vec<String>, String> {
        let (_dir, dirs) = dirs();
        let mut spec = Spec { process: Some(Default::default()), ..Spec::default() };
        spec.process.as_mut().unwrap().env = vec!["PATH=/bin".into()];
        let requests: Vec<_> = requests.iter().map(|r| request(r)).collect();
        inject(&mut spec, &requests, &dirs, None).map_err(|e| e.to_string())?;
        Ok(spec.process.unwrap().env)
    }

    #[test]
    fn requests_become_names() {
        for (text, want) in [
            (r#"{"Driver":"cdi","DeviceIDs":["vendor.com/net=a"]}"#, Ok(vec!["PATH=/vendor", "VENDOR=1"])),
            (r#"{"Count":-1,"Capabilities":[["gpu"]]}"#, Ok(vec!["PATH=/bin", "GPU_all=1"])),
            (r#"{"Count":2,"Capabilities":[["gpu"]]}"#, Ok(vec!["PATH=/bin", "GPU_0=1", "GPU_1=1"])),
            (
                r#"{"Driver":"nvidia","DeviceIDs":["1"],"Capabilities":[["gpu"]]}"#,
                Ok(vec!["PATH=/bin", "GPU_1=1"]),
            ),
            (
                r#"{"Count":-1,"Capabilities":[["tpu","x"],["y"]]}"#,
                Err("could not select device driver \"\" with capabilities: [[tpu x] [y]]"),
            ),
            (
                r#"{"Driver":"amd","Count":1,"Capabilities":[["gpu"]]}"#,
                Err("could not select device driver \"amd\" with capabilities: [[gpu]]"),
            ),
            (
                r#"{"Driver":"cdi","DeviceIDs":["vendor.com/net=a","x.y/z=1"]}"#,
                Err("CDI device injection failed: unresolvable CDI devices x.y/z=1"),
            ),
        ] {
            let want = want.map(|l| l.into_iter().map(str::to_owned).collect()).map_err(str::to_owned);
            assert_eq!(env(&[text]), want, "{text}");
        }
    }

    #[test]
    fn everything_of_a_device_arrives() {
        let (_dir, dirs) = dirs();
        let mut spec = Spec::default();
        let both = request(r#"{"Driver":"cdi","DeviceIDs":["vendor.com/net=a","vendor.com/net=b"]}"#);
        let injected = inject(&mut spec, &[both], &dirs, Some(1000)).unwrap();
        assert_eq!(injected, Injected { groups: vec![42], hooks: true });
        let linux = spec.linux.unwrap();
        let node = &linux.devices[0];
        assert_eq!((node.path.to_str(), node.major, node.minor), (Some("/dev/vendor"), 1, 3));
        assert_eq!((node.kind.as_str(), node.uid), ("c", Some(1000)));
        let rule = &linux.resources.unwrap().devices[0];
        assert_eq!((rule.allow, rule.major, rule.access.as_str()), (true, Some(1), "rw"));
        assert_eq!(spec.mounts[0].destination.to_str(), Some("/vendor/lib"));
        assert_eq!(spec.hooks.unwrap().create_container[0].args, ["true", "x"]);
        let found: Vec<_> = discovered(&dirs).into_iter().map(|d| d.id).collect();
        let want = [
            "nvidia.com/gpu=0",
            "nvidia.com/gpu=1",
            "nvidia.com/gpu=all",
            "vendor.com/net=a",
            "vendor.com/net=b",
        ];
        assert_eq!(found, want);
    }
}
