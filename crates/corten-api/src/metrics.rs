//! `/metrics` for Prometheus: dockerd's names, and a few of our own; on a listener of its own (`--metrics-addr`).

use std::convert::Infallible;
use std::fmt::Write;
use std::sync::Arc;

use corten_base::Cancel;
use corten_base::metrics::{self, BOUNDS, Counter, Histogram};
use http::{HeaderValue, Method, StatusCode, header};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;

use crate::body::{Response, full};
use crate::services::Services;

const FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";
/// Time for a client to send its request.
const HEAD_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(30);

/// Serves metrics and nothing else until `stop` is set. Like dockerd's listener it asks for no password.
pub async fn serve(services: Arc<Services>, listener: TcpListener, stop: Cancel) {
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            continue;
        };
        let (services, stop) = (Arc::clone(&services), stop.clone());
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let answer = answer(&services, &request);
                async { Ok::<_, Infallible>(answer) }
            });
            let mut http = http1::Builder::new();
            http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
            tokio::select! {
                // A client that hangs up is no event.
                _ended = http.serve_connection(TokioIo::new(stream), service) => {}
                () = stop.cancelled() => {}
            }
        });
    }
}

fn answer(services: &Services, request: &http::Request<Incoming>) -> Response {
    if request.uri().path() != "/metrics" || !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = http::Response::new(full("404 page not found\n"));
        *response.status_mut() = StatusCode::NOT_FOUND;
        return response;
    }
    let mut response = http::Response::new(full(text(services)));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(FORMAT));
    response
}

struct Text(String);

impl Text {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n").ok();
    }

    fn one(&mut self, name: &str, kind: &str, help: &str, value: impl std::fmt::Display) {
        self.head(name, kind, help);
        writeln!(self.0, "{name} {value}").ok();
    }

    fn counter(&mut self, name: &str, help: &str, counter: &Counter) {
        self.one(name, "counter", help, counter.get());
    }

    fn histograms(&mut self, name: &str, help: &str, all: &[&Histogram]) {
        self.head(name, "histogram", help);
        for histogram in all {
            let action = histogram.action;
            let (counts, sum) = histogram.read();
            for (bound, count) in BOUNDS.iter().zip(counts) {
                writeln!(self.0, "{name}_bucket{{action=\"{action}\",le=\"{bound}\"}} {count}").ok();
            }
            let total = counts[BOUNDS.len()];
            writeln!(self.0, "{name}_bucket{{action=\"{action}\",le=\"+Inf\"}} {total}").ok();
            writeln!(self.0, "{name}_sum{{action=\"{action}\"}} {sum}").ok();
            writeln!(self.0, "{name}_count{{action=\"{action}\"}} {total}").ok();
        }
    }
}

/// A label's value.
fn quoted(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn text(services: &Services) -> String {
    let mut t = Text(String::with_capacity(16 * 1024));
    let daemon = services.daemon();
    let info = &daemon.info;
    let counts = services.engine.counts();
    t.counter("builder_builds_triggered_total", "Number of triggered image builds", &metrics::BUILDS);
    t.counter("builder_builds_failed_total", "Number of failed image builds", &metrics::BUILDS_FAILED);
    t.histograms(
        "engine_daemon_container_actions_seconds",
        "The number of seconds it takes to process each container action",
        &metrics::CONTAINER_ACTIONS,
    );
    t.head("engine_daemon_container_states_containers", "gauge", "The count of containers in various states");
    let stopped = counts.stopped;
    for (state, count) in [("paused", counts.paused), ("running", counts.running), ("stopped", stopped)] {
        writeln!(t.0, "engine_daemon_container_states_containers{{state=\"{state}\"}} {count}").ok();
    }
    t.one(
        "engine_daemon_engine_cpus_cpus",
        "gauge",
        "The number of cpus that the host system of the engine has",
        info.ncpu,
    );
    t.head(
        "engine_daemon_engine_info",
        "gauge",
        "The information related to the engine and the OS it is running on",
    );
    let labels = [
        ("architecture", &info.architecture),
        ("commit", &daemon.version.git_commit),
        ("daemon_id", &info.id),
        ("graphdriver", &info.driver),
        ("kernel", &info.kernel_version),
        ("os", &info.operating_system),
        ("os_type", &info.os_type),
        ("os_version", &info.os_version),
        ("version", &info.server_version),
    ];
    let labels: Vec<String> = labels.iter().map(|(k, v)| format!("{k}=\"{}\"", quoted(v))).collect();
    writeln!(t.0, "engine_daemon_engine_info{{{}}} 1", labels.join(",")).ok();
    t.one(
        "engine_daemon_engine_memory_bytes",
        "gauge",
        "The number of bytes of memory that the host system of the engine has",
        info.mem_total,
    );
    t.one(
        "engine_daemon_events_subscribers_total",
        "gauge",
        "The number of current subscribers to events",
        services.engine.bus().subscriber_count(),
    );
    t.counter("engine_daemon_events_total", "The number of events logged", &metrics::EVENTS);
    t.counter(
        "engine_daemon_health_checks_total",
        "The total number of health checks",
        &metrics::HEALTH_CHECKS,
    );
    t.counter(
        "engine_daemon_health_checks_failed_total",
        "The total number of failed health checks",
        &metrics::HEALTH_CHECKS_FAILED,
    );
    t.histograms(
        "engine_daemon_network_actions_seconds",
        "The number of seconds it takes to process each network action",
        &metrics::NETWORK_ACTIONS,
    );
    t.one("corten_images", "gauge", "The number of images", services.images.count());
    process(&mut t);
    t.0
}

/// What Prometheus' libraries say about any process.
fn process(t: &mut Text) {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let entries = |dir: &str| std::fs::read_dir(dir).map_or(0, Iterator::count);
    let stat = read("/proc/self/stat");
    // After the program's name, which may have spaces in it; the first field there is the third.
    let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    let field = |n: usize| fields.get(n - 3).and_then(|f| f.parse::<u64>().ok()).unwrap_or(0);
    #[expect(clippy::cast_precision_loss, reason = "clock ticks fit into 53 bits")]
    let seconds = |ticks: u64| ticks as f64 / 100.0;
    t.one(
        "process_cpu_seconds_total",
        "counter",
        "Total user and system CPU time spent in seconds.",
        seconds(field(14) + field(15)),
    );
    t.one("process_open_fds", "gauge", "Number of open file descriptors.", entries("/proc/self/fd"));
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
    t.one("process_max_fds", "gauge", "Maximum number of open file descriptors.", limit);
    let page = rustix::param::page_size() as u64;
    t.one("process_resident_memory_bytes", "gauge", "Resident memory size in bytes.", field(24) * page);
    t.one("process_virtual_memory_bytes", "gauge", "Virtual memory size in bytes.", field(23));
    t.one("process_threads", "gauge", "Number of threads.", entries("/proc/self/task"));
    let boot = read("/proc/stat");
    let boot = boot.lines().find_map(|l| l.strip_prefix("btime ")?.parse::<u32>().ok()).unwrap_or(0);
    t.one(
        "process_start_time_seconds",
        "gauge",
        "Start time of the process since unix epoch in seconds.",
        f64::from(boot) + seconds(field(22)),
    );
}
