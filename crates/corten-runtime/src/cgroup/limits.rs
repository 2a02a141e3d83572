//! Writes limits.

use std::io;
use std::path::Path;

use corten_wire::oci_runtime::{BlockIo, Cpu, Memory, Resources, ThrottleDevice};

use super::{Cgroup, CgroupError, read_file, write_file};

/// A new group of the cpuset controller is unusable until it has processors and memory nodes.
pub(super) fn inherit_cpuset(dir: &Path) -> Result<(), CgroupError> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let value = dir.parent().and_then(|p| read_file(&p.join(file)).ok()).unwrap_or_default();
        write_file(&dir.join(file), &[value.trim()])?;
    }
    Ok(())
}

pub(super) fn apply(group: &Cgroup, resources: &Resources) -> Result<(), CgroupError> {
    let v2 = group.is_v2();
    if let Some(m) = &resources.memory {
        if v2 { memory_v2(group, m)? } else { memory_v1(group, m)? }
    }
    if let Some(c) = &resources.cpu {
        if v2 {
            cpu_v2(group, c)?
        } else {
            cpu_v1(group, c)?
        }
        for (file, list) in [("cpuset.cpus", &c.cpus), ("cpuset.mems", &c.mems)] {
            if let Some(list) = list.as_ref().filter(|l| !l.is_empty()) {
                group.write("cpuset", file, list)?;
            }
        }
    }
    if let Some(p) = resources.pids {
        let value = if p.limit > 0 { p.limit.to_string() } else { "max".into() };
        group.write("pids", "pids.max", &value)?;
    }
    if let Some(b) = &resources.block_io {
        if v2 { block_v2(group, b)? } else { block_v1(group, b)? }
    }
    for h in &resources.hugepage_limits {
        let file = if v2 {
            format!("hugetlb.{}.max", h.page_size)
        } else {
            format!("hugetlb.{}.limit_in_bytes", h.page_size)
        };
        // Kernels without the controller have no pages of that size to hand out either.
        if group.of("hugetlb").is_some_and(|d| d.join(&file).exists()) {
            group.write("hugetlb", &file, &h.limit.to_string())?;
        }
    }
    marks(group, resources)?;
    if v2 {
        for (file, value) in resources.unified.iter().filter(|(f, _)| !f.contains('/')) {
            group.write("", file, value)?;
        }
    }
    Ok(())
}

/// Network and remote memory. A machine without these controllers says that the file is not there.
fn marks(group: &Cgroup, resources: &Resources) -> Result<(), CgroupError> {
    if let Some(network) = &resources.network {
        if let Some(class) = network.class_id {
            group.write("net_cls", "net_cls.classid", &class.to_string())?;
        }
        for p in &network.priorities {
            group.write("net_prio", "net_prio.ifpriomap", &format!("{} {}", p.name, p.priority))?;
        }
    }
    for (device, limits) in &resources.rdma {
        let mut line = device.clone();
        for (name, value) in [("hca_handle", limits.hca_handles), ("hca_object", limits.hca_objects)] {
            if let Some(value) = value {
                line.push_str(&format!(" {name}={value}"));
            }
        }
        group.write("rdma", "rdma.max", &line)?;
    }
    Ok(())
}

fn memory_v1(group: &Cgroup, m: &Memory) -> Result<(), CgroupError> {
    let limit = |v: i64| group.write("memory", "memory.limit_in_bytes", &v.to_string());
    let swap = |v: i64| group.write("memory", "memory.memsw.limit_in_bytes", &v.to_string());
    match (m.limit.filter(|v| *v != 0), m.swap.filter(|v| *v != 0)) {
        // Memory alone may never exceed memory and swap together, not even between the two writes.
        (Some(l), Some(s)) => match limit(l) {
            Ok(()) => swap(s)?,
            Err(_) => {
                swap(s)?;
                limit(l)?;
            }
        },
        (Some(l), None) => limit(l)?,
        (None, Some(s)) => swap(s)?,
        (None, None) => {}
    }
    if let Some(r) = m.reservation.filter(|v| *v != 0) {
        group.write("memory", "memory.soft_limit_in_bytes", &r.to_string())?;
    }
    if let Some(s) = m.swappiness.filter(|s| *s <= 100) {
        group.write("memory", "memory.swappiness", &s.to_string())?;
    }
    if m.disable_oom_killer == Some(true) {
        group.write("memory", "memory.oom_control", "1")?;
    }
    Ok(())
}

fn unlimited(value: i64) -> String {
    if value < 0 { "max".into() } else { value.to_string() }
}

/// v2: swap without the memory that Docker counts with it.
pub(super) fn swap_alone(m: &Memory) -> Option<i64> {
    m.swap.filter(|v| *v != 0).map(|s| match m.limit.filter(|l| *l > 0) {
        Some(l) if s > 0 => s - l,
        _ => s,
    })
}

fn memory_v2(group: &Cgroup, m: &Memory) -> Result<(), CgroupError> {
    let used = || group.read("memory", "memory.current")?.trim().parse::<i64>().ok();
    if let Some(l) = m.limit.filter(|l| *l > 0 && m.check_before_update == Some(true))
        && used().is_some_and(|used| used > l)
    {
        let path = group.of("memory").unwrap_or(Path::new("")).join("memory.max");
        // The kernel's own answer on v1.
        let source = io::ErrorKind::ResourceBusy.into();
        return Err(CgroupError::File { what: format!("write \"{l}\""), path, source });
    }
    if let Some(own) = swap_alone(m) {
        group.write("memory", "memory.swap.max", &unlimited(own))?;
    }
    if let Some(l) = m.limit.filter(|v| *v != 0) {
        group.write("memory", "memory.max", &unlimited(l))?;
    }
    if let Some(r) = m.reservation.filter(|v| *v != 0) {
        group.write("memory", "memory.low", &unlimited(r))?;
    }
    Ok(())
}

fn cpu_v1(group: &Cgroup, c: &Cpu) -> Result<(), CgroupError> {
    if let Some(s) = c.shares.filter(|v| *v != 0) {
        group.write("cpu", "cpu.shares", &s.to_string())?;
    }
    let period = |v: u64| group.write("cpu", "cpu.cfs_period_us", &v.to_string());
    let quota = |v: i64| group.write("cpu", "cpu.cfs_quota_us", &v.to_string());
    match (c.period.filter(|v| *v != 0), c.quota.filter(|v| *v != 0)) {
        // A period too short for the old quota is refused until the quota is changed.
        (Some(p), Some(q)) => match period(p) {
            Ok(()) => quota(q)?,
            Err(_) => {
                quota(q)?;
                period(p)?;
            }
        },
        (Some(p), None) => period(p)?,
        (None, Some(q)) => quota(q)?,
        (None, None) => {}
    }
    if let Some(b) = c.burst {
        group.write("cpu", "cpu.cfs_burst_us", &b.to_string())?;
    }
    if let Some(i) = c.idle {
        group.write("cpu", "cpu.idle", &i.to_string())?;
    }
    if let Some(p) = c.realtime_period.filter(|v| *v != 0) {
        group.write("cpu", "cpu.rt_period_us", &p.to_string())?;
    }
    if let Some(r) = c.realtime_runtime.filter(|v| *v != 0) {
        group.write("cpu", "cpu.rt_runtime_us", &r.to_string())?;
    }
    Ok(())
}

/// v2's weight for v1's shares.
pub(super) fn cpu_weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

fn cpu_v2(group: &Cgroup, c: &Cpu) -> Result<(), CgroupError> {
    if let Some(s) = c.shares.filter(|v| *v != 0) {
        group.write("cpu", "cpu.weight", &cpu_weight(s).to_string())?;
    }
    if c.quota.is_some_and(|q| q != 0) || c.period.is_some_and(|p| p != 0) {
        let quota = c.quota.filter(|q| *q > 0).map_or_else(|| "max".to_owned(), |q| q.to_string());
        let period = c.period.filter(|p| *p != 0).unwrap_or(100_000);
        group.write("cpu", "cpu.max", &format!("{quota} {period}"))?;
    }
    if let Some(b) = c.burst {
        group.write("cpu", "cpu.max.burst", &b.to_string())?;
    }
    if let Some(i) = c.idle {
        group.write("cpu", "cpu.idle", &i.to_string())?;
    }
    Ok(())
}

fn block_v1(group: &Cgroup, b: &BlockIo) -> Result<(), CgroupError> {
    let has = |file: &str| group.of("blkio").is_some_and(|d| d.join(file).exists());
    let (weight, device) = if has("blkio.weight") {
        ("blkio.weight", "blkio.weight_device")
    } else {
        ("blkio.bfq.weight", "blkio.bfq.weight_device")
    };
    if let Some(w) = b.weight.filter(|w| *w != 0) {
        group.write("blkio", weight, &w.to_string())?;
    }
    for w in &b.weight_device {
        group.write("blkio", device, &format!("{}:{} {}", w.major, w.minor, w.weight))?;
    }
    for (file, list) in throttles(b, ["read_bps", "write_bps", "read_iops", "write_iops"]) {
        for t in list {
            let file = format!("blkio.throttle.{file}_device");
            group.write("blkio", &file, &format!("{}:{} {}", t.major, t.minor, t.rate))?;
        }
    }
    Ok(())
}

fn throttles<'a>(b: &'a BlockIo, names: [&'static str; 4]) -> [(&'static str, &'a [ThrottleDevice]); 4] {
    [
        (names[0], &b.throttle_read_bps_device),
        (names[1], &b.throttle_write_bps_device),
        (names[2], &b.throttle_read_iops_device),
        (names[3], &b.throttle_write_iops_device),
    ]
}

/// v2's weight for v1's.
pub(super) fn io_weight(weight: u16) -> u64 {
    1 + (u64::from(weight).clamp(10, 1000) - 10) * 9999 / 990
}

fn block_v2(group: &Cgroup, b: &BlockIo) -> Result<(), CgroupError> {
    if let Some(w) = b.weight.filter(|w| *w != 0) {
        if group.of("io").is_some_and(|d| d.join("io.bfq.weight").exists()) {
            group.write("io", "io.bfq.weight", &w.to_string())?;
        } else {
            group.write("io", "io.weight", &format!("default {}", io_weight(w)))?;
        }
    }
    for w in &b.weight_device {
        group.write("io", "io.bfq.weight", &format!("{}:{} {}", w.major, w.minor, w.weight))?;
    }
    for (key, list) in throttles(b, ["rbps", "wbps", "riops", "wiops"]) {
        for t in list {
            let rate = if t.rate == 0 { "max".to_owned() } else { t.rate.to_string() };
            group.write("io", "io.max", &format!("{}:{} {key}={rate}", t.major, t.minor))?;
        }
    }
    Ok(())
}
