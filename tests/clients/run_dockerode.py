"""Runs dockerode.test.mjs against a daemon of its own.

    python run_dockerode.py --bin DIR --modules node_modules [arguments of node --test]"""
import argparse
import os
import pathlib
import subprocess
import sys

from stand import Stand, enter_own_network


def main():
    arguments = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    arguments.add_argument("--bin", type=pathlib.Path, required=True)
    arguments.add_argument("--modules", type=pathlib.Path, required=True)
    arguments.add_argument("--keep", action="store_true", help="leave the directory with the logs")
    options, more = arguments.parse_known_args()
    with Stand(options.bin, options.keep) as stand:
        stand.serve(["busybox:latest"])
        environment = {**os.environ, "DOCKER_HOST": stand.host, "CORTEN_NODE_MODULES": str(options.modules.resolve())}
        tests = pathlib.Path(__file__).with_name("dockerode.test.mjs")
        return subprocess.run(["node", "--test", "--test-reporter=spec", *more, tests], env=environment).returncode


if __name__ == "__main__":
    enter_own_network()
    sys.exit(main())
