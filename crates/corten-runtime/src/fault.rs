//! Failures as they cross from the shim to the daemon, in Docker's words.

use std::io;

use corten_base::Kind;
pub use corten_base::error::errno_text;
use corten_wire::shim::Fault;

/// Which of the two ways to start a process failed; it decides the beginning of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// The container's first process.
    Create,
    /// A further process.
    Exec,
}

/// A step of starting a process failed.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct StepError {
    /// A fixed word.
    pub(crate) step: String,
    /// What the kernel said.
    pub(crate) errno: Option<i32>,
    /// In words.
    pub(crate) text: String,
    /// The text stands alone: no sentence of the runtime's before it.
    pub(crate) bare: bool,
}

impl StepError {
    /// A system call failed: `text: reason`.
    pub(crate) fn os(step: &str, text: impl std::fmt::Display, error: &io::Error) -> Self {
        let text = format!("{text}: {}", errno_text(error));
        Self { step: step.into(), errno: error.raw_os_error(), text, bare: false }
    }

    /// Something else is wrong.
    pub(crate) fn new(step: &str, text: impl Into<String>) -> Self {
        Self { step: step.into(), errno: None, text: text.into(), bare: false }
    }

    /// The daemon's own words in the reference engine.
    pub(crate) fn bare(step: &str, text: impl Into<String>) -> Self {
        Self { step: step.into(), errno: None, text: text.into(), bare: true }
    }

    /// The words of runc's command line: `verb` is `create`, `run`, `start` or `exec`.
    pub(crate) fn runc_text(&self, verb: &str) -> String {
        let place = match (verb, self.step.as_str()) {
            ("start", _) => return self.text.clone(),
            ("exec", _) => return format!("exec failed: unable to start container process: {}", self.text),
            (_, "cgroup") => "unable to apply cgroup configuration: ",
            _ => "error during container init: ",
        };
        format!("runc {verb} failed: unable to start container process: {place}{}", self.text)
    }

    /// The text of the reference engine and the exit code it derives from it.
    pub(crate) fn into_fault(self, way: Way) -> Fault {
        let exit_code = exit_code(&self.text);
        let kind = if !self.bare && exit_code != 128 { Kind::InvalidArgument } else { Kind::Internal };
        let lead = match way {
            _ if self.bare => "",
            Way::Create if self.step == "cgroup" => {
                "failed to create task for container: failed to create shim task: OCI runtime create failed: \
                 runc create failed: unable to start container process: unable to apply cgroup configuration: "
            }
            Way::Create => {
                "failed to create task for container: failed to create shim task: OCI runtime create failed: \
                 runc create failed: unable to start container process: error during container init: "
            }
            Way::Exec => "OCI runtime exec failed: exec failed: unable to start container process: ",
        };
        Fault { kind, errno: self.errno, exit_code, message: format!("{lead}{}", self.text), step: self.step }
    }
}

/// COMPAT: moby finds the exit code by looking for these words in the runtime's message.
pub(crate) fn exit_code(text: &str) -> i32 {
    let has = |words: &[&str]| words.iter().any(|w| text.contains(w));
    if has(&[
        "executable file not found",
        "no such file or directory",
        "system cannot find the file specified",
    ]) {
        127
    } else if has(&["permission denied", "not a directory", "is a directory"]) {
        126
    } else {
        128
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_and_codes_are_those_of_the_reference() {
        let missing = io::Error::from_raw_os_error(2);
        let fault = StepError::os("exec", "exec: \"/no\": stat /no", &missing).into_fault(Way::Create);
        assert!(
            fault.message.ends_with("container init: exec: \"/no\": stat /no: no such file or directory")
        );
        assert_eq!((fault.exit_code, fault.kind), (127, Kind::InvalidArgument));
        let user = StepError::bare("user", "unable to find user x: no matching entries in passwd file");
        assert_eq!(user.into_fault(Way::Create).kind, Kind::Internal);
    }
}
