"""Compare the requests two docker clients send: a fake daemon records them.

Each line of `requests.txt` beside this file is a command line; the bodies and queries of all requests but /_ping are
compared as JSON (null, absent, empty and false count as the same)."""
import http.server
import json
import os
import pathlib
import shlex
import socketserver
import subprocess
import tempfile
import threading
import urllib.parse

from differ import Allowed, changes

SEEN = []


class Fake(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *a):
        pass

    def handle(self):
        try:
            super().handle()
        except (BrokenPipeError, ConnectionResetError):
            pass  # The client had seen enough.

    def reply(self, status, body, head=False):
        data = json.dumps(body).encode()
        self.send_response(status)
        for k, v in [("Api-Version", "1.50"), ("Ostype", "linux"), ("Content-Type", "application/json"), ("Content-Length", str(len(data)))]:
            self.send_header(k, v)
        self.end_headers()
        if not head:
            self.wfile.write(data)

    def handle_any(self):
        url = urllib.parse.urlsplit(self.path)
        path = url.path
        if path.startswith("/v1."):
            path = "/" + path.split("/", 2)[2]
        raw = b""
        if self.headers.get("Transfer-Encoding") == "chunked":
            while True:
                size = int(self.rfile.readline().strip(), 16)
                chunk = self.rfile.read(size)
                self.rfile.readline()
                if size == 0:
                    break
                raw += chunk
        else:
            raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if path in ("/_ping", "/info", "/version"):
            return self.reply(200, {"OSType": "linux", "ApiVersion": "1.50"}, self.command == "HEAD")
        try:
            body = json.loads(raw) if raw else None
        except ValueError:
            body = "<%d bytes>" % len(raw)
        if path == "/build":
            body = None
        query = sorted(urllib.parse.parse_qsl(url.query))
        SEEN.append((self.command, path, query, body))
        if path == "/images/nope/json":
            return self.reply(404, {"message": "no"})
        if self.command == "GET" and path in ("/containers/json", "/images/json", "/networks", "/images/search"):
            return self.reply(200, [])
        self.reply(200, {"Id": "abc", "ID": "abc", "Warnings": [], "Name": "x", "Volumes": [], "Config": {}, "State": {}, "Titles": [], "Processes": []}, self.command == "HEAD")

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = handle_any


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True

    def get_request(self):
        request, _ = super().get_request()
        return request, ("local", 0)


def normal(x):
    if isinstance(x, dict):
        out = {k: normal(v) for k, v in x.items()}
        if isinstance(out.get("Binds"), list):
            out["Binds"].sort()  # The reference walks a hash table.
        if isinstance(out.get("Env"), list):
            out["Env"].sort(key=lambda e: "=" not in e)  # Names without a value.
        if isinstance(out.get("Config"), list):
            out["Config"].sort(key=str)  # Of IPAM: another one.
        return {k: v for k, v in sorted(out.items()) if v not in (None, "", 0, [], {}, False) and v != [0, 0]}
    if isinstance(x, list):
        return [normal(v) for v in x]
    return x


def run(docker, line, env, work):
    SEEN.clear()
    p = subprocess.run([docker, *shlex.split(line)], env=env, cwd=work, capture_output=True, text=True, timeout=20, stdin=subprocess.DEVNULL)
    requests = []
    for method, path, query, body in SEEN:
        query = [(k, json.dumps(normal(json.loads(v))) if v[:1] in "{[" else v) for k, v in query]
        query = sorted((k, v) for k, v in query if v not in ("", "0", "{}", "[]", "null", "default") )
        requests.append(" ".join([method, path, *(f"{k}={v}" for k, v in query), json.dumps(normal(body) or None, sort_keys=True)]))
    return requests, p.stderr


def prepare(work):
    """The files that the command lines name."""
    pathlib.Path(work, "envfile").write_text("# c\nA=1\nHOME\nB=x y\n")
    pathlib.Path(work, "labels").write_text("l1=1\nl2\n")
    pathlib.Path(work, "prof.json").write_text('{ "defaultAction": "SCMP_ACT_ALLOW" }\n')
    pathlib.Path(work, "Dockerfile").write_text("FROM x\n")


def compare(reference, candidate, only=""):
    """Prints what differs without being allowed; returns the numbers of equal, allowed and bad lines, and `Allowed`."""
    allowed = Allowed("request")
    same = known = bad = 0
    with tempfile.TemporaryDirectory() as work:
        prepare(work)
        sock = os.path.join(work, "s")
        server = Server(sock, Fake)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        env = {"PATH": os.environ["PATH"], "HOME": work, "DOCKER_HOST": "unix://" + sock, "DOCKER_BUILDKIT": "0",
               "FOO": "bar"}
        for line in pathlib.Path(__file__).with_name("requests.txt").read_text().splitlines():
            if not line.strip() or line.startswith("#") or only not in line:
                continue
            # The reference walks hash tables: lists of it may come in another order the next time.
            for _ in range(3):
                (r, r_said), (g, g_said) = run(reference, line, env, work), run(candidate, line, env, work)
                if r == g:
                    break
            if r == g:
                same += 1
                continue
            # What one side sends and the other does not, a request in a line.
            gone, new = [x for x in r if x not in g], [x for x in g if x not in r]
            if allowed.allows(line, gone, new):
                known += 1
                continue
            bad += 1
            print(f"requests: {line}\n{changes(chr(10).join(r), chr(10).join(g))[2]}")
            if not r or not g:
                print(f"    reference said: {r_said.strip()[:300]}\n    ours said: {g_said.strip()[:300]}")
        server.shutdown()
    return same, known, bad, allowed
