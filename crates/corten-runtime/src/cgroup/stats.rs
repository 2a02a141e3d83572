//! What the kernel counts about a container.

use std::collections::BTreeMap;

use super::Cgroup;

/// One reading.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// Counted by v2 files: field names of `memory.details` differ, some values do not exist.
    pub v2: bool,
    /// Memory.
    pub memory: MemoryStats,
    /// Processor.
    pub cpu: CpuStats,
    /// Tasks.
    pub pids: PidsStats,
    /// Block devices.
    pub blkio: BlkioStats,
}

/// Bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemoryStats {
    /// In use, page cache included.
    pub usage: u64,
    /// Most ever in use (v1).
    pub max_usage: u64,
    /// The limit; the kernel's idea of infinity without one.
    pub limit: u64,
    /// How often the limit was hit (v1).
    pub failcnt: u64,
    /// `memory.stat`.
    pub details: BTreeMap<String, u64>,
}

/// Nanoseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CpuStats {
    /// All.
    pub total: u64,
    /// In user mode.
    pub user: u64,
    /// In the kernel.
    pub kernel: u64,
    /// Per processor (v1).
    pub per_cpu: Vec<u64>,
    /// Enforcement periods.
    pub periods: u64,
    /// Periods in which the quota was used up.
    pub throttled_periods: u64,
    /// Time waited for that.
    pub throttled: u64,
}

/// Numbers of tasks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PidsStats {
    /// Now.
    pub current: u64,
    /// 0: unlimited.
    pub limit: u64,
}

/// Per device and operation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BlkioStats {
    /// Bytes.
    pub service_bytes: Vec<BlkioEntry>,
    /// Operations.
    pub serviced: Vec<BlkioEntry>,
}

/// One count.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BlkioEntry {
    /// Device.
    pub major: u64,
    /// Device.
    pub minor: u64,
    /// `Read`, `Write`, …
    pub op: String,
    /// Bytes or operations.
    pub value: u64,
}

impl Cgroup {
    /// Reads all counters; what the kernel does not have is zero.
    #[must_use]
    pub fn stats(&self) -> Stats {
        if self.is_v2() { self.stats_v2() } else { self.stats_v1() }
    }

    fn number(&self, controller: &str, file: &str) -> u64 {
        let text = self.read(controller, file).unwrap_or_default();
        match text.trim() {
            "max" => u64::MAX,
            n => n.parse().unwrap_or(0),
        }
    }

    fn pairs(&self, controller: &str, file: &str) -> BTreeMap<String, u64> {
        let text = self.read(controller, file).unwrap_or_default();
        let pair =
            |l: &str| l.split_once(' ').and_then(|(k, v)| Some((k.to_owned(), v.trim().parse().ok()?)));
        text.lines().filter_map(pair).collect()
    }

    fn pids_stats(&self) -> PidsStats {
        let limit = self.number("pids", "pids.max");
        PidsStats {
            current: self.number("pids", "pids.current"),
            limit: if limit == u64::MAX { 0 } else { limit },
        }
    }

    fn stats_v1(&self) -> Stats {
        let throttling = self.pairs("cpu", "cpu.stat");
        let get = |key: &str| throttling.get(key).copied().unwrap_or(0);
        let per_cpu = self.read("cpuacct", "cpuacct.usage_percpu").unwrap_or_default();
        let details = self.pairs("memory", "memory.stat");
        Stats {
            v2: false,
            memory: MemoryStats {
                usage: self.number("memory", "memory.usage_in_bytes"),
                max_usage: self.number("memory", "memory.max_usage_in_bytes"),
                limit: self.number("memory", "memory.limit_in_bytes"),
                failcnt: self.number("memory", "memory.failcnt"),
                details,
            },
            cpu: CpuStats {
                total: self.number("cpuacct", "cpuacct.usage"),
                user: self.number("cpuacct", "cpuacct.usage_user"),
                kernel: self.number("cpuacct", "cpuacct.usage_sys"),
                per_cpu: per_cpu.split_ascii_whitespace().filter_map(|n| n.parse().ok()).collect(),
                periods: get("nr_periods"),
                throttled_periods: get("nr_throttled"),
                throttled: get("throttled_time"),
            },
            pids: self.pids_stats(),
            blkio: BlkioStats {
                service_bytes: self.blkio_v1("service_bytes"),
                serviced: self.blkio_v1("serviced"),
            },
        }
    }

    fn blkio_v1(&self, what: &str) -> Vec<BlkioEntry> {
        let entries = |file: String| -> Vec<BlkioEntry> {
            let text = self.read("blkio", &file).unwrap_or_default();
            text.lines().filter_map(blkio_line).collect()
        };
        let own = entries(format!("blkio.bfq.io_{what}_recursive"));
        if own.is_empty() { entries(format!("blkio.throttle.io_{what}_recursive")) } else { own }
    }

    fn stats_v2(&self) -> Stats {
        let cpu = self.pairs("cpu", "cpu.stat");
        let get = |key: &str| cpu.get(key).copied().unwrap_or(0);
        let mut blkio = BlkioStats::default();
        for line in self.read("io", "io.stat").unwrap_or_default().lines() {
            let mut words = line.split_ascii_whitespace();
            let Some((major, minor)) = words.next().and_then(|d| d.split_once(':')) else { continue };
            let (Ok(major), Ok(minor)) = (major.parse(), minor.parse()) else { continue };
            for (key, value) in words.filter_map(|w| w.split_once('=')) {
                let (list, op) = match key {
                    "rbytes" => (&mut blkio.service_bytes, "read"),
                    "wbytes" => (&mut blkio.service_bytes, "write"),
                    "rios" => (&mut blkio.serviced, "read"),
                    "wios" => (&mut blkio.serviced, "write"),
                    _ => continue,
                };
                list.push(BlkioEntry { major, minor, op: op.into(), value: value.parse().unwrap_or(0) });
            }
        }
        Stats {
            v2: true,
            memory: MemoryStats {
                usage: self.number("memory", "memory.current"),
                max_usage: self.number("memory", "memory.peak"),
                limit: self.number("memory", "memory.max"),
                failcnt: self.pairs("memory", "memory.events").get("max").copied().unwrap_or(0),
                details: self.pairs("memory", "memory.stat"),
            },
            cpu: CpuStats {
                total: get("usage_usec") * 1000,
                user: get("user_usec") * 1000,
                kernel: get("system_usec") * 1000,
                per_cpu: Vec::new(),
                periods: get("nr_periods"),
                throttled_periods: get("nr_throttled"),
                throttled: get("throttled_usec") * 1000,
            },
            pids: self.pids_stats(),
            blkio,
        }
    }
}

/// `8:0 Read 4096`; the line with the total of all devices is left out.
fn blkio_line(line: &str) -> Option<BlkioEntry> {
    let mut words = line.split_ascii_whitespace();
    let (major, minor) = words.next()?.split_once(':')?;
    let (op, value) = (words.next()?, words.next()?);
    Some(BlkioEntry {
        major: major.parse().ok()?,
        minor: minor.parse().ok()?,
        op: op.to_owned(),
        value: value.parse().ok()?,
    })
}
