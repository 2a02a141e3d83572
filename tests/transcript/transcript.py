#!/usr/bin/env python3
"""Run scripts of docker commands with two clients against one daemon and compare what they say.

usage: transcript.py --socket PATH --reference DOCKER --candidate DOCKER [--only TEXT] [FILE...]

A file (*.sh beside this one by default) has one shell command per line; `docker` in it is the client under test.
Lines beginning with `#` are comments, with `!` are run but not compared. Before each file, and after it, all
containers, volumes and networks are removed, so that both clients see the same state. Ids, times, addresses and
other things that differ from run to run are masked. Exit status 1 if anything differs."""
import argparse, difflib, os, pathlib, re, subprocess, sys, tempfile

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
    (r"pid[= ]\d+", "pid N"),
    (r" +", " "),
]


def mask(text):
    for pattern, replacement in MASKS:
        text = re.sub(pattern, replacement, text, flags=re.M)
    return text


def clean(docker, env):
    def out(*a):
        return subprocess.run([docker, *a], env=env, capture_output=True, text=True).stdout.split()
    for ids, rm in [(out("ps", "-aq"), ["rm", "-fv"]), (out("volume", "ls", "-q"), ["volume", "rm", "-f"]),
                    (out("network", "ls", "-q", "-f", "type=custom"), ["network", "rm"])]:
        if ids:
            subprocess.run([docker, *rm, *ids], env=env, capture_output=True)


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


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--socket", required=True)
    ap.add_argument("--reference", default="/usr/local/bin/docker")
    ap.add_argument("--candidate", required=True)
    ap.add_argument("--only", default="")
    ap.add_argument("files", nargs="*")
    a = ap.parse_args()
    env = {"PATH": os.environ["PATH"], "DOCKER_HOST": "unix://" + a.socket, "LANG": "C", "DOCKER_BUILDKIT": "0"}
    files = a.files or sorted(str(p) for p in pathlib.Path(__file__).parent.glob("*.sh"))
    same = different = 0
    for f in files:
        lines = [l.rstrip("\n") for l in open(f)]
        lines = [l for l in lines if l.strip() and not l.startswith("#")]
        ref = play(a.reference, lines, env, a.reference)
        got = play(a.candidate, lines, env, a.reference)
        for line, r, g in zip(lines, ref, got):
            if line.startswith("!") or (a.only and a.only not in line):
                continue
            bad = []
            for what, x, y in zip(("stdout", "stderr", "status"), r, g):
                if isinstance(x, str):
                    x, y = mask(x), mask(y)
                if x != y:
                    if isinstance(x, str):
                        d = "".join("      " + l + "\n" for l in difflib.unified_diff(x.splitlines(), y.splitlines(), lineterm="", n=1) if not l.startswith(("---", "+++", "@@")))
                    else:
                        d = f"      -{x}\n      +{y}\n"
                    bad.append(f"    {what}:\n{d}")
            if bad:
                different += 1
                print(f"{os.path.basename(f)}: {line}\n{''.join(bad)}", end="")
            else:
                same += 1
    print(f"{same} same, {different} different")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
