# less common forms
docker run -d --name h1 --health-cmd true --health-interval 1s busybox sleep 100
until docker ps | grep -q healthy; do sleep 0.1; done; docker ps --format '{{.Status}}'
docker inspect -f '{{.State.Health.Status}} {{len .State.Health.Log}}' h1
docker inspect -f '{{range .State.Health.Log}}{{.ExitCode}} {{end}}' h1 | cut -c1
docker ps -f health=healthy --format '{{.Names}}'
docker run -d --name p1 -p 18081:80 -p 18082:81/udp -p 127.0.0.1:18090-18092:90-92 --expose 99 busybox sleep 100
docker ps -f name=p1 --format '{{.Ports}}'
docker port p1
docker run -d --name p2 -P --expose 80 busybox sleep 100
docker port p2 | sed 's/:[0-9]*$//'
docker ps -a -f exited=0 --format '{{.Names}}'
docker ps -f badfilter=x
docker ps -f label=x --format 'table {{.ID}}\t{{.Label "x"}}'
docker run -d --name l1 -l x=y -l com.test.some-label=z busybox sleep 100
docker ps -f label=x --format 'table {{.Names}}\t{{.Label "x"}}\t{{.Label "com.test.some-label"}}'
docker ps --no-trunc --format '{{.Command}}' -f name=l1
docker ps --format '{{.Names}}: {{.Mounts}} {{.LocalVolumes}}' -f name=l1
docker run -d --name v1 -v /data -v named:/n -v /tmp:/t:ro busybox sleep 100
docker ps --format '{{.LocalVolumes}}' -f name=v1
docker inspect -f '{{range .Mounts}}{{.Type}} {{.Destination}} {{.RW}} {{.Mode}}|{{end}}' v1 | tr '|' '\n' | sort
docker inspect -f '{{range .HostConfig.Binds}}{{println .}}{{end}}' v1 | sort
docker volume ls -f dangling=true -q
docker volume rm named
docker rm -fv v1
docker run --rm --volumes-from nope busybox
docker run -d --name r1 --restart on-failure:2 busybox false
until docker inspect -f '{{.RestartCount}} {{.State.Status}}' r1 | grep -q '2 exited'; do sleep 0.1; done; docker inspect -f '{{.RestartCount}} {{.State.ExitCode}} {{.HostConfig.RestartPolicy.Name}}' r1
docker top l1 | sed 's/[0-9]\{2,\}/N/g'
docker top l1 aux | wc -l
docker top nope
docker exec -w /nonexistent l1 pwd
docker exec -u nosuchuser l1 id
docker exec l1 sh -c 'echo a; echo b >&2'
docker exec -t l1 tty
docker run --rm -t busybox tty
docker run --rm -t busybox sh -c 'echo x; exit 3'
docker run --rm busybox sh -c 'echo $HOSTNAME | wc -c'
docker run --rm --name dup -d busybox sleep 50
docker run --rm --name dup busybox true
docker rename dup 'bad name'
docker stop -t 0 dup
docker wait l1 > w & sleep 0.5; docker kill l1; wait; cat w
docker start l1
docker restart -t 0 l1
docker pause l1; docker exec l1 true
docker stop -t 0 l1
docker unpause l1; docker stop -t 0 l1
docker logs --since 2000-01-01 l1
docker logs --since 2000-01-01T00:00:00Z --until 2000-01-02T00:00:00 l1
docker rm p1
docker rm -f p1 p2 h1 l1 r1
docker create --name c2 busybox sh -c 'echo hi; sleep 0.1; exit 9'
docker start -a c2
docker start -i c2
docker inspect -f '{{.State.Status}} {{.State.ExitCode}}' c2
docker ps -a --format '{{.Names}} {{.Status}}' | sed 's/[0-9]* seconds\?/N s/; s/Less than a second/N s/'
docker diff c2
docker cp c2:/etc/passwd - > x.tar; tar tvf x.tar | awk '{print $1, $2, $NF}'
docker commit --pause=false c2 cm:1
docker inspect -f '{{.Config.Cmd}} {{.Os}}/{{.Architecture}}' cm:1
docker inspect --type image -f '{{.RepoTags}}' cm:1
docker inspect --type container cm:1
docker inspect --type volume cm:1
docker rmi cm:1
docker image rm nope:1 nope:2
docker rm c2
docker network create --ipv6 --subnet fd99::/64 n6
docker network inspect -f '{{.EnableIPv6}} {{(index .IPAM.Config 0).Subnet}}' n6
docker network create --subnet 10.98.0.0/16 ns
docker run --rm --network ns --ip 10.98.0.77 busybox ip -4 -o addr show eth0 | awk '{print $4}'
docker run --rm --network ns --ip 1.2.3.4 busybox true
docker run --rm --network bridge --ip 172.17.0.99 busybox true
docker run -d --name a1 --network ns busybox sleep 50
docker run --rm --network ns busybox nslookup a1 | grep -c 10.98
docker run --rm --network container:a1 busybox hostname | wc -c
docker network rm ns
docker network disconnect -f ns a1
docker rm -f a1
docker network rm ns n6
docker network rm bridge
docker network create host
docker network create -d nosuch x
docker volume create -d nosuch x
docker volume create 'bad/name'
docker volume create x -o type=tmpfs -o device=tmpfs -o o=size=1m
docker run --rm -v x:/x busybox df /x
docker volume inspect x --format '{{json .Options}}'
docker volume rm x
docker run --rm --memory 6m busybox true
docker run --rm --memory 1m busybox true
docker run --rm --cpus 1000 busybox true
docker run --rm --cap-add FOO busybox true
docker run --rm --security-opt no-new-privileges busybox grep NoNewPrivs /proc/self/status
docker run --rm --sysctl net.ipv4.ip_forward=0 busybox cat /proc/sys/net/ipv4/ip_forward
docker run --rm --sysctl bad.key=0 busybox true
docker run --rm --device /dev/nosuch busybox true
docker run --rm --ulimit nofile=100:200 busybox sh -c 'ulimit -n; ulimit -Hn'
docker run --rm --shm-size 1m busybox df /dev/shm | awk 'NR>1 {print $2}'
docker run --rm --add-host foo:1.2.3.4 busybox grep foo /etc/hosts
docker run --rm --dns 9.9.9.9 --dns-search a.b --dns-option ndots:2 busybox cat /etc/resolv.conf | grep -v '^#'
docker run --rm --hostname hh --domainname dd busybox sh -c 'hostname; cat /proc/sys/kernel/domainname'
docker run --rm -e A=1 -e B busybox env | sort | grep -v HOSTNAME
docker run --rm --init busybox ps -o pid,comm
docker run --rm --pid host busybox sh -c 'test $$ -gt 1 && echo host'
docker run --rm --network none busybox ls /sys/class/net
docker run --rm --user nosuch busybox true
docker run --rm --user 1:2 busybox id
docker run --rm --group-add 77 busybox id -G
docker run --rm -w /made/up busybox pwd
docker run --rm -v /nonexistent-$$/x:/x busybox ls /x; rmdir /nonexistent-*/x /nonexistent-* 2>/dev/null
docker run --rm --mount type=bind,src=/nonexistent,dst=/x busybox true
docker run --rm -v rel/path:/x busybox true
docker run --rm -v /a:relative busybox true
docker run --rm --tmpfs /t:size=1m busybox df /t | awk 'NR>1 {print $2}'
docker run --rm --read-only busybox touch /x
docker run --rm --log-driver nosuch busybox true
docker run --rm --log-driver none busybox echo hi
docker run -d --name ln --log-driver none busybox echo hi
docker logs ln
docker rm -f ln
docker run --rm --runtime nosuch busybox true
docker run --rm --isolation hyperv busybox true
docker run --rm --platform linux/arm64 busybox true
docker run --rm --stop-signal FOO busybox true
docker run --rm --ipc foo busybox true
docker run --rm --entrypoint '' busybox echo x
docker run --rm --entrypoint /nope busybox
docker run --rm --entrypoint /etc/passwd busybox
docker run --rm busybox sh -c 'exit 127'
docker run --rm -p 127.0.0.1:0:80 busybox true
docker run -d --name q1 -p 127.0.0.1:18099:80 busybox sleep 50
docker run --rm -p 127.0.0.1:18099:80 busybox true
docker rm -f q1
docker save busybox | tar tf - | grep -v -e '^blobs' -e '/' | sort
docker image prune -f --filter until=24h
docker container prune -f --filter foo=bar
docker search x --limit 1000
