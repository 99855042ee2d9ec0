#!/bin/bash
# Runs every test, with a private Docker Engine and registry.
#
#   sudo hack/test.sh [go test arguments]      without any: all packages
#
# It installs missing packages with apt, runs gofmt and go vet, and runs the tests
# with the race detector inside the namespaces of a private engine (see
# hack/engine.sh), which have no network but loopback. It does not touch the
# machine's Docker. On exit, even after a failure, the engine and its data are
# removed, and so are the nodes of tests that were interrupted.
#
# The tests see:
#   CRIDOCK_E2E_DOCKER     unix:// address of the engine
#   CRIDOCK_E2E_REGISTRY   host:port of the registry, on loopback, no TLS
#   CRIDOCK_E2E_IMAGE      a busybox image that the engine has
#   CRIDOCK_CI=1           all tools are installed: fail, do not skip
#
#   CRIDOCK_E2E_CRI_DOCKERD  a cri-dockerd: the tests also migrate pods between it and
#                          cridock
#   CRIDOCK_E2E_CONTAINERD a directory with containerd and its shim for runc: the tests
#                          also compare what NRI plugins get from it and from cridock, and
#                          restore its checkpoints
#
# cri-dockerd is the one that "hack/cri-dockerd.sh build" has built, containerd the one
# of ".ci/run build", unless the variables are set. Without them, these tests are
# skipped.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. hack/lib.sh
. hack/node.sh

need_root
find_go
# gcc is for the race detector and the check of the pause binaries, systemd for its
# check of units.
install_missing docker.io containernetworking-plugins iptables iproute2 mount docker-registry busybox-static curl jq crun systemd \
	gcc libc6-dev gcc-x86-64-linux-gnu gcc-aarch64-linux-gnu gcc-arm-linux-gnueabihf \
	gcc-powerpc64le-linux-gnu gcc-s390x-linux-gnu gcc-riscv64-linux-gnu

cri_dockerd=${CRIDOCK_E2E_CRI_DOCKERD-}
if [ -z "$cri_dockerd" ] && built hack/cri-dockerd.sh; then
	cri_dockerd=$(hack/cri-dockerd.sh built)
fi
[ "$cri_dockerd" ] || not_built "migration from a real cri-dockerd" "hack/cri-dockerd.sh build"
containerd=${CRIDOCK_E2E_CONTAINERD-}
[ -n "$containerd" ] || containerd=$(built_containerd)
[ "$containerd" ] || not_built "what is compared with containerd, or taken over from it" ".ci/run build"

# Do everything that needs the network first: there is none inside.
log "go mod download"
go mod download
log "gofmt"
unformatted=$(gofmt -l .)
[ -z "$unformatted" ] || die "not formatted, run gofmt -w on: $unformatted"
export CGO_ENABLED=1
# As the tests are compiled: nothing has to be compiled twice.
log "go vet -race ./..."
go vet -race ./...

dir=$(mktemp -d /var/tmp/cridock-test.XXXXXX)
finish() {
	local status=$? node nodes=("$dir"/e2e.*/e2e-*)
	engine_remove "$dir" || status=1
	for node in "${nodes[@]}"; do
		node_remove_cgroups "$(engine_cgroup "$node")"
	done
	exit "$status"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

log "starting a private Docker Engine in $dir"
socket=$(engine_start "$dir")
registry=$(registry_start "$dir")
image=$(import_busybox "$socket")
export CRIDOCK_E2E_DOCKER=unix://$socket CRIDOCK_E2E_REGISTRY=$registry CRIDOCK_E2E_IMAGE=$image
[ -z "$cri_dockerd" ] || export CRIDOCK_E2E_CRI_DOCKERD=$cri_dockerd
[ -z "$containerd" ] || export CRIDOCK_E2E_CONTAINERD=$containerd
export CRIDOCK_CI=1 GOPROXY=off GOTOOLCHAIN=local

# go_test starts go test in the background, so that a signal is handled at once and not
# after the tests, which end with the namespaces.
go_test() {
	engine_exec "$dir" go test -race -count=1 -timeout=2h "$@" &
}

if [ $# -gt 0 ]; then
	log "go test -race -count=1 $*"
	go_test "$@"
	wait $!
	exit
fi
# The end-to-end tests take the longest, so they start at once. The other packages wait
# half of the time, so two for each processor run beside them, first the one that takes
# the longest.
mapfile -t packages < <(go list ./shim && go list ./... | grep -vE '/(e2e|shim)$')
log "go test -race -count=1 ./e2e, and beside it all other packages"
go_test ./e2e
end_to_end=$!
go_test -p "$((2 * $(nproc)))" "${packages[@]}"
others=$!
failed=0
wait "$others" || failed=$?
wait "$end_to_end" || failed=$?
exit "$failed"
