"""A value for every field that a request may have: sent alone, and looked for where the object is inspected."""

DEVICE_RATE = [{"Path": "/dev/null", "Rate": 1048576}]

# Field -> value, or (value, what must be sent beside it).
CONFIG = {
    "Hostname": "h1", "Domainname": "d1.test", "User": "1:2", "AttachStdin": True, "AttachStdout": True,
    "AttachStderr": True, "ExposedPorts": {"80/tcp": {}}, "Tty": True, "OpenStdin": True, "StdinOnce": True,
    "Env": ["A=1", "B"], "Cmd": ["a", "b"],
    "Healthcheck": {"Test": ["CMD", "true"], "Interval": 3000000000, "Timeout": 2000000000, "Retries": 4,
                    "StartPeriod": 5000000000, "StartInterval": 1000000000},
    "ArgsEscaped": True, "Image": "busybox:latest", "Volumes": {"/v": {}}, "WorkingDir": "/w", "Entrypoint": ["/e"],
    "NetworkDisabled": True, "OnBuild": ["RUN x"], "Labels": {"l": "v"}, "StopSignal": "SIGUSR1", "StopTimeout": 3,
    "Shell": ["/bin/sh", "-x"],
}

HOST = {
    "CpuShares": 512, "Memory": 67108864, "CgroupParent": "/corten-api-test", "BlkioWeight": 300,
    "BlkioWeightDevice": [{"Path": "/dev/null", "Weight": 200}], "BlkioDeviceReadBps": DEVICE_RATE,
    "BlkioDeviceWriteBps": DEVICE_RATE, "BlkioDeviceReadIOps": DEVICE_RATE, "BlkioDeviceWriteIOps": DEVICE_RATE,
    "CpuPeriod": 100000, "CpuQuota": 50000, "CpuRealtimePeriod": 1000000, "CpuRealtimeRuntime": 10000,
    "CpusetCpus": "0", "CpusetMems": "0",
    "Devices": [{"PathOnHost": "/dev/null", "PathInContainer": "/dev/n", "CgroupPermissions": "r"}],
    "DeviceCgroupRules": ["c 1:3 rwm"],
    "DeviceRequests": [{"Driver": "cdi", "Count": 0, "DeviceIDs": ["a.test/b=c"], "Capabilities": None,
                        "Options": None}],
    "MemoryReservation": 33554432, "MemorySwap": (134217728, {"Memory": 67108864}), "MemorySwappiness": 10,
    "NanoCpus": 500000000, "OomKillDisable": True, "Init": True, "PidsLimit": 50,
    "Ulimits": [{"Name": "nofile", "Soft": 10, "Hard": 20}], "CpuCount": 2, "CpuPercent": 50, "IOMaximumIOps": 9,
    "IOMaximumBandwidth": 8, "Binds": ["/tmp:/t:ro"], "ContainerIDFile": "/x",
    "LogConfig": {"Type": "local", "Config": {"max-size": "1m"}}, "NetworkMode": "host",
    "PortBindings": {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8080"}]},
    "RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 3}, "AutoRemove": True, "VolumeDriver": "local",
    "VolumesFrom": ["other:ro"],
    "Mounts": [
        {"Type": "volume", "Source": "api-volume", "Target": "/a", "ReadOnly": True,
         "VolumeOptions": {"NoCopy": True, "Labels": {"a": "b"}, "Subpath": "x", "DriverConfig": {"Name": "local"}}},
        {"Type": "bind", "Source": "/tmp", "Target": "/b", "Consistency": "cached",
         "BindOptions": {"Propagation": "rslave", "NonRecursive": True, "CreateMountpoint": True}},
        {"Type": "bind", "Source": "/tmp", "Target": "/c", "ReadOnly": True,
         "BindOptions": {"Propagation": "rprivate", "ReadOnlyForceRecursive": True}},
        {"Type": "tmpfs", "Target": "/d",
         "TmpfsOptions": {"SizeBytes": 1048576, "Mode": 448, "Options": [["noexec"]]}},
        {"Type": "image", "Source": "busybox:latest", "Target": "/e", "ImageOptions": {"Subpath": "bin"}},
    ],
    "ConsoleSize": [24, 80], "Annotations": {"a.test": "b"}, "CapAdd": ["CAP_NET_ADMIN"], "CapDrop": ["CAP_CHOWN"],
    "CgroupnsMode": "host", "Dns": ["192.0.2.1"], "DnsOptions": ["ndots:2"], "DnsSearch": ["x.test"],
    "ExtraHosts": ["a:192.0.2.2"], "GroupAdd": ["5"], "IpcMode": "shareable", "Cgroup": "", "Links": ["/other:/o"],
    "OomScoreAdj": 100, "PidMode": "host", "Privileged": True, "PublishAllPorts": True, "ReadonlyRootfs": True,
    "SecurityOpt": ["no-new-privileges"], "StorageOpt": {"size": "1G"}, "Tmpfs": {"/t": "size=1m"},
    "UTSMode": "host", "UsernsMode": "host", "ShmSize": 1048576, "Sysctls": {"net.ipv4.ip_forward": "1"},
    "Runtime": "runc", "Isolation": "default", "MaskedPaths": ["/proc/kcore"], "ReadonlyPaths": ["/proc/sys"],
}

ENDPOINT = {
    "IPAMConfig": {"IPv4Address": "10.99.0.9", "IPv6Address": "fd99::9", "LinkLocalIPs": ["169.254.9.9"]},
    "Links": ["other:o"], "MacAddress": "02:00:00:00:00:09", "Aliases": ["alias"], "DriverOpts": {"a.test": "b"},
    "GwPriority": 7,
}

NETWORK = {
    "Driver": "bridge", "Scope": "local", "Internal": True, "Attachable": True, "Ingress": False, "ConfigOnly": True,
    "IPAM": {"Driver": "default", "Options": {"a": "b"},
             "Config": [{"Subnet": "10.98.0.0/16", "IPRange": "10.98.1.0/24", "Gateway": "10.98.0.7",
                         "AuxiliaryAddresses": {"a": "10.98.0.8"}}]},
    "EnableIPv4": True, "EnableIPv6": (True, {"IPAM": {"Config": [{"Subnet": "fd98::/64"}]}}),
    "Options": {"com.docker.network.bridge.name": "apibr0"}, "Labels": {"l": "v"},
    "ConfigFrom": {"Network": "api-config"},
}

VOLUME = {
    "Name": "api-named", "Driver": "local", "DriverOpts": {"type": "tmpfs", "device": "tmpfs"}, "Labels": {"l": "v"},
}
# Where VolumeInspect has another name for it.
VOLUME_SHOWN = {"DriverOpts": "Options"}

# A container with all that its answers can show.
EVERYTHING = {
    "Image": "busybox:latest", "Cmd": ["sh", "-c", "echo hello; touch /made; while :; do sleep 1; done"],
    "ExposedPorts": {"80/tcp": {}}, "Labels": {"a": "b"}, "StopTimeout": 1, "StopSignal": "SIGTERM",
    "OnBuild": ["RUN x"], "Shell": ["/bin/sh"], "NetworkDisabled": False,
    "Healthcheck": {**CONFIG["Healthcheck"], "Test": ["CMD", "true"], "Interval": 100000000,
                    "StartInterval": 100000000},
    "HostConfig": {
        "NetworkMode": "api", "Memory": 67108864, "ShmSize": 1048576, "Init": True, "PidsLimit": 100,
        "PortBindings": {"80/tcp": [{"HostPort": "8080"}]}, "Annotations": {"a.test": "b"}, "Tmpfs": {"/t": "size=1m"},
        "Sysctls": {"net.ipv4.ip_forward": "1"},
        "Mounts": [HOST["Mounts"][1], HOST["Mounts"][3], HOST["Mounts"][4],
                   {"Type": "volume", "Source": "api-volume", "Target": "/a", "ReadOnly": True,
                    "VolumeOptions": {"NoCopy": True, "Labels": {"a": "b"}, "DriverConfig": {"Name": "local"}}}],
    },
    "NetworkingConfig": {"EndpointsConfig": {"api": {
        "IPAMConfig": {"IPv4Address": "10.99.0.8", "IPv6Address": "fd99::8", "LinkLocalIPs": ["169.254.9.8"]},
        "Aliases": ["alias"], "DriverOpts": {"a.test": "b"}, "GwPriority": 7}}},
}
