//! Hands the descriptor through which a seccomp filter asks (`SCMP_ACT_NOTIFY`) to the one who answers.
//!
//! ```text
//!  creator (or start)                     process
//!    ◀── a shared page ──────────────────── it is about to install its filter
//!                                           installs it
//!    sees the number ◀ ─ (shared page) ─ ─  says the descriptor's number, and spins
//!    takes the descriptor (pidfd_getfd)
//!    sends it to the listener
//!    lets it go on ─ ─ ─ (shared page) ─ ▶  executes its program, which closes the descriptor
//! ```
//!
//! Between the filter and the program nothing can be sent: the very call might be one that the filter asks about.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use corten_sys::shared::Shared;
use corten_sys::{process, seqpacket};
use corten_wire::oci_runtime::{ContainerProcessState, State};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::failure::{Failure, Outcome, Step, of};
use super::report;
use crate::fault::StepError;
use crate::seccomp::{Listener, Program};

/// How long the listener may take to take its descriptor.
const PATIENCE: Duration = Duration::from_secs(30);

/// Whom to tell about a filter's descriptor, and of which container it is.
#[derive(Debug)]
pub(crate) struct Answers<'a> {
    pub(crate) listener: &'a Listener,
    /// The container's; pid and status are filled in.
    pub(crate) state: &'a State,
}

impl<'a> Answers<'a> {
    /// Nobody, for a filter that does not ask.
    pub(crate) fn of(filter: Option<&'a Program>, state: &'a State) -> Option<Self> {
        filter.and_then(|f| f.listener.as_ref()).map(|listener| Self { listener, state })
    }
}

fn fail(what: &str) -> impl Fn(io::Error) -> StepError {
    let what = what.to_owned();
    move |e| StepError::os("seccomp", format!("unable to init seccomp: {what}"), &e)
}

/// Installs the filter of this process.
pub(super) fn install(filter: &Program, socket: BorrowedFd<'_>) -> Outcome {
    let page = match &filter.listener {
        Some(_) => {
            let page = Shared::new().map_err(of(Step::FilterPage))?;
            seqpacket::send(socket, &[report::LISTENER], &[page.as_fd()], true)
                .map_err(of(Step::FilterReport))?;
            Some(page)
        }
        None => None,
    };
    let asks = corten_sys::seccomp::install(&filter.instructions, filter.flags).map_err(of(Step::Filter))?;
    let (Some(asks), Some(page)) = (asks, page) else { return Ok(()) };
    let number = u32::try_from(asks.as_raw_fd()).unwrap_or_default();
    let heard = page.say(number, PATIENCE * 2);
    // Closed by the program's start; closing and unmapping are system calls.
    std::mem::forget((asks, page));
    if heard { Ok(()) } else { Err(Failure::plain(Step::FilterUnheard)) }
}

/// Takes the descriptor of the process that sent `page`, and sends it on.
pub(super) fn hand_over(
    page: OwnedFd,
    pidfd: BorrowedFd<'_>,
    pid: i32,
    answers: &Answers<'_>,
) -> Result<(), StepError> {
    let page = Shared::of(page).map_err(fail("shared page"))?;
    let number = loop {
        if let Some(number) = page.said() {
            break number;
        }
        let mut fds = [PollFd::from_borrowed_fd(pidfd, PollFlags::IN)];
        let moment = Timespec { tv_sec: 0, tv_nsec: 50_000 };
        if matches!(poll(&mut fds, Some(&moment)), Ok(1..)) {
            // It has ended; its report says why.
            return Ok(());
        }
    };
    let asks =
        process::descriptor_of(pidfd, i32::try_from(number).unwrap_or(-1)).map_err(fail("pidfd_getfd"))?;
    let path = &answers.listener.path;
    let text = ContainerProcessState {
        oci_version: answers.state.oci_version.clone(),
        fds: vec!["seccompFd".to_owned()],
        pid,
        metadata: answers.listener.metadata.clone(),
        state: State { pid: Some(pid), status: "creating".to_owned(), ..answers.state.clone() },
    };
    let text = serde_json::to_vec(&text).map_err(|e| StepError::new("seccomp", e.to_string()))?;
    let socket = seqpacket::connect_stream(path)
        .map_err(fail(&format!("failed to connect to seccomp agent {}", path.display())))?;
    let patience = rustix::net::sockopt::Timeout::Send;
    rustix::net::sockopt::set_socket_timeout(&socket, patience, Some(PATIENCE))
        .map_err(|e| fail("send")(e.into()))?;
    seqpacket::send(socket.as_fd(), &text, &[asks.as_fd()], true)
        .map_err(fail(&format!("failed to send to seccomp agent {}", path.display())))?;
    page.heard();
    Ok(())
}
