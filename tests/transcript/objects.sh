# images, networks, volumes, system
docker images
docker images -q
docker images --no-trunc
docker images --digests
docker images --format '{{.Repository}}:{{.Tag}} {{.Size}}'
docker images --format json
docker images nope
docker image ls -f dangling=true
docker tag busybox bb:1
docker tag busybox reg.test:5000/a/b:2
docker tag nope x
docker images | sort
docker image inspect -f '{{.Os}} {{.RepoTags}}' bb:1
docker image inspect bb:1 | grep -v -i driver
docker history busybox
docker history --no-trunc -q busybox
docker history -H=false busybox
docker history --format json busybox
docker history nope
docker rmi bb:1 reg.test:5000/a/b:2
docker save -o s.tar busybox
tar tf s.tar | grep -c manifest.json
docker save nope
docker save -o /nonexistent/x busybox
docker load -i s.tar
docker load -q < s.tar
docker load < /dev/null
docker push nope
docker push -q nope
docker pull localhost:1/x
docker pull -q localhost:1/x
echo 'FROM busybox' > Dockerfile; tar cf fs.tar Dockerfile; docker import -m hello -c 'CMD ["x"]' fs.tar im:1
docker image inspect -f '{{.Comment}} {{.Config.Cmd}}' im:1
cat fs.tar | docker import - im:2
docker rmi im:1 im:2
docker network create n1
docker network create --driver bridge --subnet 10.99.0.0/16 --ip-range 10.99.1.0/24 --gateway 10.99.0.1 --aux-address a=10.99.0.5 --label x=y -o com.docker.network.bridge.name=brx9 --internal n2
docker network create n1
docker network ls
docker network ls -q --no-trunc
docker network ls -f name=n1 --format '{{.Name}} {{.Driver}} {{.Scope}} {{.Internal}}'
docker network ls --format json
docker network inspect n2
docker network inspect -f '{{(index .IPAM.Config 0).Subnet}} {{.Labels}}' n2
docker run -d --name w1 --network n1 --network-alias al busybox sleep 100
docker network connect --alias zz n2 w1
docker inspect -f '{{range $k, $v := .NetworkSettings.Networks}}{{$k}} {{end}}' w1
docker ps --format '{{.Networks}}' | tr , '\n' | sort
docker network disconnect n2 w1
docker network disconnect n2 w1
docker network connect nope w1
docker network rm n1
docker rm -f w1
docker network rm n1 nope
docker network rm -f nope
docker network prune -f
echo n | docker network prune
!date +%s.%N > t0
docker volume create v1
docker volume create --label a=b -o type=tmpfs -o device=tmpfs v2
docker volume create v1
docker volume ls
docker volume ls -q
docker volume ls --format '{{.Name}} {{.Driver}} {{.Labels}} {{.Scope}}'
docker volume ls --format json
docker volume inspect v2
docker volume inspect -f '{{.Name}}' v1
docker run --rm -v v1:/data busybox touch /data/x
docker run --rm --mount type=volume,src=v1,dst=/d busybox ls /d
docker volume rm v1
docker volume rm nope
docker volume rm -f nope
docker volume prune -f
echo n | docker volume prune
echo n | docker image prune
echo n | docker image prune -a
echo n | docker system prune
docker image prune -f
docker system prune -f
docker builder prune -f 2>/dev/null
docker system df
docker system df --format '{{.Type}} {{.TotalCount}}'
docker system df -v
docker info -f '{{.ServerVersion}} {{.NCPU}}'
docker info | sed '/^Client/,/^Server/d; s/ Runtimes:.*/ Runtimes:/'
docker version -f '{{.Server.Version}} {{.Server.APIVersion}} {{.Client.APIVersion}}'
docker version | sed '1,/^Server/d'
!sleep 2
docker events --since $(cat t0) --until 0s -f type=volume -f event=create
docker events --since $(cat t0) --until 0s -f type=volume -f event=create --format '{{.Type}} {{.Action}} {{.Actor.ID}}'
docker events --since $(cat t0) --until 0s -f type=volume -f event=create --format json
docker context ls
docker context create foo --docker host=tcp://1.2.3.4:99 --description xx
docker context create foo
docker context create b/r
docker context create bar --docker foo=bar
docker context create copy --from foo
docker context inspect foo
docker context inspect nope
docker context inspect -f '{{.Name}} {{.Endpoints.docker.Host}}' foo
docker context update foo --description zz
docker context update nope --description zz
docker context ls
docker context ls -q
docker context ls --format json
docker context show
docker context use foo
cat .docker/config.json
docker context use nope
docker context use default
cat .docker/config.json
docker context export foo
docker context export foo
docker context import foo2 foo.dockercontext
docker context inspect foo2 -f '{{.Endpoints.docker.Host}}'
docker context rm foo foo2 copy nope
docker context rm default
docker logout
docker logout reg.test
docker login -u a -p b localhost:1
mkdir ctx; printf 'FROM busybox\nARG A=1\nLABEL x=y\nCOPY f /f\nRUN cat /f; echo $A\n' > ctx/Dockerfile; echo hello > ctx/f; echo junk > ctx/j; echo j > ctx/.dockerignore
docker build -t built:1 --build-arg A=2 ctx 2>/dev/null
docker build -q ctx 2>/dev/null
docker build -t built:2 - < ctx/Dockerfile 2>/dev/null
printf 'FROM busybox\nRUN exit 3\n' | docker build - 2>&1 | grep -v -e DEPREC -e 'BuildKit is' -e environment-v -e Sending -e '^$'
tar cf - -C ctx . | docker build -t built:3 - 2>/dev/null
cp ctx/Dockerfile Other; docker build -f Other -t built:4 ctx 2>/dev/null | grep -v Sending
docker build --iidfile iid -f ctx/Dockerfile ctx >/dev/null 2>&1; cut -c1-7 iid
docker build --target nope ctx 2>&1 | grep -v -e DEPREC -e 'BuildKit is' -e environment-v -e Sending -e '^$'
docker build -f nope ctx 2>&1 | grep -v -e DEPREC -e 'BuildKit is' -e environment-v -e Sending -e '^$'
docker build empty 2>&1 | grep -v -e DEPREC -e 'BuildKit is' -e environment-v -e Sending -e '^$'
!docker rmi -f built:1 built:2 built:3 built:4
docker build --compress -t built:5 ctx 2>/dev/null | grep -v Sending
docker tag built:5 built:6
docker run -d --name used built:5 sleep 100
docker image ls --tree | sed 's/\x1b\[[0-9;]*m//g'
docker image ls --tree built:6 | sed 's/\x1b\[[0-9;]*m//g'
docker image ls --tree -q
docker image ls --tree --no-trunc
docker image ls --tree --digests
docker image ls --tree --format json
docker image inspect --platform linux/amd64 -f '{{.Architecture}} {{.RepoTags}}' built:5
docker image inspect --platform linux/s390x -f '{{.Architecture}}' built:5
docker image inspect --platform bad/x/y/z built:5
docker save --platform linux/amd64 built:5 | tar tf - | grep -c blobs
docker save --platform linux/s390x built:5
docker image rm --platform linux/s390x built:5
docker image push --platform linux/amd64 localhost:1/x
docker history --platform linux/amd64 -q built:5 | wc -l
docker rm -f used
!docker rmi -f built:5 built:6
!mkdir -p .docker/cli-plugins; printf '#!/bin/sh\necho "{\\"SchemaVersion\\": \\"0.1.0\\", \\"Vendor\\": \\"V\\", \\"Version\\": \\"v1\\", \\"ShortDescription\\": \\"Says hello\\"}"\n[ "$1" = docker-cli-plugin-metadata ] || echo "hello $* ${DOCKER_CLI_PLUGIN_ORIGINAL_CLI_COMMAND##*/}"\n' > .docker/cli-plugins/docker-hello; chmod +x .docker/cli-plugins/docker-hello
docker hello --world | tail -1
docker -D hello -x y | tail -1
docker help | grep hello
docker info -f '{{range .ClientInfo.Plugins}}{{.Name}} {{.Version}}{{end}}'
docker info | grep -A3 Plugins: | head -4
!rm -r .docker/cli-plugins
!printf '{"proxies": {"default": {"httpProxy": "http://p.test:3128", "noProxy": "a,b"}}, "psFormat": "{{.Names}}!", "HttpHeaders": {"X-A": "b"}, "detachKeys": "ctrl-x"}' > .docker/config.json
docker run --rm busybox env | grep -i proxy | sort
docker run --rm -e HTTP_PROXY=mine busybox env | grep -i proxy | sort
printf 'FROM busybox\nRUN env | grep -i proxy | sort\n' | docker build --no-cache - 2>/dev/null | grep -i 'proxy='
docker run -d --name fmt busybox sleep 100
docker ps
docker rm -f fmt
!rm .docker/config.json
!mkdir -p bin; printf '#!/bin/sh\ncat > last-$1; [ $1 = get ] && echo "{\\"ServerURL\\": \\"x\\", \\"Username\\": \\"u\\", \\"Secret\\": \\"s\\"}"; exit 0\n' > docker-credential-test; chmod +x docker-credential-test
printf '{"credsStore": "test"}' > .docker/config.json; PATH=$PWD:$PATH docker logout reg.test; cat last-erase; cat .docker/config.json
!rm .docker/config.json
