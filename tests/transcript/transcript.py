#!/usr/bin/env python3
"""Run scripts of docker commands with two clients against one daemon and compare what they say.

usage: transcript.py --bin DIR [--reference DOCKER] [--only TEXT] [--keep] [FILE...]

DIR holds `corten`, which is both the daemon and the client under test; the reference is the docker client in PATH.
A file (*.sh beside this one by default) has one shell command per line; `docker` in it is the client in question.
Lines beginning with `#` are comments, with `!` are run but not compared. Before each file, and after it, all
containers, volumes and networks are removed, so that both clients see the same state. Ids, times, addresses and
other things that differ from run to run are masked. Then requests_compared.py compares what the two send to a fake
daemon, and tree.py what commands and options there are.

Exit status 1 if anything differs that allowed.toml does not explain, or if it explains what is no more."""
import argparse
import os
import pathlib
import re
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "clients"))

import requests_compared  # noqa: E402
import tree  # noqa: E402
from differ import Allowed, changes  # noqa: E402
from stand import Stand, enter_own_network  # noqa: E402

MASKS = [
    (r"sha256:[0-9a-f]{64}", "sha256:ID"),
    (r"\b[0-9a-f]{64}\b", "ID64"),
    (r"\b[0-9a-f]{12}\b", "ID12"),
    (r"\b[0-9a-f]{20}\b", "ID20"),
    (r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:?\d\d)?( \+0000 UTC)?", "TIME"),
    (r"(Less than a second|About an? (minute|hour)|\d+ (second|minute|hour|day|week|month)s?)( ago)?", "AGO"),
    (r"\"time(Nano)?\":\d+", r'"time":N'),
    (r"\b[0-9a-f]{2}(:[0-9a-f]{2}){5}\b", "MAC"),
    (r"\b172\.\d+\.\d+\.\d+", "ADDR"),
    (r"fe80::[0-9a-f:]+", "ADDR6"),
    (r"\b[a-z]+_[a-z]+[0-9]?\b(?=$|\s*$)", "NAME"),
    # docker logs the pipe that a refusal of the daemon closed, when it notices in time.
    (r'^time="TIME" level=error msg="Can.t .* closed pipe"\n', ""),
    (r"pid[= ]\d+", "pid N"),
    (r'"Pid": \d+', '"Pid": N'),
    (r"endpoint \w+ ", "endpoint NAME "),
    (r" +", " "),
]


def mask(text):
    for pattern, replacement in MASKS:
        text = re.sub(pattern, replacement, text, flags=re.M)
    return text


def clean(docker, env):
    # Containers, volumes, networks, images without a name.
    def out(*a):
        return subprocess.run([docker, *a], env=env, capture_output=True, text=True).stdout.split()
    for ids, rm in [(out("ps", "-aq"), ["rm", "-fv"]), (out("volume", "ls", "-q"), ["volume", "rm", "-f"]),
                    (out("network", "ls", "-q", "-f", "type=custom"), ["network", "rm"])]:
        if ids:
            subprocess.run([docker, *rm, *ids], env=env, capture_output=True)
    subprocess.run([docker, "image", "prune", "-f"], env=env, capture_output=True)


def play(docker, script, env, reference):
    results = []
    with tempfile.TemporaryDirectory() as work:
        bin_dir = os.path.join(work, "bin")
        os.mkdir(bin_dir)
        os.symlink(docker, os.path.join(bin_dir, "docker"))
        home = os.path.join(work, "home")
        os.mkdir(home)
        env = dict(env, PATH=bin_dir + ":" + env["PATH"], HOME=home, DOCKER_CONFIG=os.path.join(home, ".docker"))
        clean(reference, env)
        for line in script:
            try:
                p = subprocess.run(["bash", "-c", line.lstrip("!")], env=env, cwd=home, capture_output=True,
                                   timeout=60, stdin=subprocess.DEVNULL)
                got = (p.stdout.decode(errors="replace"), p.stderr.decode(errors="replace"), p.returncode)
            except subprocess.TimeoutExpired:
                got = ("", "TIMEOUT", -1)
            results.append(tuple(x.replace(work, "/WORK") if isinstance(x, str) else x for x in got))
        clean(reference, env)
    return results



def differences(f, reference, candidate, env):
    """Plays one file with both; for every compared line what only the reference says, what only we say, a report."""
    lines = [l for l in f.read_text().splitlines() if l.strip() and not l.startswith("#")]
    ref = play(reference, lines, env, reference)
    got = play(candidate, lines, env, reference)
    for line, r, g in zip(lines, ref, got):
        if line.startswith("!"):
            continue
        gone, new, report = [], [], []
        for what, x, y in zip(("stdout", "stderr", "status"), r, g):
            x, y = (mask(x), mask(y)) if isinstance(x, str) else (f"status {x}", f"status {y}")
            if x != y:
                minus, plus, text = changes(x, y)
                gone, new = gone + minus, new + plus
                report.append(f"    {what}:\n{text or '      only in line ends'}")
        yield line, gone, new, report


def compare(files, reference, candidate, env, only):
    """Prints what differs without being allowed; returns the numbers of equal, allowed and bad lines, and `Allowed`.

    A file with a difference is played once more: what differs only once was the machine's doing (a slow start, a
    container that ended between two commands), is printed, and counts as equal."""
    allowed = Allowed("line")
    same = known = bad = 0
    for f in files:
        found = list(differences(f, reference, candidate, env))
        suspicious = [l for l, gone, new, report in found if report and not allowed.allows(l, gone, new)]
        again = {}
        if suspicious:
            again = {l: report for l, _, _, report in differences(f, reference, candidate, env)}
        for line, gone, new, report in found:
            if only not in line:
                continue
            if not report:
                same += 1
            elif allowed.allows(line, gone, new):
                known += 1
            elif not again[line]:
                same += 1
                print(f"{f.name}: {line}\n    differed once:\n" + "\n".join(report))
            else:
                bad += 1
                print(f"{f.name}: {line}\n" + "\n".join(report))
    return same, known, bad, allowed


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--bin", type=pathlib.Path, required=True)
    ap.add_argument("--reference", default="docker")
    ap.add_argument("--only", default="")
    ap.add_argument("--keep", action="store_true")
    ap.add_argument("files", nargs="*", type=pathlib.Path)
    a = ap.parse_args()
    candidate = str(a.bin.resolve() / "corten")
    reference = subprocess.run(["which", a.reference], check=True, capture_output=True, text=True).stdout.strip()
    everything = not (a.files or a.only)
    failed = False
    with Stand(a.bin, a.keep) as stand:
        stand.import_busybox()
        env = {"PATH": os.environ["PATH"], "DOCKER_HOST": stand.host, "LANG": "C", "DOCKER_BUILDKIT": "0"}
        files = a.files or sorted(HERE.glob("*.sh"))
        lines = compare(files, reference, candidate, env, a.only)
    kinds = [("command lines", lines)]
    if not a.files:
        kinds.append(("requests", requests_compared.compare(reference, candidate, a.only)))
    if everything:
        kinds.append(("commands", tree.compare(reference, candidate, env)))
    for name, (same, known, bad, allowed) in kinds:
        stale = allowed.stale() if everything else []
        for entry in stale:
            print("no longer different, remove it from allowed.toml:", entry)
        failed = failed or bad or stale
        print(f"{name}: {same} equal, {known} different for a known reason, {bad} different")
    return 1 if failed else 0


if __name__ == "__main__":
    enter_own_network()
    sys.exit(main())
