#!/usr/bin/env python3
"""Compare a live daemon with the Engine API's OpenAPI document, operation by operation.

usage: reference.py --bin DIR --document engine-api.yaml [--keep] [-v]

* every path and method is known;
* every query parameter is read by its handler, and every documented filter is accepted, an undocumented one refused;
* the answer of every operation has the fields of its schema, no others, and of the right types;
* every field that a container, an endpoint, a network and a volume are made with comes back from inspect.

What differs is in explained.toml beside this file, with its reason. Anything else fails, and so does an explanation
that nothing needs any more. Operations of swarm and plugins are asked for their refusals only."""
import argparse
import fnmatch
import json
import pathlib
import re
import sys
import tomllib

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "clients"))

import bodies  # noqa: E402
from document import Document, differences, filter_names  # noqa: E402
from engine import Engine  # noqa: E402
from stand import Stand, enter_own_network  # noqa: E402
from world import World  # noqa: E402

SOURCES = HERE.parents[1] / "crates/corten-api/src"
# Answered as by an engine without a swarm and without plugins.
REFUSED = re.compile(r"/(swarm|nodes|services|tasks|secrets|configs|plugins)")


class Explained:
    """explained.toml: for each kind of difference, patterns of what may differ, and why."""

    def __init__(self):
        self.entries = tomllib.loads((HERE / "explained.toml").read_text())["difference"]
        self.used = set()

    def explains(self, difference):
        found = False
        for index, entry in enumerate(self.entries):
            for pattern in entry["what"]:
                if fnmatch.fnmatchcase(difference, pattern):
                    self.used.add((index, pattern))
                    found = True
        return found

    def stale(self):
        return [f"{pattern}: {entry['reason']}" for index, entry in enumerate(self.entries)
                for pattern in entry["what"] if (index, pattern) not in self.used]


def routes(document, engine):
    """Each operation that the daemon does not know."""
    for name, method, path, _, _ in document.operations():
        if name == "Session":
            continue  # Takes the connection over; the builder's tests speak it.
        query = {"stream": 0, "path": "/", "since": 0, "until": 0} if method == "GET" else {"path": "/"}
        status, answer = engine.call(method, re.sub(r"\{\w+\}", "no-such-thing", path), query)
        if status == 404 and "page not found" in json.dumps(answer, default=str):
            yield f"route {name}: {method} {path}"


def handler_sources():
    """Method and pattern of each route, and the text of the files its handler is in and takes functions from."""
    table = re.findall(r'^\s+(GET|HEAD|POST|PUT|DELETE) "([^"]+)" \w+ (\w+)::\w+;',
                       (SOURCES / "handlers.rs").read_text(), re.M)
    texts = {module: (SOURCES / f"handlers/{module}.rs").read_text() for _, _, module in table}
    whole = {module: text + "".join(texts[other] for other in texts if re.search(rf"\b{other}::", text))
             for module, text in texts.items()}
    return {(method, re.sub(r"\{\w+\*?\}", "{}", pattern)): whole[module] for method, pattern, module in table}


def parameters(document, engine):
    """Query parameters that no handler reads, and filters that are not as documented."""
    sources = handler_sources()
    for name, method, path, described, _ in document.operations():
        if REFUSED.match(path):
            continue
        text = sources.get((method, re.sub(r"\{\w+\}", "{}", path)), "")
        for parameter in described:
            if parameter["in"] not in ("query", "header"):
                continue
            wanted = parameter["name"].lower() if parameter["in"] == "header" else parameter["name"]
            if f'"{wanted}"' not in text.replace('.filters()', '"filters"'):
                yield f"parameter {name}: {parameter['name']}"
            if parameter["name"] == "filters":
                yield from filters(name, method, path, parameter, engine)


def filters(name, method, path, parameter, engine):
    for key in [*filter_names(parameter), "no-such-filter"]:
        query = {"filters": json.dumps({key: ["x"]}), "since": 0, "until": 0, "term": "x"}
        status, answer = engine.call(method, path, query)
        refused = status == 400 and "invalid filter" in answer["message"] and "=" not in answer["message"]
        if refused != (key == "no-such-filter"):
            yield f"filter {name}: {key}: {status} {answer if status >= 400 else ''}".rstrip()


def answers(document, world):
    """Fields of answers that are missing, unknown, or of another type."""
    for name, _, path, _, schema in document.operations():
        if schema is None or schema.get("type") == "string" or REFUSED.match(path):
            continue
        if name not in world.answers:
            yield f"unasked {name}"
            continue
        found = [set(differences(document, schema, value)) for value in world.answers[name]]
        everything = set().union(*found)
        # What one of several answers has is not missing.
        for kind, where in sorted(everything):
            if kind != "missing" or all((kind, where) in each for each in found):
                yield f"{kind} {name}: {where}"


def same(sent, shown):
    """Whether an object shows what was sent; it may show more."""
    if isinstance(sent, dict) and isinstance(shown, dict):
        return all(same(value, shown.get(key)) for key, value in sent.items())
    if isinstance(sent, list) and isinstance(shown, list):
        return len(sent) == len(shown) and all(map(same, sent, shown))
    return sent == shown or (not sent and not shown)


def fields(document, definition, values):
    """Each field of a definition with what is to be sent for it; a field without a value is a difference."""
    for field in document.properties(definition):
        value = values.get(field)
        yield field, *(value if isinstance(value, tuple) else (value, {}))


def requests(document, world):
    """Fields of requests that are refused, or that inspect does not show."""
    for definition, values, make in [
        ("ContainerConfig", bodies.CONFIG, world.config), ("HostConfig", bodies.HOST, world.host_config),
        ("EndpointSettings", bodies.ENDPOINT, world.endpoint), ("Network", bodies.NETWORK, world.network),
        ("VolumeCreateRequest", bodies.VOLUME, world.volume),
    ]:
        for field, value, beside in fields(document, definition, values):
            where = f"field {definition}.{field}"
            if value is None:
                yield f"{where}: no value to send"
                continue
            try:
                shown = make(field, {**beside, field: value})
            except RuntimeError as refusal:
                yield f"{where}: {refusal}"
                continue
            if not same(value, shown):
                yield f"{where}: sent {json.dumps(value)}, shown {json.dumps(shown)}"


def main():
    arguments = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    arguments.add_argument("--bin", type=pathlib.Path, required=True)
    arguments.add_argument("--document", type=pathlib.Path, required=True)
    arguments.add_argument("--keep", action="store_true")
    arguments.add_argument("-v", action="store_true", help="print what is explained, too")
    options = arguments.parse_args()
    document, explained = Document(options.document), Explained()
    with Stand(options.bin, options.keep) as stand:
        stand.serve(["busybox:latest"])
        engine = Engine(stand.host, document.root["info"]["version"])
        found = [*routes(document, engine), *parameters(document, engine)]
        with World(engine) as world:
            world.ask()
            found += requests(document, world)
            world.prunes()
            found += answers(document, world)
    bad = 0
    for difference in found:
        known = explained.explains(difference)
        bad += not known
        if options.v or not known:
            print(("explained: " if known else "") + difference)
    stale = explained.stale()
    for entry in stale:
        print("explained, but no longer there:", entry)
    operations = sum(1 for _ in document.operations())
    print(f"api: {operations} operations, {len(found) - bad} differences explained, {bad} not, {len(stale)} stale")
    return 1 if bad or stale else 0


if __name__ == "__main__":
    enter_own_network()
    sys.exit(main())
