//! `cargo xtask COMMAND`: everything a contributor or CI runs, in one place.

mod build;
mod cgroup2;
mod clients;
mod conformance;
mod demo;
mod golden;
mod machine;
mod packages;
mod reference;
mod run;
mod test;
mod tidy;
mod transcript;
mod vm;

use std::process::ExitCode;

const HELP: &str = "usage: cargo xtask COMMAND

  demo                build an image, push, pull and run it, and say what happens
  build [--release]   build corten and corten-runtime into target/dist/{debug,release}
  test                install what the tests need, run every test, print totals
  soak [MINUTES]      eight random clients while the daemon is killed every 20 seconds (10 minutes unless told)
  conformance [NAME…] run the validation programs of the OCI against our runtime (needs Go)
  clients [SUITE …]   run docker-py, dockerode, buildx, testcontainers and compose against a daemon (fetches them once)
  fuzz [SECONDS] [TARGET]  throw mutated input at what reads untrusted bytes (60 seconds for each target)
  cgroup2 [TESTS…]    run the runtime's tests in a virtual machine with control groups of the second version
  vm [KIND] [TESTS…]  run tests in a virtual machine with systemd and AppArmor, v1 and v2, or SELinux (fetches Debian once)
  tidy                check the repository against its own rules
  transcript [ARGS…]  run the same command lines through docker's client and ours, and compare what they say
  api [ARGS…]         compare a fresh daemon with the Engine API's OpenAPI document
  golden [ARGS…]      compare a fresh daemon with the recorded answers of the reference engine
  bench [ARGS…]       measure against docker.io and podman where they are installed
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let result = match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["demo"] => demo::run(),
        ["build"] => build::dist(build::Profile::Debug).map(drop),
        ["build", "--release"] => build::dist(build::Profile::Release).map(drop),
        ["test", ..] => test::run(&args[1..]),
        ["soak"] => test::soak("10"),
        ["soak", minutes] => test::soak(minutes),
        ["clients", ..] => clients::run(&args[1..]),
        ["transcript", ..] => transcript(&args[1..]),
        ["api", ..] => api(&args[1..]),
        ["conformance", ..] => conformance::run_all(&args[1..]),
        ["fuzz", ..] => build::fuzz(&args[1..]),
        ["cgroup2", ..] => cgroup2::run_all(&args[1..]),
        ["vm", ..] => vm::run_all(&args[1..]),
        ["tidy"] => tidy::run(),
        ["golden", ..] => golden::run(&args[1..]).map(drop),
        ["bench", ..] => build::bench(&args[1..]),
        ["help" | "--help" | "-h"] => {
            print!("{HELP}");
            return ExitCode::SUCCESS;
        }
        _ => {
            eprint!("{HELP}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("xtask: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn transcript(args: &[String]) -> anyhow::Result<()> {
    packages::ensure(test::NEEDS)?;
    let dist = build::dist(build::Profile::Debug)?;
    match transcript::run(std::path::Path::new("python3"), &dist, args)? {
        Some(outcome) if !outcome.passed => anyhow::bail!("there are differences"),
        _ => Ok(()),
    }
}

fn api(args: &[String]) -> anyhow::Result<()> {
    packages::ensure(test::NEEDS)?;
    let dist = build::dist(build::Profile::Debug)?;
    match reference::run(&test::python_clients()?, &dist, args)? {
        Some(outcome) if !outcome.passed => anyhow::bail!("there are differences"),
        _ => Ok(()),
    }
}
