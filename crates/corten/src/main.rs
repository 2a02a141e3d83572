//! The program `corten`: by its name or first word a daemon, a registry, or the docker command line.

mod daemon;
mod registry;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    let called = args.first().and_then(|a| Path::new(a).file_name()).unwrap_or_default().to_owned();
    let word = |n: usize| args.get(n).and_then(|a| a.to_str()).unwrap_or_default();
    let code = if called == "dockerd" {
        daemon::main(&args[1..])
    } else {
        match (word(1), word(2)) {
            ("daemon", _) => daemon::main(&args[2..]),
            ("registry", "serve") => registry::main(&args[3..]),
            _ => corten_cli::main(args),
        }
    };
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

/// The one line a program says before it can log.
fn complain(text: &str) {
    use std::io::Write;
    // Where standard error is closed there is nobody to tell.
    let _ = writeln!(std::io::stderr(), "{text}");
}
