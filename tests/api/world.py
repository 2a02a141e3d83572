"""Objects of every kind in the daemon, and the answers of all operations about them."""
import base64
import http.server
import io
import json
import tarfile
import threading
import time

import bodies

BUSYBOX = "busybox:latest"
REPOSITORY = "127.0.0.1:5000/api/full"
LINUX = json.dumps({"os": "linux", "architecture": "amd64"})


def context(dockerfile):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        info = tarfile.TarInfo("Dockerfile")
        info.size = len(dockerfile)
        tar.addfile(info, io.BytesIO(dockerfile.encode()))
    return out.getvalue()


class Index(http.server.BaseHTTPRequestHandler):
    """What `docker search` asks."""

    def do_GET(self):
        found = {"name": "x", "description": "y", "star_count": 1, "is_official": True, "is_automated": False}
        data = json.dumps({"num_results": 1, "query": "x", "results": [found]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


class World:
    """`answers` has for each operation id what it answered, several where no one answer has everything."""

    def __init__(self, engine):
        self.engine, self.answers, self.made = engine, {}, 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for container in self.engine.must("GET", "/containers/json", {"all": 1}):
            self.engine.call("DELETE", f"/containers/{container['Id']}", {"force": 1, "v": 1})
        self.engine.must("POST", "/networks/prune")

    def note(self, operation, *request, **more):
        answer = self.engine.must(*request, **more)
        self.answers.setdefault(operation, []).append(answer)
        return answer

    def ask(self):
        self.images()
        self.objects()
        self.containers()
        self.system()

    def images(self):
        must, note = self.engine.must, self.note
        lines = [
            f"FROM {BUSYBOX}", "MAINTAINER me", "LABEL a=b", "ENV A=1", "EXPOSE 80", "VOLUME /v", "USER 1", "WORKDIR /w",
            "ONBUILD RUN x", "STOPSIGNAL SIGUSR1", "ENTRYPOINT x", "CMD y", 'SHELL ["/bin/sh"]',
            "HEALTHCHECK --interval=1s --timeout=1s --start-period=1s --start-interval=1s --retries=2 CMD true",
        ]
        name = f"{REPOSITORY}:1"
        must("POST", "/build", {"t": name}, context("\n".join(lines)), {"Content-Type": "application/x-tar"})
        nobody = {"X-Registry-Auth": base64.b64encode(b"{}").decode()}
        must("POST", f"/images/{REPOSITORY}/push", {"tag": "1"}, headers=nobody)
        # What was pulled has an identity, a digest, and layers that are shared.
        must("POST", "/images/create", {"fromImage": REPOSITORY, "tag": "1"})
        must("POST", "/containers/create", {"name": "of-image"}, {"Image": name})
        note("ImageList", "GET", "/images/json", {"shared-size": 1, "manifests": 1, "identity": 1, "digests": 1})
        note("ImageInspect", "GET", f"/images/{name}/json", {"manifests": 1})
        note("ImageInspect", "GET", f"/images/{name}/json", {"platform": LINUX})
        note("ImageHistory", "GET", f"/images/{name}/history")
        note("ImageAttestations", "GET", f"/images/{name}/attestations")
        note("DistributionInspect", "GET", f"/distribution/{name}/json")
        note("ImageCommit", "POST", "/commit", {"container": "of-image", "repo": "committed"}, {})
        must("DELETE", "/containers/of-image", {"v": 1})
        note("ImageDelete", "DELETE", "/images/committed")

    def objects(self):
        note = self.note
        ipam = {"Driver": "default", "Config": [
            {"Subnet": "10.99.0.0/16", "IPRange": "10.99.1.0/24", "Gateway": "10.99.0.1",
             "AuxiliaryAddresses": {"a": "10.99.0.2"}}, {"Subnet": "fd99::/64", "Gateway": "fd99::1"}]}
        note("NetworkCreate", "POST", "/networks/create", body={
            "Name": "api", "EnableIPv6": True, "IPAM": ipam, "Labels": {"a": "b"}})
        note("NetworkCreate", "POST", "/networks/create", body={"Name": "api-config", "ConfigOnly": True})
        note("VolumeCreate", "POST", "/volumes/create", body={
            "Name": "api-volume", "Labels": {"a": "b"}, "DriverOpts": {"type": "tmpfs", "device": "tmpfs"}})
        self.engine.must("POST", "/containers/create", {"name": "other"}, {"Image": BUSYBOX})

    def containers(self):
        must, note = self.engine.must, self.note
        note("ContainerCreate", "POST", "/containers/create", {"name": "main"}, bodies.EVERYTHING)
        must("POST", "/containers/main/start")
        self.until(lambda: must("GET", "/containers/main/json")["State"]["Health"]["Log"])
        self.until(lambda: must("GET", "/containers/main/changes"))
        note("ContainerList", "GET", "/containers/json", {"all": 1, "size": 1})
        note("ContainerInspect", "GET", "/containers/main/json", {"size": 1})
        note("ContainerTop", "GET", "/containers/main/top")
        note("ContainerChanges", "GET", "/containers/main/changes")
        note("ContainerStats", "GET", "/containers/main/stats", {"stream": 0})
        note("ContainerUpdate", "POST", "/containers/main/update", body={"CpuShares": 512})
        run = note("ContainerExec", "POST", "/containers/main/exec", body={
            "Cmd": ["true"], "AttachStdout": True, "User": "0"})["Id"]
        note("ExecInspect", "GET", f"/exec/{run}/json")
        must("POST", f"/exec/{run}/start", body={"Detach": True})
        self.until(lambda: must("GET", f"/exec/{run}/json")["ExitCode"] is not None)
        note("ExecInspect", "GET", f"/exec/{run}/json")
        note("NetworkList", "GET", "/networks")
        note("NetworkInspect", "GET", "/networks/api", {"verbose": 1})
        note("NetworkInspect", "GET", "/networks/bridge")
        note("VolumeList", "GET", "/volumes")
        note("VolumeInspect", "GET", "/volumes/api-volume")

    def system(self):
        note = self.note
        note("SystemInfo", "GET", "/info")
        note("SystemVersion", "GET", "/version")
        events = self.engine.must("GET", "/events", {"since": 0, "until": int(time.time()) + 1})
        self.answers["SystemEvents"] = events
        note("SystemDataUsage", "GET", "/system/df", {"verbose": 1})
        index = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Index)
        threading.Thread(target=index.serve_forever, daemon=True).start()
        note("ImageSearch", "GET", "/images/search", {"term": f"127.0.0.1:{index.server_port}/x"})
        index.shutdown()
        note("SystemAuth", "POST", "/auth", body={"username": "u", "password": "p", "serveraddress": "127.0.0.1:5000"})

    def prunes(self):
        must, note = self.engine.must, self.note
        must("POST", "/containers/create", {"name": "gone"}, {"Image": BUSYBOX})
        must("POST", "/containers/main/kill")
        note("ContainerWait", "POST", "/containers/main/wait")
        note("ContainerPrune", "POST", "/containers/prune")
        must("POST", "/networks/create", body={"Name": "gone"})
        note("NetworkPrune", "POST", "/networks/prune")
        note("VolumePrune", "POST", "/volumes/prune", {"filters": json.dumps({"all": ["true"]})})
        note("BuildPrune", "POST", "/build/prune", {"all": 1})
        note("ImagePrune", "POST", "/images/prune", {"filters": json.dumps({"dangling": ["false"]})})

    @staticmethod
    def until(condition):
        deadline = time.monotonic() + 60
        while not condition():
            if time.monotonic() > deadline:
                raise RuntimeError("waited a minute in vain")
            time.sleep(0.02)

    # What one field of a request becomes.

    def container(self, body):
        self.made += 1
        name = f"made-{self.made}"
        self.engine.must("POST", "/containers/create", {"name": name}, {"Image": BUSYBOX, **body})
        shown = self.engine.must("GET", f"/containers/{name}/json")
        self.engine.must("DELETE", f"/containers/{name}", {"v": 1})
        return shown

    def config(self, field, body):
        return self.container(body)["Config"].get(field)

    def host_config(self, field, body):
        return self.container({"HostConfig": body})["HostConfig"].get(field)

    def endpoint(self, field, body):
        endpoints = {"EndpointsConfig": {"api": body}}
        shown = self.container({"HostConfig": {"NetworkMode": "api"}, "NetworkingConfig": endpoints})
        return shown["NetworkSettings"]["Networks"]["api"].get(field)

    def network(self, field, body):
        made = self.engine.must("POST", "/networks/create", body={"Name": "api-field", **body})
        try:
            return self.engine.must("GET", f"/networks/{made['Id']}").get(field)
        finally:
            self.engine.must("DELETE", f"/networks/{made['Id']}")

    def volume(self, field, body):
        made = self.engine.must("POST", "/volumes/create", body={"Name": "api-field", **body})
        try:
            return self.engine.must("GET", f"/volumes/{made['Name']}").get(bodies.VOLUME_SHOWN.get(field, field))
        finally:
            self.engine.must("DELETE", f"/volumes/{made['Name']}")
