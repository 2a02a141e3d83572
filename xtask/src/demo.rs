//! `cargo xtask demo`: the whole way once, for real, told in plain words.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::run::{capture, root, run as run_command};
use crate::{build, packages};

/// A scratch installation: its own directory, socket and bridge, so that nothing of the host is touched.
struct Demo {
    dir: PathBuf,
    bin: PathBuf,
    children: Vec<Child>,
}

/// Runs the demonstration; any step that fails ends it with an error, after cleaning up.
pub fn run() -> Result<()> {
    packages::ensure(&[("/bin/busybox", "busybox-static")])?;
    say("Building Corten (release; the first time takes a few minutes)");
    let bin = build::dist(build::Profile::Release)?;
    let dir = std::env::temp_dir().join(format!("corten-demo-{}", std::process::id()));
    std::fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    let mut demo = Demo { dir, bin, children: Vec::new() };
    let outcome = demo.story();
    say("Cleaning up");
    let cleaned = demo.clean_up();
    outcome?;
    cleaned?;
    say("Done: built, shipped and run.");
    Ok(())
}

fn say(text: &str) {
    println!("\n\x1b[1m▶ {text}\x1b[0m");
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0").context("find a free port")?.local_addr()?.port())
}

impl Demo {
    fn story(&mut self) -> Result<()> {
        say("Starting a daemon of our own (its data, socket and bridge are temporary)");
        self.start_daemon()?;
        self.corten(&[
            "version",
            "--format",
            "Client {{.Client.Version}}, server {{.Server.Version}}, API {{.Server.APIVersion}}",
        ])?;

        say("Making a base image from this machine's busybox");
        let tar = self.dir.join("busybox.tar");
        base_tar(&tar)?;
        self.corten(&["import", &tar.display().to_string(), "busybox:latest"])?;

        say("Building examples/web/Dockerfile: two stages, a small guest book");
        let context = root().join("examples/web");
        self.corten(&["build", "-t", "guestbook:1", &context.display().to_string()])?;

        let port = free_port()?;
        say(&format!("Starting the built-in registry on 127.0.0.1:{port}, pushing, removing, pulling"));
        self.start_registry(port)?;
        let name = format!("127.0.0.1:{port}/demo/guestbook:1");
        self.corten(&["tag", "guestbook:1", &name])?;
        self.corten(&["push", &name])?;
        self.corten(&["rmi", &name, "guestbook:1"])?;
        self.corten(&["pull", &name])?;

        let web = free_port()?;
        say(&format!("Running it with -p 127.0.0.1:{web}:80"));
        self.corten(&[
            "run",
            "-d",
            "--name",
            "guestbook",
            "-p",
            &format!("127.0.0.1:{web}:80"),
            "-m",
            "64m",
            &name,
        ])?;
        let page = fetch(web, "/")?;
        if !page.contains("Corten guest book") {
            bail!("the page is not the one we built:\n{page}");
        }
        println!("GET / → {}", page.lines().find(|l| l.contains("<h1>")).unwrap_or_default().trim());
        let signed = fetch(web, "/cgi-bin/book?name=Ada+Lovelace")?;
        if !signed.contains("Ada Lovelace") {
            bail!("the guest book did not take the name:\n{signed}");
        }
        println!("GET /cgi-bin/book?name=Ada+Lovelace → signed");

        say("What runs, what it wrote, what it uses");
        self.corten(&["ps"])?;
        self.corten(&["logs", "guestbook"])?;
        self.corten(&["stats", "--no-stream"])?;
        self.corten(&["exec", "guestbook", "cat", "/data/book.txt"])?;

        say("Stopping it");
        self.corten(&["stop", "-t", "1", "guestbook"])?;
        self.corten(&["rm", "-v", "guestbook"])
    }

    fn socket(&self) -> String {
        format!("unix://{}", self.dir.join("corten.sock").display())
    }

    fn corten(&self, args: &[&str]) -> Result<()> {
        println!("$ corten {}", args.join(" "));
        std::io::stdout().flush()?;
        run_command(
            Command::new(self.bin.join("corten"))
                .args(args)
                .env("DOCKER_HOST", self.socket())
                .env("DOCKER_CONFIG", self.dir.join("config"))
                .env_remove("DOCKER_CONTEXT"),
        )
    }

    fn start_daemon(&mut self) -> Result<()> {
        let log = std::fs::File::create(self.dir.join("daemon.log")).context("create the daemon's log")?;
        // A bridge of its own: the demo runs beside any Docker or Corten that this machine already has.
        let bridge = format!("ctdemo{}", std::process::id() % 100_000);
        let child = Command::new(self.bin.join("corten"))
            .args(["daemon", "-H", &self.socket(), "--bridge", &bridge, "--bip", "172.31.255.1/24"])
            .args(["--data-root", &self.dir.join("data").display().to_string()])
            .args(["--exec-root", &self.dir.join("exec").display().to_string()])
            .args(["--pidfile", &self.dir.join("pid").display().to_string()])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("start the daemon")?;
        self.children.push(child);
        let socket = self.dir.join("corten.sock");
        self.wait_for("the daemon", || std::os::unix::net::UnixStream::connect(&socket).is_ok())
    }

    fn start_registry(&mut self, port: u16) -> Result<()> {
        let child = Command::new(self.bin.join("corten"))
            .args(["registry", "serve", "--addr", &format!("127.0.0.1:{port}")])
            .args(["--root", &self.dir.join("registry").display().to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("start the registry")?;
        self.children.push(child);
        self.wait_for("the registry", || TcpStream::connect(("127.0.0.1", port)).is_ok())
    }

    fn wait_for(&self, what: &str, ready: impl Fn() -> bool) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !ready() {
            if Instant::now() > deadline {
                let log = std::fs::read_to_string(self.dir.join("daemon.log")).unwrap_or_default();
                bail!("{what} did not come up; the daemon says:\n{log}");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    fn clean_up(&mut self) -> Result<()> {
        let list = Command::new(self.bin.join("corten"))
            .args(["ps", "-aq"])
            .env("DOCKER_HOST", self.socket())
            .env("DOCKER_CONFIG", self.dir.join("config"))
            .output();
        let ids: Vec<String> = list
            .map(|o| String::from_utf8_lossy(&o.stdout).split_whitespace().map(str::to_owned).collect())
            .unwrap_or_default();
        let mut problems = Vec::new();
        for id in &ids {
            problems.extend(self.corten(&["rm", "-f", "-v", id]).err());
        }
        for child in &mut self.children {
            run_command(Command::new("kill").args(["-TERM", &child.id().to_string()])).ok();
            child.wait().ok();
        }
        let bridge = format!("ctdemo{}", std::process::id() % 100_000);
        if packages::exists("ip") {
            capture(Command::new("ip").args(["link", "del", &bridge])).ok();
        }
        std::fs::remove_dir_all(&self.dir).with_context(|| format!("remove {}", self.dir.display()))?;
        match problems.into_iter().next() {
            Some(problem) => Err(problem),
            None => Ok(()),
        }
    }
}

/// busybox, its applets as links, and a passwd file: enough for a base image.
fn base_tar(tar: &Path) -> Result<()> {
    let root = tar.with_extension("root");
    for dir in ["bin", "etc", "root", "tmp", "var", "dev", "proc", "sys"] {
        std::fs::create_dir_all(root.join(dir)).with_context(|| format!("create {dir}"))?;
    }
    std::fs::copy("/bin/busybox", root.join("bin/busybox")).context("copy /bin/busybox")?;
    for applet in capture(Command::new("/bin/busybox").arg("--list"))?.lines().filter(|a| *a != "busybox") {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(applet))
            .with_context(|| format!("link {applet}"))?;
    }
    std::fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1::/:/bin/false\n")?;
    std::fs::write(root.join("etc/group"), "root:x:0:\ndaemon:x:1:\n")?;
    run_command(
        Command::new("tar").args(["--owner=0", "--group=0", "-C"]).arg(&root).arg("-cf").arg(tar).arg("."),
    )
}

/// `GET path` on the published port; waits until the server in the container listens.
fn fetch(port: u16, path: &str) -> Result<String> {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let answer = TcpStream::connect_timeout(&address, Duration::from_secs(1)).and_then(|mut stream| {
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: demo\r\n\r\n").as_bytes())?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            Ok(text)
        });
        match answer {
            Ok(text) if text.contains(" 200 ") => return Ok(text),
            _ if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(50)),
            Ok(text) => bail!("GET {path}: {text}"),
            Err(e) => return Err(e).with_context(|| format!("GET {path} on port {port}")),
        }
    }
}
