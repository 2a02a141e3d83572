"""Compose, unmodified, with a project of redis, nginx and a program between them: up, ps, logs, exec, scale, down.

Run by `cargo xtask clients`; CORTEN_COMPOSE names the program, DOCKER_HOST the daemon, which has the images."""
import json
import os
import pathlib
import subprocess
import tempfile
import unittest
import urllib.request

COMPOSE = os.environ["CORTEN_COMPOSE"]

PROJECT = """
name: shop
services:
  db:
    image: corten-test/redis
    volumes: ["data:/data"]
    networks: [back]
    healthcheck:
      test: ["CMD", "redis-cli", "ping"]
      interval: 100ms
      timeout: 5s
      retries: 100
  web:
    image: corten-test/nginx
    depends_on:
      db:
        condition: service_healthy
    ports: ["127.0.0.1:18880:80"]
    networks: [front, back]
    configs:
      - source: page
        target: /srv/page.txt
    environment: {COLOUR: "${COLOUR:-green}"}
    labels: {tier: web}
    restart: unless-stopped
    stop_grace_period: 2s
  worker:
    image: busybox
    command: sh -c 'echo worker of $$HOSTNAME started; exec sleep 1000'
    depends_on: [db]
    networks: [back]
    init: true
    tmpfs: [/scratch]
    deploy:
      resources:
        limits: {memory: 64M, cpus: "0.5"}
    stop_grace_period: 0s
  job:
    image: busybox
    profiles: [jobs]
    command: sh -c 'nc -w 2 db 6379 < /run/question'
    configs:
      - source: question
        target: /run/question
    networks: [back]
configs:
  page:
    content: "from a config\\n"
  question:
    content: "PING\\n"
networks:
  front: {}
  back:
    driver: bridge
    internal: true
volumes:
  data: {}
"""


class Compose(unittest.TestCase):
    def compose(self, *args, code=0):
        ran = subprocess.run([COMPOSE, "--ansi=never", "-f", str(self.file), *args], capture_output=True, text=True,
                             timeout=120, stdin=subprocess.DEVNULL)
        self.assertEqual(ran.returncode, code, f"compose {' '.join(args)}\n{ran.stdout}\n{ran.stderr}")
        return ran.stdout + ran.stderr if code else ran.stdout

    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.file = pathlib.Path(directory.name, "compose.yaml")
        self.file.write_text(PROJECT)
        self.addCleanup(self.compose, "--profile", "jobs", "down", "--volumes", "--timeout", "0", "--remove-orphans")

    def states(self, *args):
        lines = self.compose("ps", "--all", "--format", "json", *args).splitlines()
        return {entry["Name"]: entry for entry in map(json.loads, lines)}

    def test_a_project(self):
        self.compose("up", "--detach", "--wait", "--wait-timeout", "60")
        states = self.states()
        self.assertEqual(sorted(states), ["shop-db-1", "shop-web-1", "shop-worker-1"])
        self.assertEqual({s["State"] for s in states.values()}, {"running"})
        self.assertEqual(states["shop-db-1"]["Health"], "healthy")
        self.assertEqual([p["PublishedPort"] for p in states["shop-web-1"]["Publishers"]], [18880])
        with urllib.request.urlopen("http://127.0.0.1:18880/page.txt", timeout=10) as answer:
            self.assertEqual(answer.read(), b"from a config\n")
        self.assertIn("worker-1  | worker of", self.compose("logs", "worker"))
        self.assertEqual(self.compose("exec", "-T", "web", "sh", "-c", "echo $COLOUR"), "green\n")
        self.assertEqual(self.compose("exec", "-T", "db", "redis-cli", "set", "kept", "yes"), "OK\n")
        self.assertEqual(self.compose("port", "web", "80"), "127.0.0.1:18880\n")
        self.assertIn("sleep 1000", self.compose("top", "worker"))
        self.assertEqual(self.compose("run", "--rm", "-T", "job"), "+PONG\n")
        self.compose("exec", "-T", "db", "nope", code=127)

        # Nothing to do for what has not changed; a new container for what has; its volume comes along.
        before = self.states()
        self.compose("up", "--detach", "--wait")
        self.assertEqual({n: s["ID"] for n, s in before.items()}, {n: s["ID"] for n, s in self.states().items()})
        self.file.write_text(PROJECT.replace("100ms", "150ms"))
        self.compose("up", "--detach", "--wait")
        after = self.states()
        self.assertNotEqual(after["shop-db-1"]["ID"], before["shop-db-1"]["ID"])
        self.assertEqual(after["shop-worker-1"]["ID"], before["shop-worker-1"]["ID"])

        self.compose("up", "--detach", "--scale", "worker=3")
        self.assertEqual(len(self.states("worker")), 3)
        self.compose("cp", str(self.file), "worker:/scratch.yaml")
        self.assertIn("name: shop", self.compose("exec", "-T", "worker", "cat", "/scratch.yaml"))
        self.compose("pause", "worker")
        self.assertEqual({s["State"] for s in self.states("worker").values()}, {"paused"})
        self.compose("unpause", "worker")
        self.compose("restart", "--timeout", "0", "worker")
        self.compose("stop", "--timeout", "0")
        self.assertEqual({s["State"] for s in self.states().values()}, {"exited"})
        self.compose("start")
        self.assertEqual({s["State"] for s in self.states().values()}, {"running"})
        self.compose("kill", "worker")
        self.compose("rm", "--force", "--stop", "worker")
        self.assertEqual(self.states("worker"), {})
        self.assertIn("shop", self.compose("ls"))
        self.compose("down", "--timeout", "0")
        self.assertEqual(self.states(), {})
        self.assertNotIn("shop", self.compose("ls", "--all"))

    def test_up_in_the_foreground_ends_with_its_program(self):
        self.file.write_text("name: one\nservices:\n  say:\n    image: busybox\n"
                             "    command: sh -c 'echo out; echo err >&2; exit 3'\n")
        said = self.compose("up", "--exit-code-from", "say", code=3)
        self.assertIn("say-1  | out", said)
        self.assertIn("say-1 exited with code 3", said)

    def test_errors_are_told(self):
        self.file.write_text("name: bad\nservices:\n  a:\n    image: busybox\n    command: sleep 9\n"
                             "    healthcheck: {test: [CMD, 'false'], interval: 50ms, retries: 1}\n"
                             "    stop_grace_period: 0s\n"
                             "  b:\n    image: busybox\n    depends_on: {a: {condition: service_healthy}}\n")
        self.assertIn("is unhealthy", self.compose("up", "--detach", code=1))


if __name__ == "__main__":
    print(subprocess.run([COMPOSE, "version"], capture_output=True, text=True, check=True).stdout.strip())
    unittest.main(verbosity=2)
