//! The user namespace that this process is in.

use std::sync::OnceLock;

/// Every id there is, as the kernel counts the first namespace's.
const ALL: u64 = u32::MAX as u64;

/// How many ids from 0 on are known here, by one of the kernel's files.
fn known(file: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/self/{file}")).unwrap_or_default();
    let mut next = 0;
    for line in text.lines() {
        let mut fields = line.split_ascii_whitespace().filter_map(|f| f.parse::<u64>().ok());
        if let (Some(inside), Some(_), Some(size)) = (fields.next(), fields.next(), fields.next())
            && inside == next
        {
            next += size;
        }
    }
    next
}

/// Whether it is the machine's own. In any other one root may less: no devices, no `trusted.` attributes, only
/// control groups that were handed over.
#[must_use]
pub fn initial() -> bool {
    static INITIAL: OnceLock<bool> = OnceLock::new();
    *INITIAL.get_or_init(|| {
        let text = std::fs::read_to_string("/proc/self/uid_map");
        // Without the file there are no such namespaces.
        text.map_or(true, |t| t.split_ascii_whitespace().eq(["0", "0", "4294967295"]))
    })
}

/// The last group that is known here.
#[must_use]
pub fn last_group() -> u32 {
    let count = known("gid_map");
    u32::try_from(count.clamp(1, ALL) - 1).unwrap_or(u32::MAX)
}

/// The beginning of the attributes that an overlay mounted here keeps its marks in.
#[must_use]
pub fn overlay_prefix() -> &'static str {
    if initial() { "trusted.overlay." } else { "user.overlay." }
}
