//! A request's configuration on top of the image's, and the daemon's defaults below the host configuration. Pure.

use corten_runtime::spec::{MASKED_PATHS, READONLY_PATHS};
use corten_wire::api::container::{ContainerConfig, Healthcheck};
use corten_wire::api::host_config::HostConfig;
use corten_wire::oci_image;

use crate::config::EngineConfig;
use crate::error::{Result, invalid};

/// Fills what the request leaves open from the image; refuses what then has nothing to run.
pub(crate) fn config(
    mut user: ContainerConfig,
    image: &oci_image::ContainerConfig,
) -> Result<ContainerConfig> {
    if user.user.is_empty() {
        user.user.clone_from(&image.user);
    }
    for port in image.exposed_ports.iter().flatten() {
        if let Ok(port) = port.0.parse() {
            user.exposed_ports.entry(port).or_default();
        }
    }
    merge_env(&mut user.env, image.env.as_deref().unwrap_or_default());
    if let Some(labels) = &image.labels {
        let own = user.labels.get_or_insert_default();
        for (key, value) in labels {
            own.entry(key.clone()).or_insert_with(|| value.clone());
        }
    }
    if user.entrypoint.as_ref().is_none_or(Vec::is_empty) {
        if user.cmd.as_ref().is_none_or(Vec::is_empty) {
            user.cmd.clone_from(&image.cmd);
        }
        if user.entrypoint.is_none() {
            user.entrypoint.clone_from(&image.entrypoint);
        }
    }
    merge_health(&mut user.healthcheck, image.healthcheck.as_ref());
    if user.working_dir.is_empty() {
        user.working_dir.clone_from(&image.working_dir);
    }
    for path in image.volumes.iter().flatten() {
        user.volumes.get_or_insert_default().entry(path.0.clone()).or_default();
    }
    if user.stop_signal.is_empty() {
        user.stop_signal.clone_from(&image.stop_signal);
    }
    // COMPAT: `Entrypoint: [""]` takes the image's entry point away.
    if user.entrypoint.as_deref() == Some(&[String::new()]) {
        user.entrypoint = None;
    }
    if user.entrypoint.as_ref().is_none_or(Vec::is_empty) && user.cmd.as_ref().is_none_or(Vec::is_empty) {
        return Err(invalid("no command specified"));
    }
    Ok(user)
}

fn merge_env(user: &mut Option<Vec<String>>, image: &[String]) {
    if image.is_empty() {
        return;
    }
    let own = user.get_or_insert_default();
    let name = |e: &str| e.split('=').next().unwrap_or_default().to_owned();
    for entry in image {
        if !own.iter().any(|o| name(o) == name(entry)) {
            own.push(entry.clone());
        }
    }
}

fn merge_health(user: &mut Option<Healthcheck>, image: Option<&oci_image::HealthcheckConfig>) {
    let Some(image) = image else { return };
    let Some(image) =
        serde_json::to_value(image).ok().and_then(|v| serde_json::from_value::<Healthcheck>(v).ok())
    else {
        return;
    };
    let Some(own) = user else {
        *user = Some(image);
        return;
    };
    if own.test.as_ref().is_none_or(Vec::is_empty) {
        own.test = image.test;
    }
    for (own, inherited) in [
        (&mut own.interval, image.interval),
        (&mut own.timeout, image.timeout),
        (&mut own.start_period, image.start_period),
        (&mut own.start_interval, image.start_interval),
        (&mut own.retries, image.retries),
    ] {
        if *own == 0 {
            *own = inherited;
        }
    }
}

/// Fills in the daemon's defaults.
pub(crate) fn host_config(mut h: HostConfig, daemon: &EngineConfig, cgroup_v2: bool) -> HostConfig {
    if matches!(h.network_mode.as_str(), "" | "default") {
        h.network_mode = "bridge".into();
    }
    if h.memory > 0 && h.memory_swap == 0 {
        h.memory_swap = h.memory.saturating_mul(2);
    }
    if h.memory_swappiness == Some(-1) {
        h.memory_swappiness = None;
    }
    h.oom_kill_disable = Some(h.oom_kill_disable.unwrap_or(false));
    h.pids_limit = h.pids_limit.filter(|l| *l > 0);
    if h.shm_size == 0 {
        h.shm_size = daemon.shm_size;
    }
    if h.ipc_mode.is_empty() {
        h.ipc_mode.clone_from(&daemon.ipc_mode);
    }
    if h.cgroupns_mode.is_empty() {
        h.cgroupns_mode = match daemon.cgroupns_mode.as_str() {
            "" if cgroup_v2 && !h.privileged => "private".into(),
            "" => "host".into(),
            mode => mode.into(),
        };
    }
    if h.runtime.is_empty() {
        h.runtime.clone_from(&daemon.default_runtime);
    }
    if h.restart_policy.name.is_empty() {
        h.restart_policy.name = "no".into();
    }
    if !h.privileged {
        let list = |paths: &[&str]| Some(paths.iter().map(|p| (*p).to_owned()).collect());
        h.masked_paths = h.masked_paths.or_else(|| list(MASKED_PATHS));
        h.readonly_paths = h.readonly_paths.or_else(|| list(READONLY_PATHS));
    }
    if !daemon.ulimits.is_empty() {
        let own = h.ulimits.get_or_insert_default();
        for limit in &daemon.ulimits {
            if !own.iter().any(|u| u.name == limit.name) {
                own.push(limit.clone());
            }
        }
    }
    h.log_config = log_config(h.log_config, daemon);
    h
}

/// COMPAT: without a driver the daemon's options apply, with the same driver they fill up.
fn log_config(
    mut own: corten_wire::api::host_config::LogConfig,
    daemon: &EngineConfig,
) -> corten_wire::api::host_config::LogConfig {
    if own.kind.is_empty() {
        own.kind.clone_from(&daemon.log.kind);
    }
    if own.kind == daemon.log.kind {
        for (key, value) in &daemon.log.config {
            own.config.entry(key.clone()).or_insert_with(|| value.clone());
        }
    }
    own
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(json: &str) -> oci_image::ContainerConfig {
        serde_json::from_str(json).unwrap()
    }

    fn user(json: &str) -> ContainerConfig {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn commands_as_docker_merges_them() {
        let both = image(r#"{"Entrypoint":["e"],"Cmd":["c"],"Env":["A=1","B=2"],"WorkingDir":"/w"}"#);
        for (request, entrypoint, cmd) in [
            ("{}", Some("e"), Some("c")),
            (r#"{"Cmd":["x"]}"#, Some("e"), Some("x")),
            (r#"{"Entrypoint":["y"]}"#, Some("y"), None),
            (r#"{"Entrypoint":[""],"Cmd":["x"]}"#, None, Some("x")),
        ] {
            let merged = config(user(request), &both).unwrap();
            assert_eq!(merged.entrypoint.as_deref().map(|v| v[0].as_str()), entrypoint, "{request}");
            assert_eq!(merged.cmd.as_deref().map(|v| v[0].as_str()), cmd, "{request}");
        }
        let merged = config(user(r#"{"Env":["B=3"],"Cmd":["x"]}"#), &both).unwrap();
        assert_eq!(merged.env.unwrap(), ["B=3", "A=1"]);
        assert_eq!(config(user("{}"), &image("{}")).unwrap_err().to_string(), "no command specified");
    }
}
