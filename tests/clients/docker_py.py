"""What programs do with docker-py, against the daemon that DOCKER_HOST names. Ends with 0 if all of it works."""
import io
import tarfile
import threading
import unittest

import docker
from docker.errors import APIError, BuildError, ContainerError, ImageNotFound, NotFound


class Clients(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.client = docker.from_env(timeout=60)

    def setUp(self):
        self.addCleanup(self.remove_all)

    def remove_all(self):
        for container in self.client.containers.list(all=True):
            container.remove(force=True, v=True)

    def test_run(self):
        self.assertEqual(self.client.containers.run("busybox", "echo hello"), b"hello\n")
        with self.assertRaises(ContainerError) as failed:
            self.client.containers.run("busybox", ["sh", "-c", "echo bad >&2; exit 3"])
        self.assertEqual(failed.exception.exit_status, 3)
        self.assertEqual(failed.exception.stderr, b"bad\n")
        with self.assertRaises(ImageNotFound):
            self.client.containers.create("no-such-image:1")

    def test_life(self):
        c = self.client.containers.run("busybox", "sleep 1000", name="py", labels={"a": "b"}, detach=True)
        self.assertEqual(c.status, "created")
        c.reload()
        self.assertEqual(c.status, "running")
        self.assertEqual([x.id for x in self.client.containers.list(filters={"label": "a=b"})], [c.id])
        self.assertEqual(c.exec_run("id -u").output, b"0\n")
        code, (out, err) = c.exec_run(["sh", "-c", "echo o; echo e >&2; exit 4"], demux=True)
        self.assertEqual((code, out, err), (4, b"o\n", b"e\n"))
        self.assertIn("sleep 1000", str(c.top()["Processes"]))
        stats = c.stats(stream=False)
        self.assertGreater(stats["memory_stats"]["usage"], 0)
        c.pause()
        c.unpause()
        c.rename("py2")
        c.update(mem_limit="64m", memswap_limit="64m")
        c.kill()
        self.assertEqual(c.wait()["StatusCode"], 137)
        c.start()
        c.restart(timeout=0)
        c.stop(timeout=0)
        c.remove()
        with self.assertRaises(NotFound):
            self.client.containers.get(c.id)

    def test_logs(self):
        c = self.client.containers.run("busybox", ["sh", "-c", "for i in 1 2 3; do echo $i; sleep 0.1; done"], detach=True)
        self.assertEqual(b"".join(c.logs(stream=True, follow=True)), b"1\n2\n3\n")
        self.assertEqual(c.logs(tail=1), b"3\n")

    def test_attach(self):
        c = self.client.containers.create("busybox", "cat", stdin_open=True, tty=False)
        socket = c.attach_socket(params={"stdin": 1, "stdout": 1, "stream": 1})
        c.start()
        socket._sock.sendall(b"through\n")
        header = socket._sock.recv(8)
        self.assertEqual(header[0], 1)
        self.assertEqual(socket._sock.recv(100), b"through\n")
        socket.close()

    def test_files(self):
        c = self.client.containers.run("busybox", "sleep 1000", detach=True)
        data = io.BytesIO()
        with tarfile.open(fileobj=data, mode="w") as tar:
            info = tarfile.TarInfo("f")
            info.size = 3
            tar.addfile(info, io.BytesIO(b"abc"))
        self.assertTrue(c.put_archive("/tmp", data.getvalue()))
        chunks, stat = c.get_archive("/tmp/f")
        self.assertEqual((stat["name"], stat["size"]), ("f", 3))
        with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as tar:
            self.assertEqual(tar.extractfile("f").read(), b"abc")
        self.assertIn({"Path": "/tmp/f", "Kind": 1}, c.diff())

    def test_build(self):
        image, log = self.client.images.build(fileobj=io.BytesIO(b"FROM busybox\nLABEL x=y\nRUN echo built > /b\n"), tag="py:1", rm=True)
        self.assertEqual(image.labels, {"x": "y"})
        self.assertTrue(any("Successfully built" in line.get("stream", "") for line in log))
        self.assertEqual(self.client.containers.run("py:1", "cat /b", remove=True), b"built\n")
        with self.assertRaises(BuildError):
            self.client.images.build(fileobj=io.BytesIO(b"FROM busybox\nRUN exit 5\n"))
        saved = b"".join(image.save(named=True))
        self.client.images.remove("py:1", force=True)
        self.assertEqual(self.client.images.load(saved)[0].id, image.id)
        self.client.images.remove("py:1")

    def test_networks_and_volumes(self):
        network = self.client.networks.create("pynet", labels={"n": "1"})
        volume = self.client.volumes.create("pyvol")
        c = self.client.containers.run("busybox", "sleep 1000", detach=True, network="pynet", volumes={"pyvol": {"bind": "/v", "mode": "rw"}}, ports={"80/tcp": None})
        c.reload()
        self.assertIn("pynet", c.attrs["NetworkSettings"]["Networks"])
        self.assertTrue(c.ports["80/tcp"][0]["HostPort"].isdigit())
        network.reload()
        self.assertEqual([x.id for x in network.containers], [c.id])
        with self.assertRaises(APIError) as refused:
            volume.remove()
        self.assertEqual(refused.exception.status_code, 409)
        network.disconnect(c)
        network.connect(c, aliases=["again"])
        c.remove(force=True)
        network.remove()
        volume.remove()

    def test_events(self):
        seen = []
        events = self.client.events(decode=True, filters={"type": "container"})

        def listen():
            for event in events:
                seen.append(event["Action"])
                if event["Action"] == "destroy":
                    break

        thread = threading.Thread(target=listen)
        thread.start()
        self.client.containers.run("busybox", "true", remove=True)
        thread.join(20)
        events.close()
        for action in ("create", "start", "die", "destroy"):
            self.assertIn(action, seen)

    def test_system(self):
        self.assertTrue(self.client.ping())
        self.assertGreaterEqual(self.client.info()["NCPU"], 1)
        self.assertIn("ApiVersion", self.client.version())
        # As of API 1.53 there are sums; before, there were lists.
        self.assertEqual(1, self.client.df()["ImageUsage"]["TotalCount"])
        older = docker.from_env(version="1.44", timeout=60)
        self.addCleanup(older.close)
        self.assertEqual(1, len(older.df()["Images"]))


if __name__ == "__main__":
    unittest.main(verbosity=1)
