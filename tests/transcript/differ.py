"""The differences we know: `allowed.toml`, a reason for each. Anything else fails, and so does one that is no more."""
import difflib
import pathlib
import re
import tomllib


class Allowed:
    """Entries of one kind (`line` or `request`) of allowed.toml."""

    def __init__(self, kind):
        path = pathlib.Path(__file__).with_name("allowed.toml")
        self.entries = tomllib.loads(path.read_text())[kind]
        self.used = set()

    def allows(self, line, reference, candidate):
        """Whether one entry for this command line covers every line that only one of the two has."""
        found = False
        for index, entry in enumerate(self.entries):
            if line not in entry["commands"]:
                continue
            sides = [(entry.get("reference", []), reference), (entry.get("ours", []), candidate)]
            if all(any(re.fullmatch(p, text) for p in patterns) for patterns, texts in sides for text in texts):
                self.used.add((index, line))
                found = True
        return found

    def stale(self):
        """Entries that nothing needed."""
        return [f"{line}: {entry['reason']}" for index, entry in enumerate(self.entries)
                for line in entry["commands"] if (index, line) not in self.used]


def changes(reference, candidate):
    """The lines that only one side has, and the difference as a person reads it."""
    lines = [l for l in difflib.unified_diff(reference.splitlines(), candidate.splitlines(), lineterm="", n=1)
             if not l.startswith(("---", "+++", "@@"))]
    only = lambda sign: [l[1:].strip() for l in lines if l.startswith(sign)]
    return only("-"), only("+"), "\n".join("      " + l for l in lines)
