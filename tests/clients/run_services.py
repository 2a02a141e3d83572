"""Builds the images of services/Dockerfile with our builder, and runs testcontainers and compose with them.

    python run_services.py --bin DIR --base services.tar [--compose PROGRAM] [unittest arguments]

The interpreter must have testcontainers, redis, sqlalchemy and psycopg2. Without --compose, compose is left out."""
import argparse
import os
import pathlib
import subprocess
import sys
import tempfile
import time

from stand import Stand, enter_own_network

HERE = pathlib.Path(__file__).resolve().parent
SERVICES = ["redis", "postgres", "nginx", "reaper"]


def build(stand, base):
    with open(base, "rb") as tar:
        subprocess.run([stand.corten, "-H", stand.host, "import", "-", "corten-test/services-base"], stdin=tar,
                       stdout=subprocess.DEVNULL, check=True)
    for service in SERVICES:
        started = time.monotonic()
        stand.docker("build", "--target", service, "-t", f"corten-test/{service}", str(HERE / "services"))
        print(f"built corten-test/{service} in {time.monotonic() - started:.1f} s", flush=True)


def main():
    arguments = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    arguments.add_argument("--bin", type=pathlib.Path, required=True)
    arguments.add_argument("--base", type=pathlib.Path, required=True)
    arguments.add_argument("--compose", type=pathlib.Path)
    arguments.add_argument("--keep", action="store_true", help="leave the directory with the logs")
    options, more = arguments.parse_known_args()
    with Stand(options.bin, options.keep) as stand, tempfile.TemporaryDirectory() as home:
        stand.serve(["busybox:latest"])
        build(stand, options.base.resolve())
        environment = {
            **os.environ,
            "DOCKER_HOST": stand.host, "HOME": home, "PYTHONDONTWRITEBYTECODE": "1",
            # A machine of CI may be a container itself; the daemon is here all the same.
            "TESTCONTAINERS_HOST_OVERRIDE": "127.0.0.1", "TESTCONTAINERS_CONNECTION_MODE": "docker_host",
            "RYUK_CONTAINER_IMAGE": "corten-test/reaper",
            "TESTCONTAINERS_DOCKER_SOCKET_OVERRIDE": stand.host.removeprefix("unix://"),
        }
        tests = [HERE / "testcontainers_test.py"]
        if options.compose:
            environment["CORTEN_COMPOSE"] = str(options.compose.resolve())
            tests.append(HERE / "compose_test.py")
        failed = [t.name for t in tests if subprocess.run([sys.executable, t, *more], env=environment).returncode]
        if failed and not options.keep:
            print((stand.directory / "daemon.log").read_text()[-3000:])
        return 1 if failed else 0


if __name__ == "__main__":
    enter_own_network()
    sys.exit(main())
