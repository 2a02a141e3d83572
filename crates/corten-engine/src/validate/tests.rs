//! The texts of the reference engine for what cannot be right.

use corten_wire::api::container::CreateRequest;

use super::*;

fn check(body: &str, want: &str) {
    let daemon = EngineConfig::new("/d".into(), "/e".into());
    let host =
        Host { cpus: 2, cpu_list: "0-1".into(), node_list: "0".into(), cgroup_v2: false, no_cgroups: false };
    let request = CreateRequest::decode(body.as_bytes()).unwrap().unwrap();
    let result = config(request.config).and_then(|_| host_config(&request.host_config, &host, &daemon));
    assert_eq!(result.err().map(|e| e.to_string()).unwrap_or_default(), want, "{body}");
}

#[test]
fn configuration() {
    check(r#"{"Image":"x"}"#, "");
    check(
        r#"{"WorkingDir":"rel"}"#,
        "the working directory 'rel' is invalid, it needs to be an absolute path",
    );
    check(r#"{"Env":["=x"]}"#, "invalid environment variable: =x");
    check(r#"{"StopSignal":"SIGNOPE"}"#, "invalid signal: SIGNOPE");
    check(
        r#"{"Healthcheck":{"Test":["CMD","true"],"Interval":5}}"#,
        "Interval in Healthcheck cannot be less than 1ms",
    );
}

#[test]
fn what_comes_with_anothers_network() {
    for (config, host, want) in [
        ("", "", ""),
        (r#""Hostname":"h","#, "", "conflicting options: hostname and the network mode"),
        ("", r#","Dns":["192.0.2.1"]"#, "conflicting options: dns and the network mode"),
        (
            "",
            r#","ExtraHosts":["a:192.0.2.1"]"#,
            "conflicting options: custom host-to-IP mapping and the network mode",
        ),
        (
            r#""ExposedPorts":{"80/tcp":{}},"#,
            r#","PortBindings":{"80/tcp":[{"HostPort":"80"}]}"#,
            "conflicting options: port publishing and the container type network mode",
        ),
        (
            "",
            r#","PublishAllPorts":true"#,
            "conflicting options: port publishing and the container type network mode",
        ),
        (
            r#""ExposedPorts":{"80/tcp":{}},"#,
            "",
            "conflicting options: port exposing and the container type network mode",
        ),
    ] {
        let body = format!(r#"{{{config}"Image":"x","HostConfig":{{"NetworkMode":"container:x"{host}}}}}"#);
        let request = CreateRequest::decode(body.as_bytes()).unwrap().unwrap();
        let result = shared_network(&request.config, &request.host_config);
        assert_eq!(result.err().map(|e| e.to_string()).unwrap_or_default(), want, "{body}");
    }
}

#[test]
fn host_configuration() {
    for (host, want) in [
        (
            r#""Mounts":[{"Type":"volume","Source":"v"}]"#,
            "invalid mount config for type \"volume\": field Target must not be empty",
        ),
        (
            r#""Mounts":[{"Type":"floppy","Target":"/x"}]"#,
            "invalid mount config for type \"floppy\": mount type unknown",
        ),
        (
            r#""Mounts":[{"Type":"bind","Source":"/no/such","Target":"/x"}]"#,
            "invalid mount config for type \"bind\": bind source path does not exist: /no/such",
        ),
        (r#""Memory":1024"#, "Minimum memory limit allowed is 6MB"),
        (
            r#""Memory":67108864,"MemorySwap":33554432"#,
            "Minimum memoryswap limit should be larger than memory limit, see usage",
        ),
        (
            r#""MemorySwap":33554432"#,
            "You should always set the Memory limit when using Memoryswap limit, see usage",
        ),
        (
            r#""NanoCpus":1000000000000"#,
            "range of CPUs is from 0.01 to 2.00, as there are only 2 CPUs available",
        ),
        (r#""CpusetCpus":"nope""#, "Invalid value nope for cpuset cpus: invalid format: nope"),
        (r#""CpusetCpus":"500""#, "Requested CPUs are not available - requested 500, available: 0-1"),
        (
            r#""RestartPolicy":{"Name":"sometimes"}"#,
            "invalid restart policy: unknown policy 'sometimes'; use one of 'no', 'always', 'on-failure', or 'unless-stopped'",
        ),
        (
            r#""RestartPolicy":{"Name":"always","MaximumRetryCount":3}"#,
            "invalid restart policy: maximum retry count can only be used with 'on-failure'",
        ),
        (
            r#""AutoRemove":true,"RestartPolicy":{"Name":"always"}"#,
            "can't create 'AutoRemove' container with restart policy",
        ),
        (r#""CapAdd":["CAP_NOPE"]"#, "invalid CapAdd: unknown capability: \"CAP_NOPE\""),
        (r#""PidMode":"nope""#, "invalid PID mode: nope"),
        (r#""IpcMode":"nope""#, "invalid IPC mode: nope"),
        (r#""PortBindings":{"80/tcp":[{"HostPort":"nope"}]}"#, "invalid port specification: \"nope\""),
        (r#""ShmSize":-5"#, "SHM size can not be less than 0"),
        (r#""PortBindings":{"80/tcp":[{"HostPort":"8000-8010"}]},"CapAdd":["all","net_admin"]"#, ""),
    ] {
        check(&format!(r#"{{"Image":"x","HostConfig":{{{host}}}}}"#), want);
    }
}

#[test]
fn paths_are_cleaned_as_in_go() {
    for (text, want) in [("/a/../b//c/.", "/b/c"), ("/", "/"), ("/../..", "/")] {
        assert_eq!(clean(text), want);
    }
}
