#!/usr/bin/env python3
"""Compare the requests two docker clients send: a fake daemon records them.

usage: requests.py --reference DOCKER --candidate DOCKER

Each line of `requests.txt` beside this file is a command line; the bodies and queries of all requests but /_ping are
compared as JSON (null, absent, empty and false count as the same). Exit status 1 if anything differs."""
import argparse, http.server, json, os, pathlib, shlex, socketserver, subprocess, sys, tempfile, threading, urllib.parse

SEEN = []


class Fake(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *a):
        pass

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
        requests.append(json.dumps([method, path, query, normal(body)], indent=1, sort_keys=True))
    return requests, p.stderr


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--reference", default="/usr/local/bin/docker")
    ap.add_argument("--candidate", required=True)
    a = ap.parse_args()
    bad = good = 0
    with tempfile.TemporaryDirectory() as work:
        sock = os.path.join(work, "s")
        server = Server(sock, Fake)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        pathlib.Path(work, "envfile").write_text("# c\nA=1\nHOME\nB=x y\n")
        pathlib.Path(work, "labels").write_text("l1=1\nl2\n")
        pathlib.Path(work, "prof.json").write_text('{ "defaultAction": "SCMP_ACT_ALLOW" }\n')
        pathlib.Path(work, "Dockerfile").write_text("FROM x\n")
        env = {"PATH": os.environ["PATH"], "HOME": work, "DOCKER_HOST": "unix://" + sock, "DOCKER_BUILDKIT": "0", "FOO": "bar"}
        for line in (pathlib.Path(__file__).parent / "requests.txt").read_text().splitlines():
            if not line.strip() or line.startswith("#"):
                continue
            (r, re_), (g, ge) = run(a.reference, line, env, work), run(a.candidate, line, env, work)
            if r == g:
                good += 1
                continue
            bad += 1
            print("==", line)
            import difflib
            d = list(difflib.unified_diff("\n".join(r).splitlines(), "\n".join(g).splitlines(), lineterm="", n=1))[2:]
            print("\n".join("   " + x for x in d[:40]))
            if not r or not g:
                print("   reference said:", re_.strip()[:300], "\n   candidate said:", ge.strip()[:300])
        server.shutdown()
    print(f"{good} same, {bad} different")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
