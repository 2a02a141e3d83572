//! Well-formed documents to begin with.

use corten_runtime::seccomp::default;
use corten_runtime::spec::{SpecInput, build};
use corten_wire::oci_runtime::{IdMapping, Mount, Rlimit};
use serde_json::{Value, json};

fn text(value: &Value) -> Vec<u8> {
    value.to_string().into_bytes()
}

fn spec() -> Value {
    let map = vec![IdMapping { container_id: 0, host_id: 1000, size: 65_536 }];
    let input = SpecInput {
        args: vec!["sh".into()],
        hostname: "box".into(),
        rlimits: vec![Rlimit { kind: "RLIMIT_NOFILE".into(), hard: 1024, soft: 10 }],
        mounts: vec![Mount {
            destination: "/data".into(),
            fstype: "bind".into(),
            source: "/srv".into(),
            options: ["rbind", "rro", "rslave", "idmap"].map(str::to_owned).to_vec(),
            ..Mount::default()
        }],
        uid_mappings: map.clone(),
        gid_mappings: map,
        ..SpecInput::default()
    };
    build(input).map_or(Value::Null, |b| json!(b.spec))
}

pub(crate) fn configs() -> Vec<Vec<u8>> {
    let mut full = spec();
    full["linux"]["seccomp"] = json!(default::profile(&[]));
    full["linux"]["resources"] = json!({
        "memory": { "limit": 1, "swap": 2, "swappiness": 3 },
        "cpu": { "shares": 1, "quota": 2, "period": 3, "cpus": "0-1" },
        "pids": { "limit": 7 },
        "unified": { "memory.high": "5" },
        "rdma": { "mlx5_1": { "hcaHandles": 3 } },
        "devices": [{ "allow": true, "type": "c", "major": 1, "minor": 3, "access": "rwm" }],
    });
    full["hooks"] = json!({ "prestart": [{ "path": "/bin/true", "timeout": 1 }] });
    full["process"]["scheduler"] =
        json!({ "policy": "SCHED_DEADLINE", "runtime": 1, "deadline": 2, "period": 3 });
    full["linux"]["timeOffsets"] = json!({ "boottime": { "secs": -1, "nanosecs": 1 } });
    vec![text(&spec()), text(&full), br#"{"ociVersion":"1.0.0","process":{"args":["x"],"cwd":"/"}}"#.to_vec()]
}

pub(crate) fn profiles() -> Vec<Vec<u8>> {
    let docker = json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 1,
        "archMap": [{ "architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"] }],
        "syscalls": [
            { "names": ["read", "write", "clone3"], "action": "SCMP_ACT_ALLOW" },
            {
                "names": ["personality"],
                "action": "SCMP_ACT_ALLOW",
                "args": [{ "index": 0, "value": 8, "op": "SCMP_CMP_EQ" }],
                "includes": { "caps": ["CAP_SYS_ADMIN"], "minKernel": "4.8" },
                "excludes": { "arches": ["s390"] },
            },
            {
                "name": "clone",
                "action": "SCMP_ACT_ALLOW",
                "args": [{ "index": 0, "value": 2114060288, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ" }],
            },
            { "names": ["mkdir"], "action": "SCMP_ACT_NOTIFY" },
        ],
        "listenerPath": "/run/x",
        "flags": ["SECCOMP_FILTER_FLAG_LOG"],
    });
    vec![text(&docker), text(&json!(default::profile(&[])))]
}

pub(crate) fn mounts() -> Vec<Vec<u8>> {
    [
        "tmpfs nosuid,noexec,size=64k,mode=755",
        "bind rbind,rro,rslave,idmap",
        "proc ro,strictatime,noatime,norelatime",
    ]
    .map(|t| t.as_bytes().to_vec())
    .to_vec()
}

pub(crate) fn users() -> Vec<Vec<u8>> {
    let passwd = "root:x:0:0:root:/root:/bin/sh\nalice:x:1000:1000::/home:/bin/sh\n";
    let group = "root:x:0:\nwheel:x:10:alice,bob\nalice:x:1000:\n";
    ["alice", "1000:10", "alice:wheel\0daemon\x0077", ""]
        .map(|u| format!("{passwd}\0{group}\0{u}").into_bytes())
        .to_vec()
}

pub(crate) fn messages() -> Vec<Vec<u8>> {
    let bootstrap = json!({
        "version": 1, "id": "abc", "dir": "/run/x", "spec": spec(), "rootfs": { "path": "/r" }, "user": null,
        "stdin": { "open": true, "once": false }, "logging": { "driver": "json_file", "path": "/l", "max_size": 1,
        "max_file": 1, "compress": false },
    });
    [
        bootstrap,
        json!({ "seq": 1, "call": "Hello" }),
        json!({ "seq": 2, "call": { "kill": { "signal": 9, "all": true } } }),
        json!({ "notice": { "exited": { "code": 1, "signal": null, "oom": false, "at": 1 } } }),
        json!({ "started": { "pid": 1, "started_at": 2 } }),
    ]
    .map(|v| text(&v))
    .to_vec()
}
