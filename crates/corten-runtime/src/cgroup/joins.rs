//! How long it takes to move a process into a control group.
//!
//! Ordinarily the kernel makes forks cheap and moves dear: a move waits for a grace period of RCU, 8 to 16 ms, on
//! every container start and exec of a v1 machine. `favordynmods` is its switch to the contrary: a move then takes
//! 0.2 ms, and a fork pays a little more. It concerns the whole machine, so that the daemon switches it on while
//! it runs and back when it ends. (On v2 processes are made in their group, and nothing is moved.)

use std::io;

const SWITCH: &str = "favordynmods";

/// Flags of the hierarchy that must be repeated, or they are lost.
const KNOWN: [&str; 6] = [
    SWITCH,
    "nsdelegate",
    "memory_localevents",
    "memory_recursiveprot",
    "memory_hugetlb_accounting",
    "pids_localevents",
];

/// Fast moves, until it is dropped; nothing if they were fast already or the kernel has no such switch.
#[derive(Debug)]
pub struct FastJoins {
    changed: bool,
}

impl FastJoins {
    /// Switches on.
    ///
    /// # Errors
    /// When the mount table cannot be read or the kernel refuses (before Linux 6.0).
    pub fn on() -> io::Result<Self> {
        let mut flags = present()?;
        let changed = !flags.contains(&SWITCH);
        if changed {
            flags.push(SWITCH);
            corten_sys::mount::set_cgroup2_flags(&flags)?;
        }
        Ok(Self { changed })
    }
}

impl Drop for FastJoins {
    fn drop(&mut self) {
        if self.changed
            && let Ok(mut flags) = present()
        {
            flags.retain(|f| *f != SWITCH);
            corten_sys::mount::set_cgroup2_flags(&flags).ok();
        }
    }
}

/// The flags of the v2 hierarchy as some mount of it shows them; none if it is mounted nowhere.
fn present() -> io::Result<Vec<&'static str>> {
    let text = std::fs::read_to_string("/proc/self/mountinfo")?;
    Ok(flags_of(&text))
}

fn flags_of(mountinfo: &str) -> Vec<&'static str> {
    let line = mountinfo.lines().find_map(|l| l.split_once(" - cgroup2 ").map(|(_, right)| right));
    let options = line.and_then(|l| l.split(' ').nth(1)).unwrap_or_default();
    KNOWN.into_iter().filter(|k| options.split(',').any(|o| o == *k)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_kept() {
        let text =
            "35 31 0:30 / /sys/fs/cgroup rw,relatime - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n";
        assert_eq!(flags_of(text), ["nsdelegate", "memory_recursiveprot"]);
        assert!(flags_of("").is_empty());
    }
}
