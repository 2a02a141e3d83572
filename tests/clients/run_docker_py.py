"""Runs docker-py's own integration tests against a `corten daemon` in a network namespace of its own.

    python run_docker_py.py --bin DIR --sdist docker-7.0.0.tar.gz [pytest arguments]

DIR holds `corten`; the interpreter must have docker, pytest and paramiko. Nothing reaches the internet: the images
the suite pulls are made from /bin/busybox and served by `corten registry` as the mirror of the default registry.
With DOCKER_HOST set, that daemon is used and must have these images.

Version 7.0.0 is the last source distribution that contains the tests; the library under test is the one installed.
"""
import argparse
import os
import pathlib
import subprocess
import sys
import tarfile
import tempfile

from stand import Stand, enter_own_network

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


def run(tests, host, more):
    ignore = [f"--ignore={tests}/integration/{name}" for name in NOT_RUN_FILES]
    deselect = [f"--deselect=integration/{name}" for name in NOT_RUN]
    home = tests.parent / "home"
    home.mkdir()
    environment = {**os.environ, "DOCKER_HOST": host, "HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1",
                   "DOCKER_TEST_API_VERSION": API_VERSION}
    command = [sys.executable, "-m", "pytest", "-o", f"cache_dir={tests.parent}/cache", "-q", "--tb=short", "-rxs", f"--rootdir={tests}",
               *ignore, *deselect, *more]
    if not any(".py" in word for word in more):
        command.append(f"{tests}/integration")
    print("not run:", ", ".join(sorted([*NOT_RUN_FILES, *NOT_RUN])))
    failed = subprocess.run(command, env=environment, cwd=tests.parent).returncode
    if failed == 1:
        # Some count all containers while those of the test before them are still going.
        print("once more, what failed:")
        failed = subprocess.run([*command, "--last-failed"], env=environment, cwd=tests.parent).returncode
    return failed


def main():
    arguments = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    arguments.add_argument("--bin", type=pathlib.Path)
    arguments.add_argument("--sdist", type=pathlib.Path, required=True)
    arguments.add_argument("--keep", action="store_true", help="leave the directory with the logs")
    options, more = arguments.parse_known_args()
    with tempfile.TemporaryDirectory(prefix="corten-dpy-") as directory:
        with tarfile.open(options.sdist) as sdist:
            members = [m for m in sdist if "/tests/" in m.name or m.name.endswith("/pytest.ini")]
            sdist.extractall(directory, members=members, filter="data")
        tests = next(pathlib.Path(directory).glob("*/tests"))
        chosen = [str(tests / "integration" / m) if ".py" in m else m for m in more]
        if os.environ.get("DOCKER_HOST") and not os.environ.get("CORTEN_OWN_NET"):
            return run(tests, os.environ["DOCKER_HOST"], chosen)
        with Stand(options.bin, options.keep) as stand:
            stand.serve(IMAGES)
            return run(tests, stand.host, chosen)


if __name__ == "__main__":
    if not os.environ.get("DOCKER_HOST"):
        enter_own_network()
    sys.exit(main())
