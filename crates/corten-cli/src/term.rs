//! The terminal: is it one, how large is it, raw mode that is always undone.

use std::io::{self, IsTerminal, Write};
use std::sync::Mutex;

use rustix::termios::{self, OptionalActions, Termios};

/// The terminal's settings before raw mode, for every way out of the program.
static SAVED: Mutex<Option<Termios>> = Mutex::new(None);

/// Raw mode while this lives.
#[derive(Debug)]
pub(crate) struct Raw(());

impl Raw {
    /// Puts standard input's terminal into raw mode; `None` where it is not a terminal.
    pub(crate) fn enable() -> Option<Self> {
        let stdin = io::stdin();
        if !stdin.is_terminal() {
            return None;
        }
        let before = termios::tcgetattr(&stdin).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        termios::tcsetattr(&stdin, OptionalActions::Now, &raw).ok()?;
        *SAVED.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(before);
        Some(Self(()))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        restore();
    }
}

/// Undoes raw mode, if it is on.
pub(crate) fn restore() {
    let saved = SAVED.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
    if let Some(before) = saved {
        termios::tcsetattr(io::stdin(), OptionalActions::Now, &before).ok();
    }
}

/// Standard input is a terminal.
pub(crate) fn stdin_is_tty() -> bool {
    io::stdin().is_terminal()
}

/// Standard output is a terminal.
pub(crate) fn stdout_is_tty() -> bool {
    io::stdout().is_terminal()
}

/// Standard error is a terminal.
pub(crate) fn stderr_is_tty() -> bool {
    io::stderr().is_terminal()
}

/// Rows and columns of the terminal on standard output.
pub(crate) fn size() -> Option<(u16, u16)> {
    let size = termios::tcgetwinsize(io::stdout()).ok()?;
    (size.ws_row > 0 && size.ws_col > 0).then_some((size.ws_row, size.ws_col))
}

/// Width to wrap help at.
pub(crate) fn width() -> usize {
    size().map_or(80, |(_, columns)| usize::from(columns))
}

/// Reads a line from the terminal without showing it.
pub(crate) fn read_secret(prompt: &str) -> io::Result<String> {
    let stdin = io::stdin();
    let before = termios::tcgetattr(&stdin)?;
    let mut quiet = before.clone();
    quiet.local_modes.remove(termios::LocalModes::ECHO);
    write!(io::stderr(), "{prompt}")?;
    termios::tcsetattr(&stdin, OptionalActions::Now, &quiet)?;
    *SAVED.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(before);
    let mut line = String::new();
    let read = stdin.read_line(&mut line);
    restore();
    writeln!(io::stderr())?;
    read?;
    Ok(line.trim_end_matches(['\n', '\r']).to_owned())
}

/// Asks on standard output; yes only on `y`.
pub(crate) fn confirm(question: &str) -> io::Result<bool> {
    let mut out = io::stdout();
    write!(out, "{question} [y/N] ")?;
    out.flush()?;
    let mut line = String::new();
    io::stdin().read_line(&mut line)?;
    Ok(line.trim().eq_ignore_ascii_case("y"))
}
