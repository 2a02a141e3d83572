//! Answer of `GET /containers/{id}/stats`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Empty, is_default};

/// One reading. Under cgroup v2 some fields are absent or `null`, as the reference engine has it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Stats {
    /// `/name`.
    pub name: String,
    /// Full id.
    pub id: String,
    /// RFC 3339.
    pub read: String,
    /// RFC 3339 of the reading before.
    pub preread: String,
    /// Processes.
    pub pids_stats: PidsStats,
    /// Block devices.
    pub blkio_stats: BlkioStats,
    /// Windows only.
    pub num_procs: u32,
    /// Windows only.
    pub storage_stats: Empty,
    /// CPU now.
    pub cpu_stats: CpuStats,
    /// CPU at the reading before.
    pub precpu_stats: CpuStats,
    /// Memory.
    pub memory_stats: MemoryStats,
    /// By interface name; absent without a network of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub networks: Option<BTreeMap<String, NetworkStats>>,
    /// `linux`.
    #[serde(skip_serializing_if = "is_default")]
    pub os_type: String,
}

/// Processes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PidsStats {
    /// Processes and threads.
    #[serde(skip_serializing_if = "is_default")]
    pub current: u64,
    /// Limit; absent for none.
    #[serde(skip_serializing_if = "is_default")]
    pub limit: u64,
}

/// Block devices.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BlkioStats {
    /// Bytes.
    pub io_service_bytes_recursive: Option<Vec<BlkioEntry>>,
    /// Operations.
    pub io_serviced_recursive: Option<Vec<BlkioEntry>>,
    /// Waiting now.
    pub io_queue_recursive: Option<Vec<BlkioEntry>>,
    /// Nanoseconds.
    pub io_service_time_recursive: Option<Vec<BlkioEntry>>,
    /// Nanoseconds.
    pub io_wait_time_recursive: Option<Vec<BlkioEntry>>,
    /// Merged requests.
    pub io_merged_recursive: Option<Vec<BlkioEntry>>,
    /// Milliseconds.
    pub io_time_recursive: Option<Vec<BlkioEntry>>,
    /// Sectors.
    pub sectors_recursive: Option<Vec<BlkioEntry>>,
}

/// One number of one device.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BlkioEntry {
    /// Device.
    pub major: u64,
    /// Device.
    pub minor: u64,
    /// `read`, `write`, …
    pub op: String,
    /// Number.
    pub value: u64,
}

/// CPU time.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CpuStats {
    /// Of the container.
    pub cpu_usage: CpuUsage,
    /// Of the host, in nanoseconds.
    #[serde(skip_serializing_if = "is_default")]
    pub system_cpu_usage: u64,
    /// CPUs.
    #[serde(skip_serializing_if = "is_default")]
    pub online_cpus: u32,
    /// Throttling.
    pub throttling_data: ThrottlingData,
}

/// CPU time of the container, in nanoseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CpuUsage {
    /// All.
    pub total_usage: u64,
    /// By CPU; cgroup v1 only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub percpu_usage: Option<Vec<u64>>,
    /// Kernel.
    pub usage_in_kernelmode: u64,
    /// User.
    pub usage_in_usermode: u64,
}

/// Throttling.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ThrottlingData {
    /// Periods.
    pub periods: u64,
    /// Periods in which it was throttled.
    pub throttled_periods: u64,
    /// Nanoseconds.
    pub throttled_time: u64,
}

/// Memory, in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MemoryStats {
    /// Now.
    #[serde(skip_serializing_if = "is_default")]
    pub usage: u64,
    /// Ever; cgroup v1 only.
    #[serde(skip_serializing_if = "is_default")]
    pub max_usage: u64,
    /// memory.stat.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub stats: BTreeMap<String, u64>,
    /// Failed allocations; cgroup v1 only.
    #[serde(skip_serializing_if = "is_default")]
    pub failcnt: u64,
    /// Limit, the host's memory where there is none.
    #[serde(skip_serializing_if = "is_default")]
    pub limit: u64,
}

/// One interface.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkStats {
    /// Received.
    pub rx_bytes: u64,
    /// Received.
    pub rx_packets: u64,
    /// Received.
    pub rx_errors: u64,
    /// Received.
    pub rx_dropped: u64,
    /// Sent.
    pub tx_bytes: u64,
    /// Sent.
    pub tx_packets: u64,
    /// Sent.
    pub tx_errors: u64,
    /// Sent.
    pub tx_dropped: u64,
}
