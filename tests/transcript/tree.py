"""Compare the command trees of two docker clients: every command's usage, aliases and options, and what it says of
arguments that are wrong. No daemon is asked: there is none at the address they are given.

Texts of help are our own; their structure is not."""
import os
import re
import subprocess
import tempfile

from differ import Allowed, changes

FLAG = re.compile(r"^ {2,6}(?:-(\w), )?\s*--([\w-]+)(?: (\S+))?(?: {2,}|$)")
# Wrong for every command, or right for one that then finds no daemon.
ARGUMENTS = [[], ["a"], ["a", "b"], ["a", "b", "c"], ["--nope"], ["-Z"], ["a", "--nope"]]
# Any text is right for these.
TEXTS = ("string", "list", "map", "strings", "stringArray", "filter")
# What docker says of its old builder before anything else.
DEPRECATED = re.compile(r"DEPRECATED: .*\n( {12}.*\n)+\n")


class Program:
    def __init__(self, path, env, home):
        self.path, self.home = path, home
        self.env = {**env, "DOCKER_HOST": f"unix://{home}/nobody", "DOCKER_CONFIG": home, "HOME": home, "COLUMNS": "200"}

    def run(self, *args):
        ran = subprocess.run([self.path, *args], env=self.env, cwd=self.home, capture_output=True, text=True,
                             stdin=subprocess.DEVNULL, timeout=60)
        return ran.stdout, DEPRECATED.sub("", ran.stderr), ran.returncode

    def describe(self, path):
        """A command's structure as lines, its options as (name, type), and the names of its commands."""
        text, _, status = self.run(*path, "--help")
        section, options, commands = "", [], []
        lines = [f"status {status}"]
        for line in text.splitlines():
            if re.match(r"^[A-Z][\w ]*:\s*$", line):
                section = line.strip()
            elif line.startswith("Usage:"):
                lines.append(line)
            elif section == "Aliases:" and line.strip():
                lines.append("aliases " + " ".join(sorted(line.strip().split(", "))))
            elif section.endswith("Options:") and (found := FLAG.match(line)):
                options.append((found[2], found[3] or ""))
                lines.append(f"option {found[1]} --{found[2]} {found[3] or ''}")
            elif section.endswith("Commands:") and (found := re.match(r"^  (\w[\w-]*)\*?\s+\S", line)):
                commands.append(found[1])
                lines.append(f"command {found[1]}")
        return lines, options, commands

    def complaints(self, path, options):
        """What it says of wrong arguments."""
        wrong = list(ARGUMENTS)
        for name, kind in options:
            wrong.append([f"--{name}"] if kind else [f"--{name}=q", "a"])
            if kind and kind not in TEXTS:
                wrong.append([f"--{name}", "q!x", "a", "b"])
        for args in wrong:
            out, err, status = self.run(*path, *args)
            # A help begins with its usage.
            out, err = ("HELP" if text.lstrip().startswith("Usage:") else text for text in (out, err))
            yield " ".join(["$", *args, f"-> {status}"])
            yield from (line for line in (out + err).splitlines() if line.strip())


def compare(reference, candidate, env):
    """Prints what differs without being allowed; returns the numbers of equal, allowed and bad commands, and `Allowed`."""
    allowed = Allowed("command")
    counts = {"same": 0, "known": 0, "bad": 0}
    with tempfile.TemporaryDirectory() as home:
        theirs, ours = Program(reference, env, home), Program(candidate, env, home)

        def walk(path):
            name = " ".join(["docker", *path])
            told, options, commands = theirs.describe(path)
            heard, _, _ = ours.describe(path)
            # The manifests' commands ask a registry.
            if path and path[0] != "manifest" and heard[0] == told[0]:
                told += theirs.complaints(path, options)
                heard += ours.complaints(path, options)
            gone, new, report = changes("\n".join(told), "\n".join(heard))
            verdict = "same" if not report else "known" if allowed.allows(name, gone, new) else "bad"
            counts[verdict] += 1
            if verdict == "bad":
                print(f"{name}\n{report}")
            for command in commands:
                if f"command {command}" in heard:
                    walk([*path, command])

        walk([])
    return counts["same"], counts["known"], counts["bad"], allowed
