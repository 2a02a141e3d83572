//! Limits as systemd's properties.

use corten_wire::oci_runtime::{Cpu, DeviceRule, Resources};

use super::message::Value;
use super::{Property, UnitError};
use crate::cgroup::{devices, limits};

/// systemd's "none".
const INFINITY: u64 = u64::MAX;
const PERIOD: u64 = 100_000;
/// A hundredth of a processor for a second: systemd counts in these.
const STEP: u64 = 10_000;

/// As an argument of a call.
pub(super) fn list(all: Vec<Property>) -> Value {
    let pair = |(name, value)| Value::Struct(vec![Value::Text(name), Value::Variant(Box::new(value))]);
    Value::List("(sv)".into(), all.into_iter().map(pair).collect())
}

fn bytes(value: i64) -> Value {
    Value::U64(u64::try_from(value).unwrap_or(INFINITY))
}

/// Everything that systemd knows of. The rest is only written to the group's files.
pub(super) fn limits(resources: &Resources, v2: bool) -> Result<Vec<Property>, UnitError> {
    let mut all = Vec::new();
    let mut add = |name: &str, value: Value| all.push((name.to_owned(), value));
    if let Some(m) = &resources.memory {
        if let Some(limit) = m.limit.filter(|v| *v != 0) {
            add(if v2 { "MemoryMax" } else { "MemoryLimit" }, bytes(limit));
        }
        if let Some(low) = m.reservation.filter(|v| v2 && *v != 0) {
            add("MemoryLow", bytes(low));
        }
        if let Some(swap) = limits::swap_alone(m).filter(|_| v2) {
            add("MemorySwapMax", bytes(swap));
        }
    }
    if let Some(c) = &resources.cpu {
        if let Some(shares) = c.shares.filter(|v| *v != 0) {
            match v2 {
                true => add("CPUWeight", Value::U64(limits::cpu_weight(shares))),
                false => add("CPUShares", Value::U64(shares)),
            }
        }
        quota(c, &mut add);
        if v2 {
            for (name, set) in [("AllowedCPUs", &c.cpus), ("AllowedMemoryNodes", &c.mems)] {
                if let Some(set) = set.as_deref().filter(|s| !s.is_empty()) {
                    add(name, bits(set)?);
                }
            }
        }
    }
    if let Some(weight) = resources.block_io.as_ref().and_then(|b| b.weight).filter(|w| *w != 0) {
        match v2 {
            true => add("IOWeight", Value::U64(limits::io_weight(weight))),
            false => add("BlockIOWeight", Value::U64(weight.into())),
        }
    }
    if let Some(pids) = resources.pids {
        add("TasksMax", bytes(if pids.limit > 0 { pids.limit } else { -1 }));
    }
    if v2 {
        for (file, text) in &resources.unified {
            unified(file, text.trim(), &mut add)?;
        }
    }
    Ok(all)
}

fn quota(cpu: &Cpu, add: &mut impl FnMut(&str, Value)) {
    let period = cpu.period.filter(|p| *p != 0);
    let quota = cpu.quota.filter(|q| *q != 0);
    if let Some(period) = period {
        add("CPUQuotaPeriodUSec", Value::U64(period));
    }
    if period.is_some() || quota.is_some() {
        let quota = quota.and_then(|q| u64::try_from(q).ok());
        add("CPUQuotaPerSecUSec", Value::U64(quota.map_or(INFINITY, |q| per_second(q, period))));
    }
}

/// Rounded up, so that what is below the group can have what was asked for.
fn per_second(quota: u64, period: Option<u64>) -> u64 {
    (quota.saturating_mul(1_000_000) / period.unwrap_or(PERIOD)).div_ceil(STEP).saturating_mul(STEP)
}

/// A file of the group by its name, where systemd has a property for it.
fn unified(file: &str, text: &str, add: &mut impl FnMut(&str, Value)) -> Result<(), UnitError> {
    let number = || if text == "max" { Some(INFINITY) } else { text.parse().ok() };
    let name = match file {
        "cpu.weight" => "CPUWeight",
        "memory.low" => "MemoryLow",
        "memory.min" => "MemoryMin",
        "memory.high" => "MemoryHigh",
        "memory.max" => "MemoryMax",
        "memory.swap.max" => "MemorySwapMax",
        "pids.max" => "TasksMax",
        "cpuset.cpus" => return bits(text).map(|v| add("AllowedCPUs", v)),
        "cpuset.mems" => return bits(text).map(|v| add("AllowedMemoryNodes", v)),
        "cpu.max" => {
            let (quota, period) = text.split_once(' ').unwrap_or((text, ""));
            let quota = quota.parse().unwrap_or(-1);
            quota_of(quota, period.parse().ok(), add);
            return Ok(());
        }
        _ => return Ok(()),
    };
    // What is no number the kernel refuses.
    if let Some(number) = number() {
        add(name, Value::U64(number));
    }
    Ok(())
}

fn quota_of(given: i64, period: Option<u64>, add: &mut impl FnMut(&str, Value)) {
    quota(&Cpu { quota: Some(given), period, ..Cpu::default() }, add);
}

/// `0-2,5` as bits, the lowest byte first.
pub(super) fn bits(set: &str) -> Result<Value, UnitError> {
    let wrong = || UnitError::Set(set.to_owned());
    let mut bytes: Vec<u8> = Vec::new();
    for range in set.split(',').map(str::trim).filter(|r| !r.is_empty()) {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let number = |text: &str| text.trim().parse::<usize>().ok().filter(|n| *n < 8192).ok_or_else(wrong);
        let (first, last) = (number(first)?, number(last)?);
        if first > last {
            return Err(wrong());
        }
        bytes.resize(bytes.len().max(last / 8 + 1), 0);
        (first..=last).for_each(|bit| bytes[bit / 8] |= 1 << (bit % 8));
    }
    if bytes.is_empty() {
        return Err(wrong());
    }
    Ok(Value::List("y".into(), bytes.into_iter().map(Value::Byte).collect()))
}

/// The rules as far as systemd can express them: a list of what is allowed. It would open all devices again otherwise
/// (v1). What it cannot express is left to the group's own rules.
pub(super) fn devices(rules: &[DeviceRule]) -> Vec<Property> {
    if rules.is_empty() {
        return Vec::new();
    }
    let (mut open, mut allowed): (bool, Vec<Value>) = (false, Vec::new());
    for rule in rules {
        match (devices::is_all(rule), rule.allow) {
            (true, allow) => {
                open = allow;
                allowed.clear();
            }
            (false, true) if !open => allowed.extend(entry(rule)),
            (false, true) => {}
            // All but some: not to be said.
            (false, false) => open = true,
        }
    }
    let policy = if open { "auto" } else { "strict" };
    let allowed = if open { Vec::new() } else { allowed };
    vec![
        ("DevicePolicy".to_owned(), Value::text(policy)),
        ("DeviceAllow".to_owned(), Value::List("(ss)".into(), allowed)),
    ]
}

fn entry(rule: &DeviceRule) -> Option<Value> {
    let kind = if rule.kind == "b" { "block" } else { "char" };
    let given = |n: Option<i64>| n.filter(|n| *n >= 0);
    let name = match (given(rule.major), given(rule.minor)) {
        (Some(major), Some(minor)) => format!("/dev/{kind}/{major}:{minor}"),
        (Some(major), None) => format!("{kind}-{major}"),
        (None, None) => format!("{kind}-*"),
        (None, Some(_)) => return None,
    };
    let access = if rule.access.is_empty() { "rwm" } else { &rule.access };
    Some(Value::Struct(vec![Value::Text(name), Value::text(access)]))
}
