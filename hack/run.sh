#!/bin/bash
# Builds cridock, runs it on this machine's Docker and shows a pod.
#
#   sudo hack/run.sh
#
# It installs missing packages with apt. It uses the running Docker Engine, and
# starts dockerd only if none answers. Without a CNI configuration, pods join
# Docker's bridge. cridock keeps running afterwards: the last lines say how to use
# and stop it. It can be run again at any time.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. hack/lib.sh

socket=${DOCKER_SOCKET:-/var/run/docker.sock}
run=/run/cridock
endpoint=unix://$run/cridock.sock
pidfile=$run/cridock.pid
logfile=/var/log/cridock.log
image=busybox:cridock

need_root
find_go
install_missing docker.io iptables curl jq busybox-static

if docker_answers "$socket" >/dev/null; then
	log "using the Docker Engine at $socket"
else
	log "no Docker Engine answers at $socket: starting dockerd, its log is /var/log/dockerd.log"
	if [ -d /run/systemd/system ]; then
		systemctl start docker
	else
		setsid dockerd --host "unix://$socket" >>/var/log/dockerd.log 2>&1 </dev/null &
		disown
	fi
	wait_for 60 docker_answers "$socket" || die "dockerd did not start, see /var/log/dockerd.log"
fi

log "building bin/cridock"
CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=$(git describe --always --dirty 2>/dev/null || echo dev)" -o bin/cridock ./cmd/cridock
CGO_ENABLED=0 go build -trimpath -o bin/demo ./hack/demo

if [ -s "$pidfile" ] && [ "$(readlink "/proc/$(cat "$pidfile")/exe" 2>/dev/null | sed 's/ (deleted)$//')" = "$PWD/bin/cridock" ]; then
	log "stopping the cridock of an earlier run; its pods keep running"
	kill "$(cat "$pidfile")"
	wait_for 30 test ! -e "/proc/$(cat "$pidfile")" || die "process $(cat "$pidfile") does not stop"
fi

curl -sf --unix-socket "$socket" "http://docker/images/$image/json" >/dev/null || {
	log "importing a busybox image as $image"
	import_busybox "$socket" "$image" >/dev/null
}

network=(--network-plugin=docker)
if ls /etc/cni/net.d/*.conf /etc/cni/net.d/*.conflist >/dev/null 2>&1; then
	log "pods use the CNI configuration in /etc/cni/net.d"
	network=(--network-plugin=cni)
else
	log "no CNI configuration in /etc/cni/net.d: pods join Docker's bridge"
fi

log "starting bin/cridock, its log is $logfile"
mkdir -p "$run"
setsid bin/cridock serve --container-runtime-endpoint "$endpoint" --docker-endpoint "unix://$socket" "${network[@]}" --v=2 >>"$logfile" 2>&1 </dev/null &
echo $! >"$pidfile"
disown
wait_for 30 test -S "$run/cridock.sock" || die "cridock did not start, see $logfile"

log "running a pod with two containers through $endpoint"
bin/demo --endpoint "$endpoint" --image "$image"

cat <<END

cridock runs as process $(cat "$pidfile") and serves $endpoint.
  crictl:   crictl --runtime-endpoint $endpoint pods
  kubelet:  --container-runtime-endpoint=$endpoint
  service:  install -m755 bin/cridock /usr/local/bin/ && install -Dm644 deploy/cridock.yaml /etc/cridock/cridock.yaml &&
            install -m644 deploy/systemd/cridock.service /etc/systemd/system/ && systemctl enable --now cridock
  stop:     kill $(cat "$pidfile")
END
