"""Stands in for testcontainers' reaper: clients connect and name labels; when the last one has gone, what carries
those labels is removed, through the daemon's socket that is mounted here."""
import http.client
import json
import os
import socket
import threading
import urllib.parse

PATIENCE = float(os.environ.get("RYUK_RECONNECTION_TIMEOUT", "10s").rstrip("s"))


class Daemon(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect("/var/run/docker.sock")

    def ask(self, method, path, **query):
        self.request(method, path + "?" + urllib.parse.urlencode(query))
        answer = self.getresponse()
        return answer.status, json.loads(answer.read() or b"null")


def serve(client, filters):
    for line in client.makefile("r"):
        query = urllib.parse.parse_qs(line.strip())
        filters.extend(query.get("label", []))
        client.sendall(b"ACK\n")


def reap(labels):
    daemon = Daemon("localhost")
    for label in labels:
        chosen = json.dumps({"label": [label]})
        for container in daemon.ask("GET", "/containers/json", all=1, filters=chosen)[1]:
            print("removing container", container["Id"], daemon.ask("DELETE", f"/containers/{container['Id']}", force=1, v=1)[0])
        for kind in ("networks", "volumes"):
            print("pruning", kind, daemon.ask("POST", f"/{kind}/prune", filters=chosen)[0])


def main():
    listener = socket.create_server(("", 8080))
    labels, clients = [], []
    print("Reaper Started!")
    listener.settimeout(60)
    while True:
        try:
            client, _ = listener.accept()
        except TimeoutError:
            break
        thread = threading.Thread(target=serve, args=(client, labels))
        thread.start()
        clients.append(thread)
        for thread in clients:
            thread.join()
        listener.settimeout(PATIENCE)
    reap(labels)


if __name__ == "__main__":
    main()
