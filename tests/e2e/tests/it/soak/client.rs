//! One client: a handful of containers, a model of each, and a random walk over everything one can do to them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::world::{Answer, World};

/// Containers per client.
const CONTAINERS: usize = 4;

/// Counts, so that a lost line shows, and serves its own page.
const PAYLOAD: &str = "httpd -p 80 -h /www; i=0; while :; do echo $i; i=$((i+1)); usleep 50000; done";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Absent,
    Created,
    Running,
    Paused,
    Exited,
}

impl State {
    fn of(status: &str) -> Option<Self> {
        Some(match status {
            "created" => Self::Created,
            "running" => Self::Running,
            "paused" => Self::Paused,
            "exited" => Self::Exited,
            _ => return None,
        })
    }
}

/// What must be true of one container.
#[derive(Debug)]
struct Model {
    name: String,
    port: Option<u16>,
    /// Born on the client's own network, which it must then not leave.
    at_home: bool,
    /// `--restart unless-stopped`.
    restarts: bool,
    state: State,
    /// How often it may have been started.
    starts: u32,
}

#[derive(Debug)]
pub(super) struct Client {
    world: Arc<World>,
    number: u64,
    random: u64,
    network: String,
    volume: String,
    models: Vec<Model>,
    renames: u32,
}

impl Client {
    pub(super) fn new(world: Arc<World>, number: u64, seed: u64) -> Self {
        let models = (0..CONTAINERS)
            .map(|i| Model {
                name: format!("k{number}-{i}"),
                port: None,
                at_home: false,
                restarts: false,
                state: State::Absent,
                starts: 0,
            })
            .collect();
        Self {
            world,
            number,
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            network: format!("soaknet{number}"),
            volume: format!("soakvol{number}"),
            models,
            renames: 0,
        }
    }

    /// Until the world ends; then removes everything that it made.
    pub(super) fn live(mut self) {
        self.ensure(
            "/networks/create",
            &json!({"Name": self.network}),
            &format!("/networks/{}", self.network),
        );
        while !self.world.ended() {
            let which = self.pick(self.models.len());
            self.one_step(which);
            if self.pick(12) == 0 {
                self.look_at_all();
            }
        }
        for which in 0..self.models.len() {
            self.remove(which, true);
            if self.models[which].state != State::Absent {
                self.remove(which, true);
            }
        }
        self.look_at_all();
        self.ensure_gone(&format!("/networks/{}", self.network));
        self.ensure_gone(&format!("/volumes/{}", self.volume));
    }

    /// xorshift64: the same seed walks the same way.
    fn pick(&mut self, below: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        usize::try_from(self.random % below as u64).expect("below a usize")
    }

    fn one_step(&mut self, which: usize) {
        let choice = self.pick(16);
        match (self.models[which].state, choice) {
            (State::Absent, 0..4) => self.short_life(),
            (State::Absent, _) => self.create(which),
            (State::Created | State::Exited, 0..7) => self.change(which, "start", State::Running),
            (State::Created | State::Exited, 7..10) => self.remove(which, false),
            (State::Created | State::Exited, 10) => self.commit(which),
            (State::Running, 0..2) => self.change(which, "stop?t=0", State::Exited),
            (State::Running, 2) => self.change(which, "kill", State::Exited),
            (State::Running, 3) => self.change(which, "restart?t=0", State::Running),
            (State::Running, 4) => self.change(which, "pause", State::Paused),
            (State::Running, 5..7) => self.exec(which),
            (State::Running, 7) => self.page(which),
            (State::Running, 8) => self.network(which),
            (State::Paused, 0..8) => self.change(which, "unpause", State::Running),
            (_, 11) => self.remove(which, true),
            (_, 12) => self.rename(which),
            (_, 13) => self.archive(which),
            (_, 14) => self.logs(which),
            _ => self.read(which),
        }
    }

    fn wrong(&self, which: usize, what: &str) {
        self.world.wrong(format!("client {}, {:?}: {what}", self.number, self.models[which]));
    }

    /// A request whose success takes the container into another state.
    fn change(&mut self, which: usize, action: &str, to: State) {
        let from = self.models[which].state;
        if to == State::Running && action != "unpause" {
            self.models[which].starts += 1;
        }
        let path = format!("/containers/{}/{action}", self.models[which].name);
        match self.world.call("POST", &path, None) {
            Answer::Status(204 | 304, _) => self.expect(which, to),
            Answer::Status(status, body) => {
                self.wrong(which, &format!("{action}: {status} {}", String::from_utf8_lossy(&body)));
            }
            // Cut short, a restart is a stop that nobody asked for: the policy brings the container back.
            Answer::Gone if from == to && self.models[which].restarts => self.settle_twice(which, &[to]),
            Answer::Gone => self.settle_twice(which, &[from, to, State::Exited]),
        }
    }

    /// The daemon has said it: it must be so.
    fn expect(&mut self, which: usize, state: State) {
        self.models[which].state = state;
        self.settle(which, &[state]);
    }

    /// Asks until one of the possible states is there, and believes it.
    fn settle(&mut self, which: usize, possible: &[State]) {
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut seen = None;
        while Instant::now() < deadline {
            match self.observe(which) {
                Some(state) if possible.contains(&state) => {
                    self.models[which].state = state;
                    return;
                }
                // The daemon went away in between: ask again.
                None => {}
                other => seen = other,
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        self.wrong(which, &format!("is {seen:?}, may be {possible:?}"));
    }

    /// After a crash: what the last daemon did in its last moment (a signal) takes effect a little later.
    fn settle_twice(&mut self, which: usize, possible: &[State]) {
        self.settle(which, possible);
        std::thread::sleep(Duration::from_secs(2));
        self.settle(which, possible);
    }

    /// `None`: the daemon was away, or the container is on its way from one state to another.
    fn observe(&self, which: usize) -> Option<State> {
        let path = format!("/containers/{}/json", self.models[which].name);
        match self.world.call("GET", &path, None) {
            Answer::Status(200, body) => {
                let value: Value = serde_json::from_slice(&body).unwrap_or_default();
                State::of(value["State"]["Status"].as_str()?)
            }
            Answer::Status(404, _) => Some(State::Absent),
            Answer::Status(status, body) => {
                self.wrong(which, &format!("inspect: {status} {}", String::from_utf8_lossy(&body)));
                None
            }
            Answer::Gone => None,
        }
    }

    fn create(&mut self, which: usize) {
        let port =
            20_000 + u16::try_from(self.number).expect("few") * 100 + u16::try_from(which).expect("few");
        let network = match self.pick(4) {
            0 => "none".to_owned(),
            1 => self.network.clone(),
            _ => "bridge".to_owned(),
        };
        let published = network != "none" && self.pick(2) == 0;
        // COMPAT: `always` and `on-failure` start a stopped container again when the daemon comes back.
        let policy = ["no", "unless-stopped"][self.pick(2)];
        let mut host = json!({"NetworkMode": network, "RestartPolicy": {"Name": policy}});
        if published {
            host["PortBindings"] = json!({"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": port.to_string()}]});
        }
        match self.pick(3) {
            0 => host["Binds"] = json!([format!("{}:/data", self.volume)]),
            1 => host["Tmpfs"] = json!({"/scratch": "size=1m"}),
            _ => {}
        }
        let body = json!({"Image": "busybox", "Cmd": ["sh", "-c", PAYLOAD], "HostConfig": host,
            "Volumes": {"/anonymous": {}}, "ExposedPorts": {"80/tcp": {}}});
        let path = format!("/containers/create?name={}", self.models[which].name);
        self.models[which].port = published.then_some(port);
        self.models[which].at_home = network == self.network;
        self.models[which].restarts = policy != "no";
        self.models[which].starts = 0;
        match self.world.call("POST", &path, Some(&body)) {
            Answer::Status(201, _) => self.expect(which, State::Created),
            Answer::Status(status, body) => {
                self.wrong(which, &format!("create: {status} {}", String::from_utf8_lossy(&body)));
            }
            Answer::Gone => self.settle(which, &[State::Absent, State::Created]),
        }
    }

    fn remove(&mut self, which: usize, force: bool) {
        let from = self.models[which].state;
        let path = format!("/containers/{}?v=1&force={force}", self.models[which].name);
        match self.world.call("DELETE", &path, None) {
            Answer::Status(204, _) => self.expect(which, State::Absent),
            Answer::Status(404, _) if from == State::Absent => {}
            Answer::Status(status, body) => {
                self.wrong(which, &format!("remove: {status} {}", String::from_utf8_lossy(&body)));
            }
            // A removal by force stops first.
            Answer::Gone if force => self.settle_twice(which, &[from, State::Exited, State::Absent]),
            Answer::Gone => self.settle(which, &[from, State::Absent]),
        }
    }

    /// `run --rm` of something short: the exit code is the payload's, whatever happens meanwhile.
    fn short_life(&mut self) {
        let code = self.pick(100);
        let name = format!("k{}-short", self.number);
        let body = json!({"Image": "busybox", "Cmd": ["sh", "-c", format!("usleep 100000; exit {code}")]});
        if let Answer::Status(201, _) =
            self.world.call("POST", &format!("/containers/create?name={name}"), Some(&body))
            && let Answer::Status(204, _) =
                self.world.call("POST", &format!("/containers/{name}/start"), None)
        {
            for _ in 0..10 {
                match self.world.call("POST", &format!("/containers/{name}/wait"), None) {
                    Answer::Status(200, body) => {
                        let value: Value = serde_json::from_slice(&body).unwrap_or_default();
                        if value["StatusCode"] != json!(code) {
                            self.world.wrong(format!("{name} ended with {value}, wanted {code}"));
                        }
                        break;
                    }
                    Answer::Status(status, body) => {
                        let text = String::from_utf8_lossy(&body).into_owned();
                        self.world.wrong(format!("wait {name}: {status} {text}"));
                        break;
                    }
                    Answer::Gone => {}
                }
            }
        }
        self.ensure_gone(&format!("/containers/{name}?force=1&v=1"));
    }

    fn exec(&mut self, which: usize) {
        let code = self.pick(100);
        let body = json!({"Cmd": ["sh", "-c", format!("echo said {code}; exit {code}")],
            "AttachStdout": true, "AttachStderr": true});
        let path = format!("/containers/{}/exec", self.models[which].name);
        let Answer::Status(201, answer) = self.world.call("POST", &path, Some(&body)) else { return };
        let value: Value = serde_json::from_slice(&answer).unwrap_or_default();
        let id = value["Id"].as_str().unwrap_or_default().to_owned();
        let start = json!({"Detach": false, "Tty": false});
        let Answer::Status(200, output) = self.world.call("POST", &format!("/exec/{id}/start"), Some(&start))
        else {
            return;
        };
        // Cut off by a crash, the stream ends like a finished one: only the exit code tells.
        if let Answer::Status(200, answer) = self.world.call("GET", &format!("/exec/{id}/json"), None) {
            let value: Value = serde_json::from_slice(&answer).unwrap_or_default();
            let said = String::from_utf8_lossy(output.get(8..).unwrap_or_default()).into_owned();
            if value["Running"] == json!(false)
                && (value["ExitCode"] != json!(code) || said != format!("said {code}\n"))
            {
                self.wrong(which, &format!("exec said {said:?}, wanted {code}: {value}"));
            }
        }
    }

    /// A published port answers, with a daemon or without.
    fn page(&mut self, which: usize) {
        let Some(port) = self.models[which].port else { return };
        let deadline = Instant::now() + Duration::from_secs(15);
        while !self.world.page(port) {
            if Instant::now() > deadline {
                self.wrong(which, "its published port does not answer");
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Into the client's own network and out again; where it is already, Docker refuses.
    fn network(&mut self, which: usize) {
        if self.models[which].at_home {
            return;
        }
        let body = json!({"Container": self.models[which].name, "Force": true});
        let verb = if self.pick(2) == 0 { "connect" } else { "disconnect" };
        let answer = self.world.call("POST", &format!("/networks/{}/{verb}", self.network), Some(&body));
        if let Answer::Status(status, body) = answer
            && ![200, 403, 404, 400].contains(&status)
        {
            let text = String::from_utf8_lossy(&body).into_owned();
            if !(text.contains("already exists in network") || text.contains("is not connected")) {
                self.wrong(which, &format!("{verb}: {status} {text}"));
            }
        }
        self.settle(which, &[State::Running]);
    }

    fn rename(&mut self, which: usize) {
        self.renames += 1;
        let old = self.models[which].name.clone();
        let new = format!("k{}-{which}-{}", self.number, self.renames);
        let state = self.models[which].state;
        match self.world.call("POST", &format!("/containers/{old}/rename?name={new}"), None) {
            Answer::Status(204, _) => {
                self.models[which].name = new;
                self.expect(which, state);
            }
            Answer::Status(404, _) if state == State::Absent => {}
            Answer::Status(status, body) => {
                self.wrong(which, &format!("rename: {status} {}", String::from_utf8_lossy(&body)));
            }
            Answer::Gone => {
                // Under exactly one of the two names.
                let at_old = self.observe(which);
                self.models[which].name.clone_from(&new);
                let at_new = self.observe(which);
                if at_old.is_some_and(|s| s != State::Absent) {
                    self.models[which].name = old;
                    if at_new.is_some_and(|s| s != State::Absent) {
                        self.wrong(which, &format!("has two names after a rename to {new}"));
                    }
                }
                self.settle(which, &[state]);
            }
        }
    }

    /// A file goes in and comes out again.
    fn archive(&mut self, which: usize) {
        let state = self.models[which].state;
        let content = format!("{}", self.pick(1 << 30));
        let tar = tar_of("note", content.as_bytes());
        let path = format!("/containers/{}/archive?path=/", self.models[which].name);
        let answer = self.world.send("PUT", &path, Some(("application/x-tar", &tar)));
        match answer {
            Answer::Status(200, _) => {}
            Answer::Status(404, _) if state == State::Absent => return,
            Answer::Status(status, body) => {
                self.wrong(which, &format!("archive in: {status} {}", String::from_utf8_lossy(&body)));
                return;
            }
            Answer::Gone => return,
        }
        let path = format!("/containers/{}/archive?path=/note", self.models[which].name);
        if let Answer::Status(status, body) = self.world.call("GET", &path, None)
            && (status != 200 || !body.windows(content.len()).any(|w| w == content.as_bytes()))
        {
            self.wrong(which, &format!("archive out: {status}, {} bytes", body.len()));
        }
    }

    /// Every run counts from 0 without a gap.
    fn logs(&mut self, which: usize) {
        if self.models[which].state == State::Absent {
            return;
        }
        let path = format!("/containers/{}/logs?stdout=1", self.models[which].name);
        let Answer::Status(200, body) = self.world.call("GET", &path, None) else { return };
        let mut frames = body.as_slice();
        let mut text = Vec::new();
        while let Some(head) = frames.get(..8) {
            let size = u32::from_be_bytes([head[4], head[5], head[6], head[7]]) as usize;
            text.extend_from_slice(frames.get(8..8 + size).unwrap_or_default());
            frames = frames.get(8 + size..).unwrap_or_default();
        }
        let text = String::from_utf8_lossy(&text).into_owned();
        let (mut runs, mut last) = (0, None);
        for line in text.lines() {
            let Ok(number) = line.parse::<u64>() else {
                self.wrong(which, &format!("a torn line in the log: {line:?}"));
                return;
            };
            if number == 0 {
                runs += 1;
            } else if last.map(|l: u64| l + 1) != Some(number) {
                self.wrong(which, &format!("the log goes from {last:?} to {number}"));
                return;
            }
            last = Some(number);
        }
        if runs > self.models[which].starts {
            self.wrong(which, &format!("{runs} runs in the log"));
        }
    }

    fn commit(&mut self, which: usize) {
        let name = &self.models[which].name;
        let image = format!("soak/k{}", self.number);
        let path = format!("/commit?container={name}&repo={image}");
        match self.world.call("POST", &path, Some(&json!({}))) {
            Answer::Status(201, _) | Answer::Gone => {}
            Answer::Status(status, body) => {
                self.wrong(which, &format!("commit: {status} {}", String::from_utf8_lossy(&body)));
            }
        }
        self.ensure_gone(&format!("/images/{image}?force=1"));
    }

    /// Something that changes nothing.
    fn read(&mut self, which: usize) {
        let name = &self.models[which].name;
        let paths = [
            format!("/containers/{name}/stats?stream=0&one-shot=1"),
            format!("/containers/{name}/top"),
            format!("/containers/{name}/changes"),
            "/system/df".to_owned(),
            "/images/json".to_owned(),
            "/networks".to_owned(),
            "/info".to_owned(),
        ];
        let path = paths[self.pick(paths.len())].clone();
        if let Answer::Status(status, body) = self.world.call("GET", &path, None)
            && status >= 500
            && !path.ends_with("/top")
        {
            self.wrong(which, &format!("{path}: {status} {}", String::from_utf8_lossy(&body)));
        }
    }

    /// No container is lost, and none is there that we did not make.
    fn look_at_all(&mut self) {
        let filter =
            format!("{{\"name\":[\"^/k{}-\"]}}", self.number).replace('"', "%22").replace('^', "%5E");
        let filter = filter.replace('{', "%7B").replace('}', "%7D").replace('[', "%5B").replace(']', "%5D");
        let answer = self.world.call("GET", &format!("/containers/json?all=1&filters={filter}"), None);
        let Answer::Status(200, body) = answer else { return };
        let list: Value = serde_json::from_slice(&body).unwrap_or_default();
        let list = list.as_array().cloned().unwrap_or_default();
        let mut names: Vec<String> = list
            .iter()
            .filter_map(|c| c["Names"][0].as_str().map(|n| n.trim_start_matches('/').to_owned()))
            .collect();
        names.sort();
        let mut wanted: Vec<String> =
            self.models.iter().filter(|m| m.state != State::Absent).map(|m| m.name.clone()).collect();
        wanted.sort();
        if names != wanted {
            self.world.wrong(format!("client {}: has {names:?}, should have {wanted:?}", self.number));
        }
        for which in 0..self.models.len() {
            let state = self.models[which].state;
            self.settle(which, &[state]);
        }
    }

    /// Makes it, however often the daemon dies meanwhile.
    fn ensure(&self, create: &str, body: &Value, inspect: &str) {
        for _ in 0..20 {
            if let Answer::Status(200, _) = self.world.call("GET", inspect, None) {
                return;
            }
            self.world.call("POST", create, Some(body));
        }
        self.world.wrong(format!("{create} never succeeds"));
    }

    /// Removes it, however often the daemon dies meanwhile.
    fn ensure_gone(&self, path: &str) {
        let mut last = String::new();
        for _ in 0..40 {
            match self.world.call("DELETE", path, None) {
                Answer::Status(404, _) => return,
                Answer::Status(status, body) => {
                    last = format!("{status} {}", String::from_utf8_lossy(&body));
                }
                Answer::Gone => {}
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.world.wrong(format!("DELETE {path} never succeeds: {last}"));
    }
}

/// A tar archive (POSIX ustar) of one small file.
fn tar_of(name: &str, content: &[u8]) -> Vec<u8> {
    let mut header = [0u8; 512];
    header[..name.len()].copy_from_slice(name.as_bytes());
    header[100..107].copy_from_slice(b"0000644");
    header[108..115].copy_from_slice(b"0000000");
    header[116..123].copy_from_slice(b"0000000");
    header[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
    header[136..147].copy_from_slice(b"00000000000");
    header[156] = b'0';
    header[257..265].copy_from_slice(b"ustar\x0000");
    header[148..156].copy_from_slice(b"        ");
    let sum: u32 = header.iter().map(|&b| u32::from(b)).sum();
    header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    let mut tar = header.to_vec();
    tar.extend_from_slice(content);
    tar.resize(tar.len().next_multiple_of(512) + 1024, 0);
    tar
}
