//! The program `corten-runtime`: shim and in-container init. What it is is decided by its first argument, or by
//! the name it is run under.

fn main() {
    let mut args = std::env::args_os().map(|a| a.to_string_lossy().into_owned());
    let name = args.next().unwrap_or_default();
    let rest: Vec<String> = args.collect();
    let code = match (name.ends_with("docker-init"), rest.first().map(String::as_str)) {
        (true, _) => corten_runtime::init::main(&rest),
        (false, Some("shim")) => corten_runtime::shim::main(),
        (false, _) => 2,
    };
    corten_sys::process::exit_now(code);
}
