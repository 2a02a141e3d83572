# errors of the command line itself
docker ps --foo
docker run
docker run --foo
docker run -X busybox
docker run -itX busybox
docker run --name
docker run -e
docker run -m abc busybox
docker run --rm=foo busybox
docker foo
docker container foo
docker ps a
docker inspect
docker rename a
docker rename a b c
docker volume ls x
docker volume create a b
docker port
docker port a b c
docker history
docker run --memory-swappiness x busybox
docker run --memory-swappiness 200 busybox
docker run --pull foo busybox
docker run -p x busybox
docker run -p 1.2.3:80:80 busybox
docker run -p 80/foo busybox
docker run -p 8000-8002:80-81 busybox
docker run -p x:80 busybox
docker run --expose x busybox
docker run --expose 80:80 busybox
docker run --mount foo busybox
docker run --mount type=bind,foo=bar busybox
docker run --mount type=bind,src=/x busybox
docker run --mount type=bind,dst=/x,volume-nocopy busybox
docker run --mount type=tmpfs,dst=/x,tmpfs-size=q busybox
docker run --mount '' busybox
docker --foo
docker -X
docker system foo
docker run --cpus x busybox
docker run --stop-timeout x busybox
docker run ---x
docker run --=x
docker run --health-interval 5 busybox
docker run --health-interval 5q busybox
docker run -d=x busybox
docker ps -n x
docker ps -n
docker help foo
docker ps -aqz
docker network connect x
docker cp a
docker cp a b
docker cp a:b c:d
docker tag a
docker run --ulimit foo busybox
docker run --ulimit foo=1 busybox
docker run --ulimit nofile=x busybox
docker run --ulimit nofile=3:2 busybox
docker run --ulimit nofile=3:2:1 busybox
docker run --add-host foo busybox
docker run --add-host foo:bar busybox
docker run --device /dev/null:/dev/x:q busybox
docker run --device-cgroup-rule foo busybox
docker run --device-read-bps foo busybox
docker run --device-read-bps /dev/x:y busybox
docker run --device-read-iops /dev/x:y busybox
docker run --blkio-weight-device x busybox
docker run --blkio-weight 70000 busybox
docker run --restart foo:x busybox
docker run --restart always --rm busybox
docker run -d -a stdout busybox
docker run -a foo busybox
docker run --env-file /nonexistent busybox
docker run --label-file /nonexistent busybox
docker run --label =x busybox
docker run -e =x busybox
docker run --network name=x,foo=bar busybox
docker run --network alias=x busybox
docker run --network-alias x busybox
docker run --ip x busybox
docker run --dns x busybox
docker run --mac-address zz busybox
docker run --pid foo busybox
docker run --uts foo busybox
docker run --userns foo busybox
docker run --cgroupns foo busybox
docker run --security-opt foo busybox
docker run --security-opt seccomp=/nonexistent busybox
docker run --log-driver none --log-opt a=b busybox
docker run -v '' busybox
docker run -v a:b:c:d busybox
docker run -v :/x busybox
docker run --no-healthcheck --health-cmd x busybox
docker run --health-retries -1 busybox
docker run BUSYBOX
docker run busybox:-x
docker run --gpus foo=bar busybox
docker run --shm-size x busybox
docker run --memory-swap x busybox
docker run --pids-limit x busybox
docker run --oom-score-adj x busybox
docker run -t -i busybox
docker ps -f foo
docker image ls --filter x
docker ps --format '{{.Foo}}'
docker ps --format '{{.Foo'
docker images --format '{{foo}}'
docker stop -t x a
docker logs --tail
docker login -u x
docker update x
docker network create --subnet foo x
docker network create --gateway 1.2.3.4 x
docker network create --subnet 10.1.0.0/16 --gateway 10.2.0.1 x
docker network create --subnet 10.1.0.0/16 --subnet 10.1.1.0/24 x
docker network create
docker volume create -d
docker inspect --type foo x
docker tag BAD x
docker pull BAD
docker pull -a busybox:x
docker push -a busybox:x
docker commit x BAD
docker build
docker build /nonexistent
docker build -t BAD .
docker -H foo://x ps
docker -H unix:///nonexistent ps
docker -H unix:///nonexistent run busybox
docker -H unix:///nonexistent version --format '{{.Client.APIVersion}}'
docker -c nope ps
docker save
docker load -i /nonexistent
docker import /nonexistent
docker export
docker rm
docker system prune --volumes --filter until=1h
docker image inspect --platform
docker images --tree=x
docker login -u x --password-stdin --password y
docker login --password-stdin
docker search
docker logout a b
docker system df -x
docker builder prune x
docker builder foo
docker context use
docker context rm
docker context export
docker container prune --filter
docker network prune x
docker inspect --type=volume --size nope
