"""A daemon, and a registry that is its mirror of the default registry, in a network namespace of their own.

Nothing reaches the internet: the images are made from /bin/busybox. Published ports are connected to from the tests,
so the tests run in the namespace too: `enter_own_network` starts the program over, inside it."""
import io
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time


def enter_own_network():
    """Continues as this same program in a network namespace of its own, with loopback up."""
    if not os.environ.get("CORTEN_OWN_NET"):
        os.environ["CORTEN_OWN_NET"] = "1"
        os.execvp("unshare", ["unshare", "--net", sys.executable, *sys.argv])
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


def busybox_tar(name):
    """A root file system: busybox under all its names, and a few users; no two images are the same."""
    applets = subprocess.run(["/bin/busybox", "--list"], check=True, capture_output=True, text=True).stdout.split()
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        def add(path, mode, data=None, link=None):
            info = tarfile.TarInfo(path)
            info.mode = mode
            if link:
                info.type, info.linkname = tarfile.SYMTYPE, link
            elif data is None:
                info.type = tarfile.DIRTYPE
            else:
                info.size = len(data)
            tar.addfile(info, io.BytesIO(data or b""))

        for directory in "bin etc root home var var/opt var/tmp usr usr/bin usr/sbin sbin dev proc sys mnt".split():
            add(directory, 0o755)
        add("tmp", 0o1777)
        add("etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1::/:/bin/false\n"
            b"postgres:x:70:70::/:/bin/sh\n")
        add("etc/group", 0o644, b"root:x:0:\ndaemon:x:1:\npostgres:x:70:\n")
        add("etc/image", 0o644, name.encode())
        add("bin/busybox", 0o755, pathlib.Path("/bin/busybox").read_bytes())
        for applet in applets:
            if applet != "busybox":
                add(f"bin/{applet}", 0o777, link="busybox")
    return out.getvalue()


class Stand:
    """Use it as a context manager: at its end all containers are removed and both programs ended."""

    def __init__(self, programs, keep=False):
        self.corten, self.keep, self.children = str(programs.resolve() / "corten"), keep, []
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="corten-clients-"))
        self.host = f"unix://{self.directory}/s"

    def __enter__(self):
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_):
        self.stop()

    def spawn(self, name, *args):
        with open(self.directory / f"{name}.log", "wb") as log:
            child = subprocess.Popen([self.corten, *args], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.children.append(child)

    def docker(self, *args, stdin=None):
        """Runs one command of our command line; its error is ours."""
        ran = subprocess.run([self.corten, "-H", self.host, *args], input=stdin, capture_output=True, timeout=300)
        if ran.returncode:
            raise RuntimeError(f"{' '.join(args)}: {ran.stderr.decode(errors='replace')}")
        return ran.stdout.decode().strip()

    def start(self):
        d = self.directory
        self.spawn("registry", "registry", "serve", "--root", f"{d}/registry")
        self.spawn("daemon", "daemon", "-H", self.host, "--data-root", f"{d}/data", "--exec-root", f"{d}/exec",
                   "--pidfile", f"{d}/pid", "--registry-mirror", "http://127.0.0.1:5000")
        deadline = time.monotonic() + 30
        while True:
            try:
                self.docker("version")
                return
            except RuntimeError:
                if time.monotonic() > deadline:
                    raise RuntimeError((d / "daemon.log").read_text()) from None
                time.sleep(0.05)

    def import_busybox(self, image="busybox:latest"):
        self.docker("import", "-c", 'CMD ["/bin/sh"]', "-", image, stdin=busybox_tar(image.split(":")[0]))

    def serve(self, images):
        """Makes these images and puts them into the mirror; the daemon keeps them under their short names."""
        for image in images:
            pushed = f"127.0.0.1:5000/library/{image}"
            self.import_busybox(image)
            self.docker("tag", image, pushed)
            self.docker("push", pushed)
            self.docker("rmi", pushed)

    def stop(self):
        try:
            containers = self.docker("ps", "-aq").split()
            if containers:
                self.docker("rm", "-fv", *containers)
        except (RuntimeError, subprocess.TimeoutExpired) as error:
            print("at the end:", error, file=sys.stderr)
        for child in reversed(self.children):
            child.send_signal(signal.SIGTERM)
        for child in self.children:
            try:
                child.wait(30)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        if self.keep:
            print("kept:", self.directory)
        else:
            shutil.rmtree(self.directory, ignore_errors=True)
