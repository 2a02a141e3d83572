"""Runs docker-py's own integration tests against a `corten daemon` in a network namespace of its own.

    python run_docker_py.py --bin DIR --sdist docker-7.0.0.tar.gz [pytest arguments]

DIR holds `corten`; the interpreter must have docker, pytest and paramiko. Nothing reaches the internet: the images
the suite pulls are made from /bin/busybox and served by `corten registry` as the mirror of the default registry.
With DOCKER_HOST set, that daemon is used and must have these images.

Version 7.0.0 is the last source distribution that contains the tests; the library under test is the one installed.
"""
import argparse
import io
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time

# Whole files that belong to swarm and plugins, and what they call the helpers of.
NOT_RUN_FILES = {
    "api_config_test.py": "swarm",
    "api_plugin_test.py": "plugins",
    "api_secret_test.py": "swarm",
    "api_service_test.py": "swarm",
    "api_swarm_test.py": "swarm",
    "context_api_test.py": "docker-py's own files; it forgets DOCKER_HOST for the tests after it",
    "credentials": "docker-py with a credential helper; no daemon is involved",
    "models_nodes_test.py": "swarm",
    "models_services_test.py": "swarm",
    "models_swarm_test.py": "swarm",
}

# Single tests: path below tests/integration -> reason.
NOT_RUN = {
    "api_build_test.py::BuildTest::test_build_in_context_dockerfile": "reads the log without waiting for the program",
    "api_build_test.py::BuildTest::test_build_in_context_nested_dockerfile":
        "reads the log without waiting for the program",
    "api_build_test.py::BuildTest::test_build_in_context_abs_dockerfile":
        "reads the log without waiting for the program",
    "api_build_test.py::BuildTest::test_build_out_of_context_dockerfile":
        "reads the log without waiting for the program",
    "api_container_test.py::AttachContainerTest::test_run_container_reading_socket_ws":
        "docker-py has no websockets over unix sockets",
    "api_container_test.py::CreateContainerTest::test_create_with_links":
        "--link on the default bridge is refused",
    "api_container_test.py::LinkTest::test_remove_link": "--link on the default bridge is refused",
    "api_image_test.py::CommitTest::test_commit": "`Container` of an image: the containerd image store has none",
    "api_image_test.py::CommitTest::test_commit_with_changes":
        "`Container` of an image: the containerd image store has none",
    "api_network_test.py::TestNetworks::test_create_inspect_network_with_scope": "swarm",
    "api_network_test.py::TestNetworks::test_create_network_attachable": "swarm",
    "api_network_test.py::TestNetworks::test_create_network_ingress": "swarm",
    "models_containers_test.py::ContainerCollectionTest::test_run_with_image_that_does_not_exist":
        "asks the default registry itself",
    "models_containers_test.py::ContainerTest::test_exec_run_failed":
        "wants 126 for a command that is not there; engines now say 127",
    "models_images_test.py::ImageCollectionTest::test_pull_with_sha": "wants one image of the default registry",
}

# What this version of the suite was written for; newer ones leave fields out that it asks for.
API_VERSION = "1.43"

IMAGES = ["alpine:3.10", "alpine:latest", "busybox:latest", "hello-world:latest"]


def busybox_tar(name):
    """A root file system: busybox under all its names, and a few users; no two images are the same."""
    applets = subprocess.run(["/bin/busybox", "--list"], check=True, capture_output=True, text=True).stdout.split()
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        def add(name, mode, data=None, link=None):
            info = tarfile.TarInfo(name)
            info.mode = mode
            if link:
                info.type, info.linkname = tarfile.SYMTYPE, link
            elif data is None:
                info.type = tarfile.DIRTYPE
            else:
                info.size = len(data)
            tar.addfile(info, io.BytesIO(data or b""))

        for name in "bin etc root home var var/opt var/tmp usr usr/bin usr/sbin sbin dev proc sys mnt".split():
            add(name, 0o755)
        add("tmp", 0o1777)
        add("etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1::/:/bin/false\n"
            b"postgres:x:70:70::/:/bin/sh\n")
        add("etc/group", 0o644, b"root:x:0:\ndaemon:x:1:\npostgres:x:70:\n")
        add("etc/image", 0o644, name.encode())
        add("bin/busybox", 0o755, pathlib.Path("/bin/busybox").read_bytes())
        for applet in applets:
            if applet != "busybox":
                add(f"bin/{applet}", 0o777, link="busybox")
    return out.getvalue()


class Stand:
    """A registry and a daemon that takes it for the default registry's mirror."""

    def __init__(self, programs, directory):
        self.corten, self.directory, self.children = str(programs / "corten"), directory, []
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        self.host = f"unix://{directory}/s"

    def spawn(self, name, *args):
        with open(self.directory / f"{name}.log", "wb") as log:
            child = subprocess.Popen([self.corten, *args], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.children.append(child)

    def start(self):
        import docker

        d = self.directory
        self.spawn("registry", "registry", "serve", "--root", f"{d}/registry")
        self.spawn("daemon", "daemon", "-H", self.host, "--data-root", f"{d}/data", "--exec-root", f"{d}/exec",
                   "--pidfile", f"{d}/pid", "--registry-mirror", "http://127.0.0.1:5000")
        deadline = time.monotonic() + 10
        while True:
            try:
                self.client = docker.DockerClient(base_url=self.host, timeout=60)
                break
            except docker.errors.DockerException:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
        api = self.client.api
        for image in IMAGES:
            repository, tag = image.split(":")
            pushed = f"127.0.0.1:5000/library/{repository}"
            tar = busybox_tar(repository)
            api.import_image_from_data(tar, repository=repository, tag=tag, changes=['CMD ["/bin/sh"]'])
            api.tag(image, pushed, tag)
            answer = api.push(pushed, tag)
            if "error" in answer:
                raise RuntimeError(f"push {pushed}:{tag}: {answer}")
            api.remove_image(f"{pushed}:{tag}")

    def stop(self):
        try:
            for container in self.client.containers.list(all=True):
                container.remove(force=True, v=True)
        finally:
            for child in reversed(self.children):
                child.send_signal(signal.SIGTERM)
            for child in self.children:
                child.wait(20)


def run(tests, host, more):
    ignore = [f"--ignore={tests}/integration/{name}" for name in NOT_RUN_FILES]
    deselect = [f"--deselect=integration/{name}" for name in NOT_RUN]
    home = tests.parent / "home"
    home.mkdir()
    environment = {**os.environ, "DOCKER_HOST": host, "HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1",
                   "DOCKER_TEST_API_VERSION": API_VERSION}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "--tb=short", "-rxs", f"--rootdir={tests}",
               *ignore, *deselect, *more]
    if not any(".py" in word for word in more):
        command.append(f"{tests}/integration")
    print("not run:", ", ".join(sorted([*NOT_RUN_FILES, *NOT_RUN])))
    return subprocess.run(command, env=environment, cwd=tests.parent).returncode


def main():
    arguments = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    arguments.add_argument("--bin", type=pathlib.Path)
    arguments.add_argument("--sdist", type=pathlib.Path, required=True)
    arguments.add_argument("--keep", action="store_true", help="leave the directory with the logs")
    options, more = arguments.parse_known_args()
    host = os.environ.get("DOCKER_HOST")
    if not host and not os.environ.get("CORTEN_OWN_NET"):
        # Published ports are connected to from here, so the tests have to be where the daemon is.
        os.environ["CORTEN_OWN_NET"] = "1"
        os.execvp("unshare", ["unshare", "--net", sys.executable, *sys.argv])
    directory = pathlib.Path(tempfile.mkdtemp(prefix="corten-dpy-"))
    stand = None
    try:
        with tarfile.open(options.sdist) as sdist:
            members = [m for m in sdist if "/tests/" in m.name or m.name.endswith("/pytest.ini")]
            sdist.extractall(directory / "suite", members=members, filter="data")
        tests = next((directory / "suite").glob("*/tests"))
        if not host:
            stand = Stand(options.bin.resolve(), directory)
            stand.start()
            host = stand.host
        return run(tests, host, [str(tests / "integration" / m) if ".py" in m else m for m in more])
    finally:
        if stand:
            stand.stop()
        if options.keep:
            print("kept:", directory)
        else:
            shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
