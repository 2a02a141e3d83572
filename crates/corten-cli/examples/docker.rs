//! The docker command line as a program of its own, for development.

fn main() -> std::process::ExitCode {
    let code = corten_cli::main(std::env::args_os().collect());
    std::process::ExitCode::from(u8::try_from(code).unwrap_or(1))
}
