//! `/debug/…`, which answers only while the daemon runs with `--debug`.
//!
//! COMPAT: dockerd has Go's expvar and pprof here. What has a meaning in a program without Go's runtime is answered;
//! the profiles that only that runtime can make say so.

use std::fmt::Write;

use http::{HeaderValue, StatusCode, header};

use crate::body::full;
use crate::call::{Answer, Call};
use crate::error::ApiError;

/// COMPAT: without `--debug` the paths do not exist.
fn check(call: &Call) -> Result<(), ApiError> {
    if call.services.daemon().info.debug {
        return Ok(());
    }
    Err(ApiError { status: StatusCode::NOT_FOUND, message: "page not found".into() })
}

fn plain(text: String) -> Answer {
    let mut response = http::Response::new(full(text));
    let value = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, value);
    Ok(response)
}

/// `GET /debug/vars`.
pub(crate) async fn vars(call: Call) -> Answer {
    check(&call)?;
    let command: Vec<String> = std::env::args_os().map(|a| a.to_string_lossy().into_owned()).collect();
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib = |key: &str| {
        let line = status.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(':'));
        let number = line.and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok());
        number.unwrap_or(0) * 1024
    };
    let memory = serde_json::json!({
        "Sys": kib("VmSize"),
        "HeapSys": kib("VmData"),
        "Resident": kib("VmRSS"),
        "ResidentPeak": kib("VmHWM"),
        "Swapped": kib("VmSwap"),
    });
    call.ok(&serde_json::json!({"cmdline": command, "memstats": memory}))
}

/// `GET /debug/pprof/`.
pub(crate) async fn index(call: Call) -> Answer {
    check(&call)?;
    plain(
        "/debug/pprof/\n\ncmdline\tcommand line, separated by zero bytes\nthreadcreate\tthreads, what they wait for, \
         and their processor time\ngoroutine\tthe same\n\nThe other profiles belong to Go's runtime. Use perf(1) with the \
         daemon's process id.\n"
            .to_owned(),
    )
}

/// `GET /debug/pprof/{profile}`.
pub(crate) async fn profile(call: Call) -> Answer {
    check(&call)?;
    match call.variables[0].as_str() {
        "cmdline" => plain(std::fs::read_to_string("/proc/self/cmdline").unwrap_or_default()),
        "threadcreate" | "goroutine" => plain(threads()),
        name @ ("allocs" | "block" | "heap" | "mutex" | "profile" | "trace" | "symbol") => Err(ApiError {
            status: StatusCode::NOT_IMPLEMENTED,
            message: format!(
                "profile {name} belongs to Go's runtime: use perf(1) with the daemon's process id"
            ),
        }),
        name => Err(ApiError { status: StatusCode::NOT_FOUND, message: format!("Unknown profile: {name}") }),
    }
}

fn threads() -> String {
    let mut text = String::new();
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let mut paths: Vec<_> = tasks.map(|t| t.path()).collect();
    paths.sort();
    writeln!(text, "threads: total {}", paths.len()).ok();
    for path in paths {
        let read = |file: &str| std::fs::read_to_string(path.join(file)).unwrap_or_default();
        let stat = read("stat");
        let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, f)| f).split_whitespace().collect();
        let field = |n: usize| fields.get(n - 3).copied().unwrap_or("?");
        let id = path.file_name().unwrap_or_default().to_string_lossy();
        let (name, waits) = (read("comm"), read("wchan"));
        let (state, user, system) = (field(3), field(14), field(15));
        writeln!(text, "{id} {} {state} {waits} user={user} system={system}", name.trim()).ok();
    }
    text
}
