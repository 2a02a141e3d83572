//! `update`.

use serde_json::{Map, Value};

use super::lifecycle::finish;
use crate::cli::Cli;
use crate::error::{Result, fail};
use crate::flags::Flags;
use crate::opts;

pub(super) async fn update(cli: &Cli, flags: &Flags) -> Result {
    const NUMBERS: [(&str, &str); 7] = [
        ("blkio-weight", "BlkioWeight"),
        ("cpu-period", "CpuPeriod"),
        ("cpu-quota", "CpuQuota"),
        ("cpu-rt-period", "CpuRealtimePeriod"),
        ("cpu-rt-runtime", "CpuRealtimeRuntime"),
        ("cpu-shares", "CpuShares"),
        ("pids-limit", "PidsLimit"),
    ];
    const SIZES: [(&str, &str); 4] = [
        ("memory", "Memory"),
        ("memory-reservation", "MemoryReservation"),
        ("memory-swap", "MemorySwap"),
        ("kernel-memory", "KernelMemory"),
    ];
    let mut body = Map::new();
    for (flag, key) in NUMBERS.into_iter().filter(|(flag, _)| flags.changed(flag)) {
        body.insert(key.into(), flags.int(flag).into());
    }
    for (flag, key) in SIZES.into_iter().filter(|(flag, _)| flags.changed(flag)) {
        body.insert(key.into(), flags.bytes(flag).into());
    }
    for (flag, key) in [("cpuset-cpus", "CpusetCpus"), ("cpuset-mems", "CpusetMems")] {
        if flags.changed(flag) {
            body.insert(key.into(), flags.text(flag).into());
        }
    }
    if flags.changed("cpus") {
        body.insert("NanoCpus".into(), opts::cpus(flags.text("cpus")).unwrap_or(0).into());
    }
    if flags.changed("restart") {
        let policy = opts::restart_policy(flags.text("restart")).map_err(|e| fail(e, 1))?;
        body.insert("RestartPolicy".into(), policy);
    }
    for (flag, key) in [("publish-add", "PublishAdd"), ("publish-rm", "PublishRemove")] {
        let mut ports = opts::Ports::default();
        for text in flags.list(flag) {
            opts::publish(&mut ports, &text).map_err(|e| fail(e, 1))?;
        }
        if flags.changed(flag) {
            body.insert(key.into(), ports.bindings());
        }
    }
    for (flag, key) in [("net-rate-in", "NetRateIn"), ("net-rate-out", "NetRateOut")] {
        if flags.changed(flag) {
            body.insert(key.into(), opts::rate(flags.text(flag)).map_err(|e| fail(e, 1))?.into());
        }
    }
    if body.is_empty() {
        return Err(fail("you must provide one or more flags when using this command", 1));
    }
    let body = Value::Object(body);
    let client = cli.client()?;
    let (mut errors, mut warnings) = (Vec::new(), Vec::new());
    for name in flags.args() {
        match client.container_update(&name, &body).await {
            Ok(answer) => {
                cli.line(&name)?;
                let texts = answer["Warnings"].as_array().into_iter().flatten().filter_map(Value::as_str);
                warnings.extend(texts.map(str::to_owned));
            }
            Err(e) => errors.push(e.to_string()),
        }
    }
    if !warnings.is_empty() {
        cli.line(&warnings.join("\n"))?;
    }
    finish(errors)
}
