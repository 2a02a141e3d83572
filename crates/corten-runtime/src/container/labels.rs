//! AppArmor profiles and SELinux labels: what a program is executed under.
//!
//! The files to write to are opened on the host's /proc, before anything of the container's could stand in their
//! place (CVE-2025-52881), and written just before the program is executed.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use corten_wire::oci_runtime::Process;

use crate::fault::StepError;

/// What this process is to be executed under.
#[derive(Debug, Default)]
pub(super) struct Labels {
    apparmor: Option<(File, String)>,
    selinux: Option<(File, String)>,
}

/// The kernel confines with AppArmor.
pub(crate) fn has_apparmor() -> bool {
    std::fs::read("/sys/module/apparmor/parameters/enabled").is_ok_and(|t| t.starts_with(b"Y"))
}

/// The kernel labels with SELinux.
pub(crate) fn has_selinux() -> bool {
    Path::new("/sys/fs/selinux/enforce").exists()
}

/// Refuses what the kernel does not have. To be asked on the host's side.
pub(super) fn check(process: &Process, mount_label: &str) -> Result<(), StepError> {
    if !process.apparmor_profile.is_empty() && process.apparmor_profile != "unconfined" && !has_apparmor() {
        return Err(StepError::new("label", "apparmor: config provided but apparmor not supported"));
    }
    let wanted = !process.selinux_label.is_empty() || !mount_label.is_empty();
    if wanted && !has_selinux() {
        let text = "selinux label is specified in config, but selinux is disabled or not supported";
        return Err(StepError::new("label", text));
    }
    Ok(())
}

impl Labels {
    /// Opens what [`Labels::apply`] writes to; /proc is the host's still.
    pub(super) fn open(process: &Process) -> Result<Self, StepError> {
        let open = |path: &str| File::options().write(true).open(path);
        let fail = |e: io::Error| StepError::os("label", "open /proc/thread-self/attr", &e);
        let mut all = Self::default();
        let profile = &process.apparmor_profile;
        if !profile.is_empty() && has_apparmor() {
            // LINUX 5.8: before, all modules share one file.
            let file =
                open("/proc/thread-self/attr/apparmor/exec").or_else(|_| open("/proc/thread-self/attr/exec"));
            all.apparmor = Some((file.map_err(fail)?, format!("exec {profile}")));
        }
        if !process.selinux_label.is_empty() {
            let file = open("/proc/thread-self/attr/exec").map_err(fail)?;
            all.selinux = Some((file, process.selinux_label.clone()));
        }
        Ok(all)
    }

    pub(super) fn apply(&self) -> Result<(), StepError> {
        if let Some((mut file, text)) = self.apparmor.as_ref().map(|(f, t)| (f, t)) {
            file.write_all(text.as_bytes())
                .map_err(|e| StepError::os("label", "unable to apply apparmor profile", &e))?;
        }
        if let Some((mut file, text)) = self.selinux.as_ref().map(|(f, t)| (f, t)) {
            file.write_all(text.as_bytes())
                .map_err(|e| StepError::os("label", "unable to set process label", &e))?;
        }
        Ok(())
    }
}

/// The option that labels a file system; none for those that cannot have one.
pub(super) fn mount_option(fstype: &str, label: &str) -> Option<String> {
    let without = ["proc", "sysfs", "mqueue", "cgroup", "cgroup2"];
    (!label.is_empty() && !without.contains(&fstype)).then(|| format!("context={label}"))
}
