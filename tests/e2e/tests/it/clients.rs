//! Other people's clients, installed by `cargo xtask test` from their packages.

use std::path::Path;
use std::process::Command;

use corten_testkit::Daemon;

/// The Python with docker-py that `cargo xtask test` prepares.
fn python() -> std::path::PathBuf {
    let python = std::env::var_os("CORTEN_CLIENTS_PYTHON").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/clients/bin/python"),
        std::path::PathBuf::from,
    );
    assert!(python.exists(), "no {}: run `cargo xtask test` once", python.display());
    python
}

#[test]
fn docker_py() {
    let daemon = Daemon::start();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../clients/docker_py.py");
    let output = Command::new(python())
        .arg(script)
        .env("DOCKER_HOST", format!("unix://{}", daemon.socket().display()))
        .output()
        .expect("python starts");
    assert!(output.status.success(), "{}\n{}", String::from_utf8_lossy(&output.stderr), daemon.log());
}
