# the life of containers
docker run --rm busybox echo hi
docker run --rm busybox sh -c 'echo out; echo err >&2; exit 7'
echo input | docker run --rm -i busybox cat
docker run --rm busybox nope
docker run --rm busybox /etc
docker run -d --name c1 -p 127.0.0.1:18080:80 -l a=b --label c -e X=1 busybox sleep 1000
docker ps
docker ps -q
docker ps -a --no-trunc
docker ps -s
docker ps --format '{{.Names}} {{.Image}} {{.Labels}} {{.Ports}} {{.State}} {{.Label "a"}}'
docker ps --format 'table {{.Names}}\t{{.Status}}'
docker ps --format '{{json .Names}}'
docker ps --format json
docker ps --format raw
docker ps -f name=c1 -f status=running --format '{{.Names}}'
docker ps -f name=nope
docker ps -n 1 --format '{{.Names}}'
docker ps -l --format '{{.Names}}'
docker ps --format '{{upper .Names}} {{title .Image}} {{truncate .Image 3}} {{pad .Names 1 2}} {{join (split .Image "s") "-"}} {{println .Names}}'
docker inspect -f '{{.Name}} {{.State.Status}} {{.Config.Image}} {{.HostConfig.NetworkMode}}' c1
docker inspect -f '{{json .Config.Labels}}' c1
docker inspect -f '{{json .HostConfig.PortBindings}}' c1
docker inspect -f '{{range $k, $v := .NetworkSettings.Ports}}{{$k}}={{(index $v 0).HostPort}}{{end}}' c1
docker inspect -f '{{.Foo}}' c1
docker inspect -f '{{.State.Foo}}' c1
docker inspect -f '{{.Foo' c1
docker inspect -f '{{foo .}}' c1
docker inspect -f '{{if .State.Health}}x{{else}}none{{end}}' c1
docker inspect -f '{{.State.Running}} {{.RestartCount}} {{len .Mounts}}' c1
docker inspect -f '{{.Config.Env}}' c1
docker inspect -f '{{index .Config.Env 0}}' c1
docker inspect -f '{{.Config.Labels}}' c1
docker inspect c1 | sed -E 's/"(Pid|Gateway|IPAddress|MacAddress|SandboxKey|SandboxID|EndpointID|NetworkID)": .*/"\1"/'
docker inspect c1 nope
docker inspect nope
docker inspect -f '{{.Id}}' nope
docker container inspect nope
docker image inspect nope
docker network inspect nope
docker volume inspect nope
docker inspect -s -f '{{.SizeRw}}' c1
docker port c1
docker port c1 80
docker port c1 80/tcp
docker port c1 81
docker port c1 x
docker top c1 -o pid,args | sed 's/[0-9]\{2,\}/N/'
docker exec c1 echo hi
docker exec c1 sh -c 'exit 5'
docker exec c1 nope
docker exec -e A=b -w /tmp -u 1000 c1 sh -c 'echo $A; pwd; id -u'
echo in | docker exec -i c1 cat
docker exec -d c1 touch /made
docker exec -it c1 sh
docker exec nope x
docker exec c1
docker exec --env-file /nonexistent c1 x
docker diff c1
docker logs c1
docker run --name l1 busybox sh -c 'echo a; echo b >&2; echo c'
docker logs l1
docker logs --tail 1 l1
docker logs -t l1
docker logs -f --since 1h l1
docker logs --since bad l1
docker logs --until 1h l1
docker logs nope
docker start -a l1
docker start l1 nope
docker wait l1
docker wait nope
docker attach l1
docker attach nope
docker rename l1 l2
docker rename l2 c1
docker rename l2 ' '
docker pause c1
docker pause c1
docker ps --format '{{.Status}}'
docker unpause c1
docker unpause c1
docker update -m 100m --memory-swap 200m c1
docker update --restart always c1
docker update c1
docker update -m 100m nope
docker stats --no-stream --format '{{.Name}} {{.PIDs}} {{.Container}}' c1
docker stats --no-stream nope
docker cp /etc/hostname c1:/tmp/x
docker exec c1 ls /tmp
docker cp c1:/etc/passwd pw
cat pw
docker cp c1:/etc/passwd - | tar tf -
docker cp c1:/etc dir
ls dir
docker cp c1:/etc/. dir
ls dir
docker cp c1:/nope .
docker cp /nope c1:/
docker cp c1:/etc/passwd /nonexistent/x
docker cp c1:/etc pw
mkdir -p d/e && echo 1 > d/e/f && docker cp d c1:/tmp
docker exec c1 find /tmp/d
docker cp d/. c1:/tmp/dd
docker exec c1 find /tmp/dd
docker cp d c1:/etc/passwd
docker cp pw c1:/nodir/
docker cp pw nope:/
tar cf - d | docker cp - c1:/tmp/d
docker exec c1 find /tmp/d
docker cp -q pw c1:/tmp/q
docker cp -L c1:/bin/sh shell
docker cp c1:/bin/sh link
test -L link && echo link
docker export c1 | tar tf - | grep -c passwd
docker export -o out.tar c1
test -s out.tar && echo saved
docker export -o /nonexistent/x c1
docker export nope
docker commit -m msg -a me -c 'ENV A=b' c1 snap:1
docker commit nope x
docker images snap
docker history --format '{{.Comment}}' snap:1
docker rmi snap:1
docker rmi nope
docker rmi -f nope
docker kill -s TERM c1
docker kill nope
docker kill -s FOO c1
docker stop -t 1 c1
docker stop nope
docker restart -t 1 c1
docker restart nope
docker rm c1
docker rm -f c1
docker rm c1
docker rm -f c1
docker rm l2 nope
docker create --name k --cidfile cid busybox true
wc -c < cid
docker create --cidfile cid busybox true
docker create --name k busybox
docker start -ai k
docker rm k
docker run -d nope
docker run --pull never nope
docker run --name bad --network nope busybox
docker run --rm -v /tmp:/x:ro busybox touch /x/y
docker run --rm --user 5 --hostname h busybox sh -c 'id -u; hostname'
docker run --rm -w /tmp --entrypoint pwd busybox
docker run --rm --read-only --tmpfs /t busybox sh -c 'touch /t/x && touch /y'
docker run --rm --sig-proxy=false busybox kill -9 1
docker run --rm busybox sh -c 'kill -9 $$; sleep 1'
docker run --rm -d --name r busybox sleep 100
docker rm -f r
docker container ls -a
docker container prune -f
echo n | docker container prune
