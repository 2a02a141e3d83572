//! Scenarios of networks, and the little programs that run in containers' namespaces for them: senders, receivers and
//! askers are this very program under another name, so that no tool has to be installed.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::api::Api;
use crate::engine::Engine;
use crate::measure::{Row, median_ms};
use crate::scenario::{each, rounds, row};

/// Bytes of a throughput measurement.
const BYTES: usize = 512 << 20;
/// Round trips of a latency measurement.
const TRIPS: usize = 5_000;
/// Questions per second, and for how long.
const QUESTIONS: usize = 5_000;
const SECONDS: usize = 2;

/// What `bench __NAME ARGS…` does: `None` if that is not what was called.
///
/// # Errors
/// When the network does not let it.
pub fn program(args: &[String]) -> Option<Result<()>> {
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    Some(match words.as_slice() {
        ["__serve", address] => serve(address),
        ["__send", address] => send(address),
        ["__ping", address] => ping(address),
        ["__ask", name] => ask(name),
        _ => return None,
    })
}

/// Answers single bytes, and swallows what comes in a stream; one connection after the other.
fn serve(address: &str) -> Result<()> {
    let listener = TcpListener::bind(address)?;
    println!("ready");
    for stream in listener.incoming() {
        let mut stream = stream?;
        stream.set_nodelay(true)?;
        let mut buffer = vec![0; 256 * 1024];
        loop {
            match stream.read(&mut buffer)? {
                0 => break,
                1 => stream.write_all(&[1])?,
                _ => {}
            }
        }
        // The sender waits until everything was read.
        stream.write_all(&[2]).ok();
    }
    Ok(())
}

/// Gigabits per second.
#[expect(clippy::cast_precision_loss, reason = "half a gigabyte fits")]
fn send(address: &str) -> Result<()> {
    let mut stream = TcpStream::connect(address)?;
    let chunk = vec![0; 256 * 1024];
    let begin = Instant::now();
    for _ in 0..BYTES / chunk.len() {
        stream.write_all(&chunk)?;
    }
    stream.shutdown(std::net::Shutdown::Write)?;
    stream.read_exact(&mut [0])?;
    println!("{}", BYTES as f64 * 8.0 / begin.elapsed().as_secs_f64() / 1e9);
    Ok(())
}

/// Microseconds of a round trip, the median.
fn ping(address: &str) -> Result<()> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    let mut samples = Vec::with_capacity(TRIPS);
    for _ in 0..TRIPS {
        let begin = Instant::now();
        stream.write_all(&[0])?;
        stream.read_exact(&mut [0])?;
        samples.push(begin.elapsed());
    }
    println!("{}", median_ms(samples).unwrap_or_default() * 1e3);
    Ok(())
}

/// Asks the embedded name server at a steady rate; microseconds, the median and the 99th percentile.
fn ask(name: &str) -> Result<()> {
    let mut question = vec![0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, name.len() as u8];
    question.extend_from_slice(name.as_bytes());
    question.extend_from_slice(&[0, 0, 1, 0, 1]);
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect("127.0.0.11:53")?;
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    let gap = Duration::from_secs(1) / QUESTIONS as u32;
    let begin = Instant::now();
    let mut samples = Vec::with_capacity(QUESTIONS * SECONDS);
    let mut buffer = [0; 512];
    for n in 0..(QUESTIONS * SECONDS) as u32 {
        while begin.elapsed() < gap * n {
            std::hint::spin_loop();
        }
        question[..2].copy_from_slice(&(n as u16).to_be_bytes());
        let asked = Instant::now();
        socket.send(&question)?;
        let length = socket.recv(&mut buffer)?;
        if length < 12 || buffer[..2] != question[..2] || buffer[7] == 0 {
            bail!("no answer for {name}");
        }
        samples.push(asked.elapsed());
    }
    let rate = samples.len() as f64 / begin.elapsed().as_secs_f64();
    samples.sort();
    let at = |q: f64| samples[(samples.len() as f64 * q) as usize].as_secs_f64() * 1e6;
    println!("{} {} {rate}", at(0.5), at(0.99));
    Ok(())
}

/// A program of ours in a container's namespace (or, without a container, in the engine's).
fn inside(engine: &Engine, container: Option<&str>, args: &[&str]) -> Result<Command> {
    let exe = std::env::current_exe()?;
    let mut command = match container {
        None => engine.inside(exe),
        Some(name) => {
            let pid = engine.say(&["inspect", "-f", "{{.State.Pid}}", name])?;
            let mut command = Command::new("nsenter");
            command.arg(format!("--net=/proc/{pid}/ns/net")).arg(exe);
            command
        }
    };
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped());
    Ok(command)
}

/// Runs it to its end; the numbers it prints.
fn numbers(mut command: Command) -> Result<Vec<f64>> {
    let output = command.output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let numbers: Vec<f64> = text.split_whitespace().filter_map(|w| w.parse().ok()).collect();
    if !output.status.success() || numbers.is_empty() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(numbers)
}

/// A server that has said that it is ready; ends with this.
struct Server(Child);

impl Server {
    fn start(engine: &Engine, container: Option<&str>, address: &str) -> Result<Self> {
        let mut child = inside(engine, container, &["__serve", address])?.spawn()?;
        let mut line = [0; 5];
        child.stdout.as_mut().context("piped")?.read_exact(&mut line)?;
        Ok(Self(child))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// From where to where; `None` is the engine's host.
#[derive(Clone, Copy)]
struct Path {
    from: Option<&'static str>,
    to: Option<&'static str>,
    published: bool,
}

impl Path {
    fn measure(self, engine: &Engine, what: &str) -> Result<f64> {
        let server = if self.to.is_some() { "0.0.0.0:5201" } else { "127.0.0.1:5202" };
        let _server = Server::start(engine, self.to, server)?;
        let address = match (self.to, self.published) {
            (None, _) => server.to_owned(),
            (Some(_), true) => "127.0.0.1:5201".to_owned(),
            (Some(name), false) => {
                let ip = engine.say(&["inspect", "-f", "{{.NetworkSettings.IPAddress}}", name])?;
                format!("{ip}:5201")
            }
        };
        Ok(numbers(inside(engine, self.from, &[what, &address])?)?[0])
    }
}

/// The engines take turns; the best of each says what it can do, whatever else the machine does.
fn best(
    engines: &[Engine],
    better: fn(f64, f64) -> f64,
    once: impl Fn(&Engine) -> Result<f64>,
) -> Vec<Option<f64>> {
    const ROUNDS: usize = 5;
    let mut best: Vec<Option<f64>> = vec![None; engines.len()];
    let mut failed = vec![false; engines.len()];
    for _ in 0..ROUNDS {
        for (at, engine) in engines.iter().enumerate() {
            if failed[at] {
                continue;
            }
            match once(engine) {
                Ok(value) => best[at] = Some(best[at].map_or(value, |b| better(b, value))),
                Err(e) => {
                    eprintln!("{}: {e:#}", engine.name);
                    failed[at] = true;
                }
            }
        }
    }
    best
}

/// Throughput and latency: loopback, between containers, through a published port.
pub fn paths(engines: &[Engine], _: usize) -> Result<Vec<Row>> {
    for engine in engines {
        engine
            .say(&["run", "-d", "--name", "one", "-p", "127.0.0.1:5201:5201", "busybox", "sleep", "10000"])
            .ok();
        engine.say(&["run", "-d", "--name", "two", "busybox", "sleep", "10000"]).ok();
    }
    let mut rows = Vec::new();
    for (name, from, to, published) in [
        ("loopback", None, None, false),
        ("container to container", Some("two"), Some("one"), false),
        ("host to container, published port", None, Some("one"), true),
    ] {
        let path = Path { from, to, published };
        let most = best(engines, f64::max, |engine| path.measure(engine, "__send"));
        rows.push(row(format!("throughput, {name}"), "Gbit/s", most));
        let least = best(engines, f64::min, |engine| path.measure(engine, "__ping"));
        rows.push(row(format!("round trip, {name}"), "µs", least));
    }
    for engine in engines {
        engine.say(&["rm", "-f", "one", "two"]).ok();
    }
    Ok(rows)
}

/// Networks come and go, containers are connected.
pub fn changes(engines: &[Engine], runs: usize) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    let create = rounds(engines, runs, |engine| {
        let mut api = Api::connect(engine)?;
        let begin = Instant::now();
        api.call("POST", "/networks/create", r#"{"Name":"bench"}"#)?;
        api.call("DELETE", "/networks/bench", "")?;
        Ok(begin.elapsed())
    });
    rows.push(row("network, create and delete", "ms", create));
    for engine in engines {
        engine.say(&["network", "create", "bench"]).ok();
        engine.say(&["run", "-d", "--name", "c1", "busybox", "sleep", "10000"]).ok();
    }
    let connect = rounds(engines, runs, |engine| {
        let mut api = Api::connect(engine)?;
        let body = r#"{"Container":"c1"}"#;
        let begin = Instant::now();
        api.call("POST", "/networks/bench/connect", body)?;
        let took = begin.elapsed();
        api.call("POST", "/networks/bench/disconnect", body)?;
        Ok(took)
    });
    rows.push(row("connect a running container", "ms", connect));
    for engine in engines {
        engine.say(&["rm", "-f", "c1"]).ok();
        engine.say(&["network", "rm", "bench"]).ok();
    }
    Ok(rows)
}

/// Many published ports.
pub fn ports(engines: &[Engine], _: usize) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    // Programs per port make twenty thousand of them a matter of hours.
    for (range, name, all) in [
        ("20000-20499:10000-10499", "`run -d` with 500 published ports", true),
        ("20000-39999:20000-39999", "`run -d` with a row of 20,000 published ports", false),
    ] {
        let values = each(engines, |engine| {
            if !all && engine.name != "corten" {
                bail!("not tried with 20,000 ports");
            }
            let took =
                engine.timed(&["run", "-d", "--name", "ports", "-p", range, "busybox", "sleep", "10000"]);
            engine.say(&["rm", "-f", "ports"])?;
            Ok(took?.as_secs_f64() * 1e3)
        });
        rows.push(row(name, "ms", values));
    }
    Ok(rows)
}

/// The embedded name server under load.
pub fn names(engines: &[Engine], _: usize) -> Result<Vec<Row>> {
    let mut columns = [Vec::new(), Vec::new(), Vec::new()];
    for engine in engines {
        let measured = (|| {
            // podman's own has no address of its own inside.
            engine.socket().context("no name server at 127.0.0.11")?;
            engine.say(&["network", "create", "names"])?;
            for name in ["server", "asker"] {
                engine.say(&["run", "-d", "--name", name, "--net", "names", "busybox", "sleep", "9999"])?;
            }
            numbers(inside(engine, Some("asker"), &["__ask", "server"])?)
        })()
        .inspect_err(|e| eprintln!("{}: {e:#}", engine.name))
        .ok();
        engine.say(&["rm", "-f", "server", "asker"]).ok();
        engine.say(&["network", "rm", "names"]).ok();
        for (at, column) in columns.iter_mut().enumerate() {
            column.push(measured.as_ref().and_then(|m| m.get(at).copied()));
        }
    }
    let [median, tail, rate] = columns;
    Ok(vec![
        row("name server at 5,000 questions/s, median", "µs", median),
        row("name server at 5,000 questions/s, 99th percentile", "µs", tail),
        row("name server, questions answered per second", "/s", rate),
    ])
}
