//! The program `corten-runtime`: shim, OCI runtime and in-container init. What it is is decided by its first
//! argument, or by the name it is run under.

// What a container's process may not do is checked wherever debug assertions are: in all tests.
#[cfg(debug_assertions)]
#[global_allocator]
static ALLOCATOR: corten_sys::allocation::Guarded = corten_sys::allocation::Guarded;

fn main() {
    let mut args = std::env::args_os().map(|a| a.to_string_lossy().into_owned());
    let name = args.next().unwrap_or_default();
    let rest: Vec<String> = args.collect();
    let base = name.rsplit('/').next().unwrap_or_default();
    let code = match (base, rest.first().map(String::as_str)) {
        ("docker-init", _) => corten_runtime::init::main(&rest),
        ("corten-oci" | "runc", _) => corten_runtime::oci::main(&rest),
        (_, Some("oci")) => corten_runtime::oci::main(&rest[1..]),
        (_, Some("shim")) => corten_runtime::shim::main(),
        _ => 2,
    };
    corten_sys::process::exit_now(code);
}
