#!/bin/bash
# Runs the tests of e2e/kubelet with a real kubelet on cridock.
#
#   sudo hack/kubelet.sh [go test arguments]   for example -run 'TestKubelet/.*/logs'
#   sudo hack/kubelet.sh build                 only build the programs and print their paths
#   hack/kubelet.sh built                      succeed if they are already built; the exit
#                                              status is 3 if they are not
#
# The first run builds the kubelet, an API server and its etcd from the Go module
# proxy and keeps them in ${XDG_CACHE_HOME:-~/.cache}/cridock. Building takes some
# minutes and 4 GB.
#
# The node is a private engine (see hack/engine.sh) with its own address, /var/lib,
# /var/log, cgroup and kernel settings. The tests start cridock and the kubelet in
# it. On exit, even after a failure, all of it is removed. The engine is the
# dockerd in PATH. With LOGS=DIR all logs are kept there.
#
# The tests see:
#   CRIDOCK_E2E_KUBELET    the kubelet's binary; without it they are skipped
#   CRIDOCK_E2E_APISERVER  the API server's binary
#   CRIDOCK_E2E_ETCD       etcd's binary
#   CRIDOCK_E2E_CRIDOCK    cridock's binary
#   CRIDOCK_E2E_DOCKER     unix:// address of the engine
#   CRIDOCK_E2E_REGISTRY   host:port of a registry on the node's loopback
#   CRIDOCK_E2E_IMAGE      a busybox image that the engine has
#   CRIDOCK_E2E_CGROUP     the node's root cgroup
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. hack/lib.sh
. hack/node.sh

need_root
find_go
install_missing docker.io containernetworking-plugins iptables iproute2 mount docker-registry busybox-static curl jq

# Do everything that needs the network first: there is none inside.
if [ "${1-}" = built ]; then
	kubelet=$(kubernetes_program kubelet k8s.io/kubernetes)
	apiserver=$(kubernetes_program kube-apiserver k8s.io/kubernetes)
	etcd=$(kubernetes_program etcd go.etcd.io/etcd/server/v3)
	[ -x "$kubelet" ] && [ -x "$apiserver" ] && [ -x "$etcd" ] || exit 3
	exit 0
fi
kubelet=$(kubernetes_build kubelet k8s.io/kubernetes)
apiserver=$(kubernetes_build kube-apiserver k8s.io/kubernetes)
etcd=$(kubernetes_build etcd go.etcd.io/etcd/server/v3)
if [ "${1-}" = build ]; then
	printf '%s\n' "$kubelet" "$apiserver" "$etcd"
	exit
fi
dir=$(mktemp -d /var/tmp/cridock-kubelet.XXXXXX)
cgroup=$(engine_cgroup "$dir")
finish() {
	local status=$?
	[ -z "${LOGS-}" ] || { mkdir -p "$LOGS" && cp "$dir"/*.log "$LOGS"; } || status=1
	engine_stop "$dir" || status=1
	node_remove_cgroups "$cgroup"
	engine_remove "$dir" || status=1
	exit "$status"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

log "building cridock"
CGO_ENABLED=0 go build -trimpath -o "$dir/" ./cmd/cridock ./cmd/cridock-runtime
mkdir "$dir/bin" # the machine's /var/lib is not visible inside
cp "$kubelet" "$dir/bin/kubelet"
cp "$apiserver" "$dir/bin/kube-apiserver"
cp "$etcd" "$dir/bin/etcd"

log "starting a private Docker Engine in $dir"
runtimes=(--add-runtime second=runc --add-runtime "cridock=$dir/cridock-runtime")
! command -v crun >/dev/null || runtimes+=(--add-runtime crun=crun)
socket=$(engine_start "$dir" "${runtimes[@]}")
registry=$(registry_start "$dir")
image=$(import_busybox "$socket")
engine_exec "$dir" bash -c 'set -eu; '"$(declare -f node_setup node_address)"'; node_address; node_setup "$@"' _ "$dir" "$cgroup"
export CRIDOCK_E2E_KUBELET=$dir/bin/kubelet CRIDOCK_E2E_APISERVER=$dir/bin/kube-apiserver CRIDOCK_E2E_ETCD=$dir/bin/etcd \
	CRIDOCK_E2E_CRIDOCK=$dir/cridock CRIDOCK_E2E_DOCKER=unix://$socket \
	CRIDOCK_E2E_REGISTRY=$registry CRIDOCK_E2E_IMAGE=$image CRIDOCK_E2E_CGROUP=$cgroup CRIDOCK_CI=1

log "go test e2e/kubelet $*"
run="env -C $dir $PWD/hack/engine.sh exec $dir"
cd e2e/kubelet
# In the background, so that a signal is handled at once and not after the tests,
# which end with the namespaces.
CGO_ENABLED=0 go test -count=1 -trimpath -timeout=40m -parallel=10 -exec "$run" "$@" . &
wait $!
