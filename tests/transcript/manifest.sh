# manifest lists, against a registry of our own; what one client pushed the other finds again
!docker tag busybox 127.0.0.1:5000/m/app:amd64; docker push -q 127.0.0.1:5000/m/app:amd64; docker tag busybox 127.0.0.1:5000/m/other:1; docker push -q 127.0.0.1:5000/m/other:1
!docker export $(docker create busybox) | docker import --platform linux/arm64/v8 - 127.0.0.1:5000/m/app:arm64; docker push -q 127.0.0.1:5000/m/app:arm64
docker manifest create --insecure 127.0.0.1:5000/m/app:1 127.0.0.1:5000/m/app:amd64 127.0.0.1:5000/m/app:arm64
docker manifest create --insecure 127.0.0.1:5000/m/app:1 127.0.0.1:5000/m/app:amd64
docker manifest create --insecure -a 127.0.0.1:5000/m/app:1 127.0.0.1:5000/m/other:1
docker manifest create BAD x
docker manifest create --insecure 127.0.0.1:5000/m/app:2 BAD
docker manifest create one
docker manifest inspect 127.0.0.1:5000/m/app:1
docker manifest inspect -v 127.0.0.1:5000/m/app:1 | grep -v '"Raw"'
docker manifest inspect 127.0.0.1:5000/m/app:1 127.0.0.1:5000/m/app:arm64
docker manifest inspect 127.0.0.1:5000/m/app:1 127.0.0.1:5000/m/app:nope
docker manifest inspect --insecure 127.0.0.1:5000/m/app:amd64
docker manifest inspect --insecure -v 127.0.0.1:5000/m/app:arm64 | grep -v '"Raw"'
docker manifest inspect --insecure 127.0.0.1:5000/m/nope:1
docker manifest annotate --arch arm64 --variant v9 --os-features x,y --os-version 1.2 127.0.0.1:5000/m/app:1 127.0.0.1:5000/m/app:arm64
docker manifest annotate --os linux --arch nope 127.0.0.1:5000/m/app:1 127.0.0.1:5000/m/app:arm64
docker manifest annotate 127.0.0.1:5000/m/app:1 127.0.0.1:5000/m/app:nope
docker manifest annotate 127.0.0.1:5000/m/nope:1 x
docker manifest annotate 127.0.0.1:5000/m/app:1
docker manifest inspect 127.0.0.1:5000/m/app:1 | grep -A8 arm64
find .docker/manifests -type f | sort
docker manifest push --insecure 127.0.0.1:5000/m/app:1
docker manifest push --insecure -p 127.0.0.1:5000/m/app:1
docker manifest push --insecure 127.0.0.1:5000/m/app:1
docker manifest inspect --insecure 127.0.0.1:5000/m/app:1
docker manifest inspect --insecure -v 127.0.0.1:5000/m/app:1 | grep Ref
docker manifest create --insecure 127.0.0.1:5000/m/app:3 127.0.0.1:5000/m/app:1
docker manifest create --insecure example.test/m/app:3 127.0.0.1:5000/m/app:amd64
docker manifest push --insecure example.test/m/app:3
docker manifest rm example.test/m/app:3
docker manifest rm example.test/m/app:3 nope
docker manifest rm
docker manifest push
docker manifest inspect
# docker shows the repositories of one image in random order: none is left with several.
!docker rmi -f 127.0.0.1:5000/m/app:amd64 127.0.0.1:5000/m/app:arm64 127.0.0.1:5000/m/other:1
