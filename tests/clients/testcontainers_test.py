"""testcontainers with real services: redis, postgres and nginx from Debian's packages, in images that our builder made.

Run by `cargo xtask clients`; DOCKER_HOST names the daemon, which has the images of services/Dockerfile."""
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import unittest
import urllib.request

import docker
import redis
import sqlalchemy
from testcontainers.community.postgres import PostgresContainer
from testcontainers.community.redis import RedisContainer
from testcontainers.core.config import testcontainers_config
from testcontainers.core.container import DockerContainer, Reaper
from testcontainers.core.network import Network
from testcontainers.core.wait_strategies import HealthcheckWaitStrategy, LogMessageWaitStrategy

REDIS, POSTGRES, NGINX = "corten-test/redis", "corten-test/postgres", "corten-test/nginx"

# A second program whose containers only the reaper can remove: it is killed while it has them.
ABANDONED = """
import os, signal
from testcontainers.core.container import DockerContainer
from testcontainers.core.labels import SESSION_ID
DockerContainer("busybox").with_command("sleep 1000").start()
print(SESSION_ID, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def wait_until(what, condition, patience=60):
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen in {patience} s"
        time.sleep(0.05)


class Services(unittest.TestCase):
    def test_redis(self):
        with RedisContainer(REDIS) as container:
            client = container.get_client()
            client.set("key", "value")
            self.assertEqual(client.get("key"), b"value")
            self.assertEqual(client.incr("n", 41) + client.incr("n"), 83)
            code, output = container.exec(["redis-cli", "get", "key"])
            self.assertEqual((code, output), (0, b"value\n"))
            self.assertIn("Ready to accept connections", container.get_logs()[0].decode())

    def test_redis_with_password_and_pipeline(self):
        with RedisContainer(REDIS, password="secret").with_command(
                "redis-server --bind 0.0.0.0 --requirepass secret") as container:
            with self.assertRaises(redis.exceptions.AuthenticationError):
                redis.Redis(container.get_container_host_ip(), container.get_exposed_port(6379)).ping()
            pipeline = container.get_client().pipeline()
            for n in range(1000):
                pipeline.set(f"k{n}", "x" * n)
            self.assertTrue(all(pipeline.execute()))
            self.assertEqual(container.get_client().dbsize(), 1000)

    def test_postgres(self):
        with PostgresContainer(POSTGRES, username="me", password="it's", dbname="mine") as container:
            engine = sqlalchemy.create_engine(container.get_connection_url())
            with engine.begin() as connection:
                run = lambda text: connection.execute(sqlalchemy.text(text))
                self.assertIn("PostgreSQL", run("select version()").scalar())
                self.assertEqual(run("select current_database()").scalar(), "mine")
                run("create table t as select generate_series(1, 10000) as n")
                self.assertEqual(run("select sum(n) from t").scalar(), 50005000)
            engine.dispose()
            self.assertIn("ready to accept connections", b"".join(container.get_logs()).decode())

    def test_postgres_keeps_its_data_over_a_restart(self):
        with PostgresContainer(POSTGRES) as container:
            def query(text):
                engine = sqlalchemy.create_engine(container.get_connection_url())
                try:
                    with engine.begin() as connection:
                        result = connection.execute(sqlalchemy.text(text))
                        return result.scalar() if result.returns_rows else None
                finally:
                    engine.dispose()

            query("create table kept as select 7 as n")
            container.get_wrapped_container().restart()

            def answers():
                try:
                    return query("select n from kept") == 7
                except sqlalchemy.exc.OperationalError:
                    return False

            wait_until("the answer after the restart", answers)

    def test_nginx_health_and_logs(self):
        container = DockerContainer(NGINX).with_exposed_ports(80).waiting_for(HealthcheckWaitStrategy())
        with container:
            url = f"http://{container.get_container_host_ip()}:{container.get_exposed_port(80)}/"
            with urllib.request.urlopen(url, timeout=10) as answer:
                self.assertIn(b"built by corten", answer.read())
            wait_until("the access log", lambda: b"GET / HTTP/1.1" in container.get_logs()[0])

    def test_wait_for_logs(self):
        container = DockerContainer("busybox").with_command(["sh", "-c", "sleep 0.2; echo it is ready; sleep 1000"])
        with container.waiting_for(LogMessageWaitStrategy(r"it is \w+")):
            self.assertEqual(container.get_logs()[0], b"it is ready\n")

    def test_networks_and_files(self):
        with Network() as network:
            server = RedisContainer(REDIS).with_network(network).with_network_aliases("db")
            with server, DockerContainer(REDIS).with_command("sleep 1000").with_network(network) as client:
                code, output = client.exec(["redis-cli", "-h", "db", "ping"])
                self.assertEqual((code, output), (0, b"PONG\n"))
                client.copy_into_container(b"copied", "/tmp/file")
                self.assertEqual(client.exec(["cat", "/tmp/file"]).output, b"copied")
                with tempfile.NamedTemporaryFile() as there:
                    client.copy_from_container("/tmp/file", pathlib.Path(there.name))
                    self.assertEqual(there.read(), b"copied")

    def test_reaper_removes_what_a_killed_program_left(self):
        self.assertFalse(testcontainers_config.ryuk_disabled)
        environment = {**os.environ, "RYUK_RECONNECTION_TIMEOUT": "1s"}
        program = subprocess.run([sys.executable, "-c", ABANDONED], env=environment, capture_output=True, text=True)
        session = program.stdout.strip()
        self.assertTrue(session, program.stderr)
        client = docker.from_env()
        left = lambda: client.containers.list(all=True, filters={"label": f"org.testcontainers.session-id={session}"})
        reaper = lambda: client.containers.list(all=True, filters={"name": f"testcontainers-ryuk-{session}"})
        wait_until("removal by the reaper", lambda: not left())
        wait_until("the reaper's own end (auto_remove)", lambda: not reaper())

    @classmethod
    def tearDownClass(cls):
        Reaper.delete_instance()


if __name__ == "__main__":
    print(json.dumps({"docker": docker.from_env().version()["Version"]}))
    unittest.main(verbosity=2)
