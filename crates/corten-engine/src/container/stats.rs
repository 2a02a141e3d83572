//! Readings of what a container uses, in Docker's shape.

use std::collections::BTreeMap;
use std::time::Duration;

use corten_base::time;
use corten_runtime::cgroup::{self, Cgroup};
use corten_wire::api::stats::{
    BlkioEntry, BlkioStats, CpuStats, CpuUsage, MemoryStats, NetworkStats, PidsStats, Stats, ThrottlingData,
};
use futures_util::Stream;

use super::{Container, blocking};
use crate::error::{Error, Result};
use crate::spec;

const SECOND: Duration = Duration::from_secs(1);

impl Container {
    /// One reading. Unless `one_shot`, with the CPU times of a second before. Of a container that does not run, only
    /// its name.
    ///
    /// # Errors
    /// The kernel's files cannot be read.
    pub async fn stats(&self, one_shot: bool) -> Result<Stats> {
        if one_shot || !self.view().is_running() {
            return self.reading(&Stats::default()).await;
        }
        let first = self.reading(&Stats::default()).await?;
        tokio::time::sleep(SECOND).await;
        self.reading(&first).await
    }

    /// A reading every second, until the container is gone.
    pub fn stats_stream(&self) -> impl Stream<Item = Stats> + Send + 'static {
        let this = self.clone();
        futures_util::stream::unfold((this, None::<Stats>), |(this, before)| async move {
            if before.is_some() {
                tokio::time::sleep(SECOND).await;
            }
            if this.view().gone {
                return None;
            }
            let now = this.reading(&before.unwrap_or_default()).await.ok()?;
            Some((now.clone(), (this, Some(now))))
        })
    }

    async fn reading(&self, before: &Stats) -> Result<Stats> {
        let view = self.view();
        let mut stats = Stats {
            name: format!("/{}", view.record.name),
            id: self.id().to_string(),
            preread: if before.read.is_empty() { time::ZERO.into() } else { before.read.clone() },
            precpu_stats: before.cpu_stats.clone(),
            read: time::ZERO.into(),
            ..Stats::default()
        };
        if !view.is_running() {
            return Ok(stats);
        }
        let shared = self.shared().clone();
        let path = spec::cgroup_path(&view.record, &shared.config());
        let own_network = view.endpoints.iter().any(|e| e.attached.is_some());
        let id = self.id().clone();
        blocking(move || {
            let failed = |e: cgroup::CgroupError| Error::Refused { kind: e.kind(), text: e.to_string() };
            let group = Cgroup::at(&path).map_err(failed)?;
            let used = group.stats();
            fill(&mut stats, used, group.is_v2());
            stats.read = time::rfc3339_nano(time::now_ns());
            stats.os_type = "linux".into();
            if own_network {
                // The container may end while we look: then there is nothing to tell.
                let links = shared.networks.net().interface_stats(&id).unwrap_or_default();
                stats.networks = Some(links.into_iter().map(network).collect());
            }
            Ok(stats)
        })
        .await
    }
}

fn network(link: corten_net::InterfaceStats) -> (String, NetworkStats) {
    let stats = NetworkStats {
        rx_bytes: link.rx_bytes,
        rx_packets: link.rx_packets,
        rx_errors: link.rx_errors,
        rx_dropped: link.rx_dropped,
        tx_bytes: link.tx_bytes,
        tx_packets: link.tx_packets,
        tx_errors: link.tx_errors,
        tx_dropped: link.tx_dropped,
    };
    (link.name, stats)
}

fn fill(stats: &mut Stats, used: cgroup::Stats, v2: bool) {
    let (system, cpus) = host_cpu();
    let entries = |list: Vec<cgroup::BlkioEntry>| {
        list.into_iter()
            .map(|e| BlkioEntry { major: e.major, minor: e.minor, op: e.op, value: e.value })
            .collect::<Vec<_>>()
    };
    // COMPAT: what v2 does not count is `null` there and an empty list on v1.
    let uncounted = if v2 { None } else { Some(Vec::new()) };
    stats.pids_stats = PidsStats { current: used.pids.current, limit: used.pids.limit };
    stats.cpu_stats = CpuStats {
        cpu_usage: CpuUsage {
            total_usage: used.cpu.total,
            percpu_usage: (!v2).then_some(used.cpu.per_cpu),
            usage_in_kernelmode: used.cpu.kernel,
            usage_in_usermode: used.cpu.user,
        },
        system_cpu_usage: system,
        online_cpus: cpus,
        throttling_data: ThrottlingData {
            periods: used.cpu.periods,
            throttled_periods: used.cpu.throttled_periods,
            throttled_time: used.cpu.throttled,
        },
    };
    let total = host_memory();
    let limit = if used.memory.limit == 0 || used.memory.limit > total { total } else { used.memory.limit };
    stats.memory_stats = MemoryStats {
        usage: used.memory.usage,
        max_usage: if v2 { 0 } else { used.memory.max_usage },
        stats: used.memory.details.into_iter().filter(|(name, _)| v2 || counted(name)).collect(),
        failcnt: used.memory.failcnt,
        limit,
    };
    stats.blkio_stats = BlkioStats {
        io_service_bytes_recursive: Some(entries(used.blkio.service_bytes)),
        io_serviced_recursive: if v2 { None } else { Some(entries(used.blkio.serviced)) },
        io_queue_recursive: uncounted.clone(),
        io_service_time_recursive: uncounted.clone(),
        io_wait_time_recursive: uncounted.clone(),
        io_merged_recursive: uncounted.clone(),
        io_time_recursive: uncounted.clone(),
        sectors_recursive: uncounted,
    };
}

/// COMPAT: the fields of v1's memory.stat that the reference engine knows.
fn counted(name: &str) -> bool {
    const FIELDS: &[&str] = &[
        "cache",
        "rss",
        "rss_huge",
        "mapped_file",
        "dirty",
        "writeback",
        "pgpgin",
        "pgpgout",
        "pgfault",
        "pgmajfault",
        "inactive_anon",
        "active_anon",
        "inactive_file",
        "active_file",
        "unevictable",
    ];
    matches!(name, "hierarchical_memory_limit" | "hierarchical_memsw_limit")
        || FIELDS.contains(&name.strip_prefix("total_").unwrap_or(name))
}

/// CPU time of the whole host in nanoseconds, and its CPUs.
fn host_cpu() -> (u64, u32) {
    /// Clock ticks are hundredths of a second on every Linux we run on.
    const TICK_NS: u64 = 10_000_000;
    let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let mut total = 0;
    let mut cpus = 0;
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        match words.next() {
            Some("cpu") => total = words.take(7).filter_map(|w| w.parse::<u64>().ok()).sum(),
            Some(name) if name.starts_with("cpu") => cpus += 1,
            _ => break,
        }
    }
    (total * TICK_NS, cpus)
}

fn host_memory() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let fields: BTreeMap<&str, u64> = text
        .lines()
        .take(3)
        .filter_map(|l| {
            let (name, rest) = l.split_once(':')?;
            Some((name, rest.trim().split(' ').next()?.parse().ok()?))
        })
        .collect();
    fields.get("MemTotal").copied().unwrap_or(0) * 1024
}
