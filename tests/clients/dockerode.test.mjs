// What programs do with dockerode (whose npm package has no tests of its own): every call of its documentation outside
// swarm and plugins, with promises and with callbacks, against the daemon that DOCKER_HOST names.
// The daemon has the image busybox; its mirror of the default registry serves it. Run by `cargo xtask clients`.
import assert from "node:assert/strict";
import { after, afterEach, test } from "node:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import path from "node:path";
import { PassThrough, Readable } from "node:stream";
import { text, buffer } from "node:stream/consumers";

const require = createRequire(path.join(process.env.CORTEN_NODE_MODULES, "from.js"));
const Docker = require("dockerode");
const tar = require("tar-stream");

const docker = new Docker();
const work = mkdtempSync(path.join(tmpdir(), "corten-dockerode-"));
after(() => rmSync(work, { recursive: true }));

afterEach(async () => {
  for (const { Id } of await docker.listContainers({ all: true })) {
    await docker.getContainer(Id).remove({ force: true, v: true });
  }
});

const sleeper = async (more = {}) => {
  const container = await docker.createContainer({ Image: "busybox", Cmd: ["sleep", "1000"], ...more });
  await container.start();
  return container;
};

const archive = (files) => {
  const pack = tar.pack();
  for (const [name, content] of Object.entries(files)) pack.entry({ name }, content);
  pack.finalize();
  return pack;
};

const names = (stream) => new Promise((resolve, reject) => {
  const found = {};
  const extract = tar.extract();
  extract.on("entry", async (header, content, next) => {
    found[header.name] = await text(content);
    next();
  });
  extract.on("finish", () => resolve(found)).on("error", reject);
  stream.pipe(extract);
});

const progress = (stream) => new Promise((resolve, reject) => {
  docker.modem.followProgress(stream, (error, events) => (error ? reject(error) : resolve(events)));
});

const demuxed = (stream) => {
  const [out, err] = [new PassThrough(), new PassThrough()];
  docker.modem.demuxStream(stream, out, err);
  stream.on("end", () => { out.end(); err.end(); });
  return Promise.all([text(out), text(err)]);
};

const rejectsWith = (statusCode, promise) => assert.rejects(promise, (error) => {
  assert.equal(error.statusCode, statusCode, error.message);
  return true;
});

test("the system: ping, version, info, df, auth", async () => {
  assert.equal((await docker.ping()).toString(), "OK");
  const version = await docker.version();
  assert.ok(version.ApiVersion >= "1.50");
  const info = await docker.info();
  assert.equal(info.OSType, "linux");
  // As of API 1.53 there are sums; before, there were lists.
  assert.equal((await docker.df()).ImageUsage.TotalCount, info.Images);
  assert.equal((await new Docker({ version: "v1.44" }).df()).Images.length, info.Images);
  await rejectsWith(500, docker.checkAuth({ username: "a", password: "b", serveraddress: "127.0.0.1:1" }));
});

test("run: with a terminal, demultiplexed, with a callback", async () => {
  const terminal = new PassThrough();
  const seen = text(terminal);
  const [data, container] = await docker.run("busybox", ["sh", "-c", "echo hello; exit 3"], terminal);
  assert.equal(data.StatusCode, 3);
  assert.equal(await seen, "hello\r\n");
  await container.remove();

  const [out, err] = [new PassThrough(), new PassThrough()];
  const both = Promise.all([text(out), text(err)]);
  const [second] = await docker.run("busybox", ["sh", "-c", "echo out; echo err >&2"], [out, err],
    { Tty: false, HostConfig: { AutoRemove: true } });
  assert.equal(second.StatusCode, 0);
  assert.deepEqual(await both, ["out\n", "err\n"]);

  const events = [];
  await new Promise((resolve, reject) => {
    docker.run("busybox", ["true"], new PassThrough().resume(), (error, answer) => {
      if (error) return reject(error);
      events.push(`end ${answer.StatusCode}`);
      resolve();
    }).on("container", () => events.push("container")).on("stream", () => events.push("stream"))
      .on("start", () => events.push("start")).on("data", () => events.push("data"));
  });
  assert.deepEqual(events, ["container", "stream", "start", "data", "end 0"]);
  await rejectsWith(404, docker.run("no-such-image:1", ["true"], process.stdout));
});

test("the life of a container", async () => {
  const container = await sleeper({ name: "life", Labels: { a: "b" } });
  assert.equal((await container.inspect()).State.Running, true);
  assert.equal((await container.inspect({ size: true })).Name, "/life");
  assert.deepEqual((await docker.listContainers({ filters: { label: ["a=b"] } })).map((c) => c.Names), [["/life"]]);
  assert.deepEqual(await docker.listContainers({ filters: '{"label":["a=c"]}' }), []);
  await rejectsWith(304, container.start());
  await container.pause();
  assert.equal((await container.inspect()).State.Status, "paused");
  await container.unpause();
  await container.rename({ name: "life2" });
  await container.update({ Memory: 64 << 20, MemorySwap: 64 << 20 });
  assert.equal((await container.inspect()).HostConfig.Memory, 64 << 20);
  const top = await container.top({ ps_args: "-o pid,args" });
  assert.ok(top.Processes.some((row) => row[1] === "sleep 1000"));
  await container.restart({ t: 0 });
  await container.resize({ h: 20, w: 80 }).catch((error) => assert.match(error.message, /tty|terminal|resize/i));
  await container.kill({ signal: "SIGKILL" });
  assert.equal((await container.wait()).StatusCode, 137);
  await container.start();
  const ended = container.wait({ condition: "next-exit" });
  await container.stop({ t: 0 });
  assert.equal((await ended).StatusCode, 137);
  await rejectsWith(304, container.stop());
  await container.remove();
  await rejectsWith(404, container.inspect());
  await rejectsWith(404, docker.getContainer("nope").start());
  await rejectsWith(400, docker.createContainer({ Image: "busybox", name: "bad name" }));
});

test("callbacks get the same answers and errors", async () => {
  const called = (object, method, ...rest) => new Promise((resolve) => {
    object[method](...rest, (error, data) => resolve({ error, data }));
  });
  const { data: container } = await called(docker, "createContainer", { Image: "busybox", Cmd: ["true"] });
  assert.equal((await called(container, "start")).error, null);
  assert.equal((await called(container, "wait")).data.StatusCode, 0);
  assert.equal((await called(docker, "listContainers", { all: true })).data.length, 1);
  assert.equal((await called(docker.getContainer("nope"), "inspect")).error.reason, "no such container");
  assert.equal((await called(docker.getVolume("nope"), "inspect")).error.statusCode, 404);
});

test("attach: streams, input, half-close, detach by abort", async () => {
  const container = await docker.createContainer({
    Image: "busybox", Cmd: ["sh", "-c", "cat; echo end >&2"], OpenStdin: true, StdinOnce: true,
    AttachStdin: true, AttachStdout: true, AttachStderr: true,
  });
  const stream = await container.attach({ stream: true, stdin: true, stdout: true, stderr: true, hijack: true });
  const both = demuxed(stream);
  await container.start();
  stream.write("one\n");
  stream.end("two\n");
  assert.deepEqual(await both, ["one\ntwo\n", "end\n"]);
  assert.equal((await container.wait()).StatusCode, 0);
  await rejectsWith(404, docker.getContainer("nope").attach({ stream: true, stdout: true }));

  const abort = new AbortController();
  const running = await sleeper();
  const waiting = running.wait({ abortSignal: abort.signal });
  abort.abort();
  await assert.rejects(waiting);
  assert.equal((await running.inspect()).State.Running, true);
});

test("logs: all, by time, followed", async () => {
  const container = await docker.createContainer({ Image: "busybox", Cmd: ["sh", "-c", "echo a; echo b >&2; echo c"] });
  await container.start();
  await container.wait();
  const all = await container.logs({ stdout: true, stderr: true });
  assert.ok(Buffer.isBuffer(all));
  const [out, err] = await demuxed(Readable.from([all]));
  assert.deepEqual([out, err], ["a\nc\n", "b\n"]);
  const one = await docker.createContainer({ Image: "busybox", Cmd: ["sh", "-c", "echo a; echo b; echo c"] });
  await one.start();
  await one.wait();
  const last = await one.logs({ stdout: true, tail: 1, timestamps: true });
  assert.match(last.subarray(8).toString(), /^\d{4}-\d\d-\d\dT\S+Z c\n$/);
  assert.equal((await container.logs({ stdout: true, since: Math.floor(Date.now() / 1000) + 100 })).length, 0);
  const followed = await container.logs({ follow: true, stdout: true, stderr: true });
  assert.deepEqual(await demuxed(followed), ["a\nc\n", "b\n"]);
});

test("exec: output, input, exit codes, terminal, detached", async () => {
  const container = await sleeper();
  const exec = await container.exec({
    Cmd: ["sh", "-c", "echo $A; pwd; echo bad >&2; exit 4"], Env: ["A=b"], WorkingDir: "/tmp", AttachStdout: true,
    AttachStderr: true,
  });
  assert.deepEqual(await demuxed(await exec.start({})), ["b\n/tmp\n", "bad\n"]);
  const { Running, ExitCode } = await exec.inspect();
  assert.deepEqual([Running, ExitCode], [false, 4]);

  const cat = await container.exec({ Cmd: ["cat"], AttachStdin: true, AttachStdout: true });
  const stream = await cat.start({ hijack: true, stdin: true });
  const [both] = [demuxed(stream), stream.end("through\n")];
  assert.equal((await both)[0], "through\n");

  const tty = await container.exec({ Cmd: ["sh", "-c", "read x; stty size"], Tty: true, AttachStdin: true,
    AttachStdout: true });
  const terminal = await tty.start({ hijack: true, stdin: true, Tty: true });
  await tty.resize({ h: 33, w: 77 });
  const shown = text(terminal);
  terminal.write("go\n");
  assert.match(await shown, /33 77/);
  terminal.end();

  const detached = await container.exec({ Cmd: ["touch", "/made"] });
  (await detached.start({ Detach: true })).resume();
  while ((await detached.inspect()).Running) await new Promise((resolve) => setTimeout(resolve, 20));
  assert.deepEqual((await container.changes()).filter((c) => c.Path === "/made"), [{ Path: "/made", Kind: 1 }]);
  await rejectsWith(404, docker.getExec("nope").inspect());
  await rejectsWith(404, docker.getContainer("nope").exec({ Cmd: ["true"] }));
});

test("stats: one answer, and a stream that the client leaves", async () => {
  const container = await sleeper();
  const once = await container.stats({ stream: false });
  assert.ok(once.memory_stats.usage > 0);
  const stream = await container.stats();
  const first = await new Promise((resolve) => stream.once("data", resolve));
  assert.equal(JSON.parse(first).id, container.id);
  stream.destroy();
});

test("archives: put, get, look, export", async () => {
  const container = await docker.createContainer({ Image: "busybox", Cmd: ["cat", "/tmp/f"] });
  await container.putArchive(archive({ f: "in the archive\n" }), { path: "/tmp" });
  assert.deepEqual(await names(await container.getArchive({ path: "/tmp/f" })), { f: "in the archive\n" });
  const stat = await container.infoArchive({ path: "/tmp/f" });
  stat.resume();
  const header = stat.headers["x-docker-container-path-stat"];
  assert.equal(JSON.parse(Buffer.from(header, "base64")).size, 15);
  await rejectsWith(404, container.getArchive({ path: "/nope" }));
  const all = await names(await container.export());
  assert.equal(all["tmp/f"], "in the archive\n");
  await container.start();
  await container.wait();
  assert.equal((await container.logs({ stdout: true })).subarray(8).toString(), "in the archive\n");
});

test("images: build from a stream and from files, tag, history, list, remove", async () => {
  const dockerfile = "FROM busybox\nARG WHO=nobody\nCOPY f /f\nRUN echo $WHO > /who\nLABEL built=yes\nCMD [\"cat\", \"/f\"]\n";
  const events = await progress(await docker.buildImage(archive({ Dockerfile: dockerfile, f: "data\n" }),
    { t: "js:1", buildargs: { WHO: "me" } }));
  const id = events.find((event) => event.aux)?.aux.ID;
  assert.equal((await docker.getImage("js:1").inspect()).Id, id);

  writeFileSync(path.join(work, "Dockerfile"), dockerfile);
  writeFileSync(path.join(work, "f"), "file\n");
  await progress(await docker.buildImage({ context: work, src: ["Dockerfile", "f"] }, { t: "js:2" }));
  const out = new PassThrough();
  const said = text(out);
  await docker.run("js:2", [], out, { HostConfig: { AutoRemove: true } });
  assert.equal(await said, "file\r\n");

  const bad = await docker.buildImage(archive({ Dockerfile: "FROM busybox\nRUN exit 9\n" }), {});
  assert.match((await progress(bad)).at(-1).error, /returned a non-zero code: 9/);

  const image = docker.getImage("js:1");
  await image.tag({ repo: "js", tag: "3" });
  assert.ok((await image.history()).length >= 4);
  const listed = await docker.listImages({ filters: { label: ["built=yes"] } });
  assert.deepEqual(listed.flatMap((i) => i.RepoTags).sort(), ["js:1", "js:2", "js:3"]);
  for (const tag of ["js:1", "js:2", "js:3"]) await docker.getImage(tag).remove();
  await rejectsWith(404, docker.getImage("js:1").inspect());
  await rejectsWith(404, docker.getImage("js:1").remove());
});

test("images: save, load, import, commit", async () => {
  await docker.getImage("busybox").tag({ repo: "kept", tag: "1" });
  const saved = await buffer(await docker.getImage("kept:1").get());
  await docker.getImage("kept:1").remove();
  const loaded = await text(await docker.loadImage(Readable.from([saved])));
  assert.match(loaded, /Loaded image: kept:1/);
  const imported = await text(await docker.importImage(archive({ hello: "x" }), { repo: "imported", tag: "1" }));
  assert.match(imported, /sha256:/);
  const container = await sleeper();
  const { Id } = await container.commit({ repo: "committed", tag: "1", comment: "why", author: "who" });
  const image = await docker.getImage("committed:1").inspect();
  assert.deepEqual([image.Id, image.Comment, image.Author], [Id, "why", "who"]);
  const several = await buffer(await docker.getImages({ names: ["kept:1", "imported:1"] }));
  assert.ok(several.length > 1000);
  for (const name of ["kept:1", "imported:1", "committed:1"]) await docker.getImage(name).remove({ force: true });
});

test("images: push and pull", async () => {
  const name = "127.0.0.1:5000/js/pushed";
  await docker.getImage("busybox").tag({ repo: name, tag: "1" });
  const image = docker.getImage(`${name}:1`);
  const pushed = await progress(await image.push({ authconfig: { username: "a", password: "b" } }));
  const digest = pushed.find((event) => event.aux)?.aux.Digest;
  assert.match(digest, /^sha256:/);
  assert.equal((await image.distribution()).Descriptor.digest, digest);
  await image.remove();
  const pulled = await progress(await docker.pull(`${name}:1`));
  assert.match(pulled.at(-1).status, /Status: Downloaded newer image/);
  const again = await progress(await docker.createImage({ fromImage: name, tag: "1" }));
  assert.match(again.at(-1).status, /up to date/);
  await image.remove();
  await assert.rejects(docker.pull(`${name}:nope`));
});

test("networks", async () => {
  const network = await docker.createNetwork({ Name: "jsnet", Driver: "bridge", Labels: { a: "b" } });
  const container = await sleeper();
  await network.connect({ Container: container.id, EndpointConfig: { Aliases: ["other"] } });
  assert.deepEqual(Object.keys((await network.inspect()).Containers), [container.id]);
  assert.deepEqual(Object.keys((await container.inspect()).NetworkSettings.Networks).sort(), ["bridge", "jsnet"]);
  assert.equal((await docker.listNetworks({ filters: { label: ["a=b"] } })).length, 1);
  await rejectsWith(403, network.remove());
  await network.disconnect({ Container: container.id, Force: true });
  await rejectsWith(409, docker.createNetwork({ Name: "jsnet" }));
  await network.remove();
  await rejectsWith(404, network.inspect());
});

test("volumes", async () => {
  const { name } = await docker.createVolume({ Name: "jsvol", Labels: { a: "b" } });
  assert.equal(name, "jsvol");
  const volume = docker.getVolume("jsvol");
  assert.equal((await volume.inspect()).Labels.a, "b");
  assert.deepEqual((await docker.listVolumes({ filters: { name: ["jsvol"] } })).Volumes.map((v) => v.Name), ["jsvol"]);
  await docker.createContainer({ Image: "busybox", HostConfig: { Binds: ["jsvol:/data"] } });
  await rejectsWith(409, volume.remove());
  for (const { Id } of await docker.listContainers({ all: true })) await docker.getContainer(Id).remove();
  await volume.remove();
  await rejectsWith(404, volume.inspect());
});

test("prunes say what they removed", async () => {
  await docker.createContainer({ Image: "busybox", name: "pruned", Labels: { prune: "me" } });
  await docker.createVolume({ Labels: { prune: "me" } });
  await docker.createNetwork({ Name: "pruned" });
  const filters = { label: ["prune=me"] };
  assert.equal((await docker.pruneContainers({ filters })).ContainersDeleted.length, 1);
  assert.equal((await docker.pruneVolumes({ filters })).VolumesDeleted.length, 1);
  assert.deepEqual((await docker.pruneNetworks()).NetworksDeleted, ["pruned"]);
  assert.equal((await docker.pruneImages()).SpaceReclaimed, 0);
  assert.ok("SpaceReclaimed" in (await docker.pruneBuilder()));
});

test("events: of a window of time, and as they come", async () => {
  const since = Math.floor(Date.now() / 1000);
  const stream = await docker.getEvents({ filters: { type: ["container"] } });
  const seen = [];
  const died = new Promise((resolve) => {
    stream.on("data", (block) => {
      for (const line of block.toString().split("\n").filter(Boolean)) {
        const event = JSON.parse(line);
        seen.push(event.Action);
        if (event.Action === "die") resolve(event.Actor.Attributes.exitCode);
      }
    });
  });
  const container = await docker.createContainer({ Image: "busybox", Cmd: ["sh", "-c", "exit 7"] });
  await container.start();
  assert.equal(await died, "7");
  stream.destroy();
  assert.deepEqual(seen, ["create", "start", "die"]);
  const past = await text(await docker.getEvents({ since, until: Math.floor(Date.now() / 1000) + 1,
    filters: { container: [container.id], event: ["start"] } }));
  assert.equal(past.split("\n").filter(Boolean).length, 1);
});

test("health, ports and limits arrive as documented", async () => {
  const container = await sleeper({
    ExposedPorts: { "80/tcp": {} },
    Healthcheck: { Test: ["CMD", "true"], Interval: 50e6, Retries: 1 },
    HostConfig: { PortBindings: { "80/tcp": [{ HostIp: "127.0.0.1", HostPort: "0" }] }, Memory: 128 << 20,
      RestartPolicy: { Name: "on-failure", MaximumRetryCount: 2 }, CapDrop: ["ALL"] },
  });
  for (;;) {
    const { State } = await container.inspect();
    if (State.Health.Status === "healthy") break;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  const { NetworkSettings, HostConfig } = await container.inspect();
  assert.ok(Number(NetworkSettings.Ports["80/tcp"][0].HostPort) > 0);
  assert.deepEqual([HostConfig.Memory, HostConfig.RestartPolicy.MaximumRetryCount], [128 << 20, 2]);
});

test("swarm and plugins answer as a daemon without them", async () => {
  await rejectsWith(503, docker.listServices());
  await rejectsWith(503, docker.swarmInspect());
  assert.deepEqual(await docker.listPlugins(), []);
});
