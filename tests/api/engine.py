"""HTTP over the daemon's unix socket, and nothing else: what is compared must not pass through a client's types."""
import http.client
import json
import socket
import urllib.parse


class Connection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=60)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class Engine:
    def __init__(self, host, version):
        self.socket, self.version = host.removeprefix("unix://"), version

    def call(self, method, path, query=None, body=None, headers=None):
        """Status and answer; an answer that is a stream of JSON documents is a list of them."""
        url = f"/v{self.version}{path}"
        if query:
            url += "?" + urllib.parse.urlencode(query, doseq=True)
        data, headers = body, dict(headers or {})
        if body is not None and not isinstance(body, bytes):
            data, headers["Content-Type"] = json.dumps(body), "application/json"
        connection = Connection(self.socket)
        try:
            connection.request(method, url, data, headers)
            response = connection.getresponse()
            return response.status, parsed(response.read(), response.getheader("Content-Type", ""))
        finally:
            connection.close()

    def must(self, method, path, query=None, body=None, headers=None):
        """The answer; a refusal is an error."""
        status, answer = self.call(method, path, query, body, headers)
        if status >= 400:
            raise RuntimeError(f"{method} {path}: {status} {answer}")
        return answer


def parsed(raw, content_type):
    if "json" not in content_type:
        return raw
    text = raw.decode()
    try:
        return json.loads(text)
    except ValueError:
        return [json.loads(line) for line in text.splitlines() if line.strip()]
