#!/bin/bash
# Measures cridock and other runtimes on this machine, in one run.
#
#   sudo hack/bench.sh [cribench run flags]   for example --rounds 5 --containers 10,50
#   sudo hack/bench.sh build                  only build the peers and print their paths
#
# It measures, on one private engine, cridock and Docker's own calls; containerd's CRI
# plugin with its own configuration, root, socket and network; and cri-dockerd, and
# cridock with early-network and cridock-runtime ("cridock-early"), on engines of their
# own: two adapters on one engine would list each other's pods. All pull
# from registries on loopback and run the same images, including the sandbox's, with
# the runc in PATH. The engine is the dockerd in PATH, for example one that
# hack/matrix.sh has unpacked:
#
#   sudo env PATH="$HOME/.cache/cridock/engines/sid/programs:$PATH" hack/bench.sh
#
#   OUT=DIR                directory for the report (default bin/bench)
#   NETWORK=docker         use Docker's bridge for cridock, cri-dockerd and the raw
#                          calls; the default, cni, uses a CNI bridge for all pods
#   CONTAINERD=DIR         directory with containerd and containerd-shim-runc-v2
#                          (default: built, see below)
#   CRI_DOCKERD=PATH|none  cri-dockerd's binary (default: built), or none at all
#   PULL=MIB, LAYERS=N     size of the image to pull (default 16), and its number of
#                          layers (default 1)
#   PULLS=N                number of such images, which are pulled at once (default 1)
#   PAUSE_RUNTIME=NAME     runtime in PATH for the sandboxes of cridock-early, such as crun
#                          (default: the containers' runc)
#   TRACE=PODS             pods for the timeline of a pod start (default 30; 0: none)
#
# The first run builds containerd and cri-dockerd from the Go module proxy, in
# some minutes each, and keeps them in ${XDG_CACHE_HOME:-~/.cache}/cridock. Where it
# cannot, it uses Debian's containerd, and no cri-dockerd. The versions are in the
# report.
#
# CRI-O is not measured: it cannot be built from the module proxy alone. It needs cgo
# with libseccomp, its own C program pinns, and conmon. A build without libseccomp would
# run containers without a filter, which is no peer.
#
# On a machine where processes cannot lower their oom_score_adj, sandboxes of
# cri-dockerd would fail: there, Docker and containerd both run runc through the same
# compiled wrapper, hack/runcwrap.
#
# On exit, even after a failure, everything except the report is removed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. hack/lib.sh

out=${OUT:-bin/bench}
network=${NETWORK:-cni}
trace=${TRACE:-30}
registry=127.0.0.1:5000
image=$registry/busybox:cridock
pause=$registry/pause:cridock
layers=${LAYERS:-1}
pulls=()
for ((i = 1; i <= ${PULLS:-1}; i++)); do pulls+=("$registry/pull$i:cridock"); done
collector=127.0.0.1:4317
cri_dockerd_version=v0.4.4

need_root
case $network in cni | docker) ;; *) die "NETWORK: $network is not cni or docker" ;; esac
find_go
install_missing docker.io containerd containernetworking-plugins iptables iproute2 mount docker-registry busybox-static curl jq
cni_bin=/usr/lib/cni
[ -x "$cni_bin/bridge" ] || cni_bin=/opt/cni/bin

# Do everything that needs the network first: there is none inside.
containerd_dir=${CONTAINERD:-}
[ -n "$containerd_dir" ] || containerd_dir=$(build_containerd) || {
	containerd_dir=$(dirname "$(command -v containerd)")
	log "cannot build containerd $containerd_version, measuring $containerd_dir/containerd"
}
[ -x "$containerd_dir/containerd" ] || die "CONTAINERD: $containerd_dir has no containerd"
cri_dockerd=${CRI_DOCKERD:-}
case $cri_dockerd in
none) cri_dockerd= ;;
'')
	if cri_dockerd=$(build_peer cri-dockerd "$cri_dockerd_version" github.com/Mirantis/cri-dockerd \
		"-X github.com/Mirantis/cri-dockerd/cmd/version.Version=${cri_dockerd_version#v}" .); then
		cri_dockerd+=/cri-dockerd
	else
		cri_dockerd=
		log "cannot build cri-dockerd $cri_dockerd_version, leaving it out"
	fi
	;;
*) [ -x "$cri_dockerd" ] || die "CRI_DOCKERD: $cri_dockerd is not executable" ;;
esac

if [ "${1-}" = build ]; then
	printf '%s\n' "$containerd_dir" ${cri_dockerd:+"$cri_dockerd"}
	exit
fi

log "building bin/cridock and bin/cribench"
version=$(git describe --always --dirty 2>/dev/null || echo dev)
for program in cridock cridock-runtime cribench; do
	CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=$version" -o "bin/$program" "./cmd/$program"
done

dir=$(mktemp -d /var/tmp/cribench.XXXXXX)
a=$dir/${dir##*.}-a b=$dir/${dir##*.}-b c=$dir/${dir##*.}-c
# shellcheck disable=SC2154 # the trap sets status
trap 'status=$?; engine_remove "$c" || status=1; engine_remove "$b" || status=1; engine_remove "$a" || status=1; rm -rf --one-file-system -- "$dir"; exit "$status"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# cni_conflist writes the configuration of a bridge with its own addresses.
cni_conflist() { # DIR NAME SUBNET
	mkdir -p "$1"
	cat >"$1/10-$2.conflist" <<-END
		{"cniVersion": "0.4.0", "name": "$2", "plugins": [
		  {"type": "bridge", "bridge": "$2", "isGateway": true, "ipMasq": true, "hairpinMode": true,
		   "ipam": {"type": "host-local", "dataDir": "$1/ipam", "ranges": [[{"subnet": "$3"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
		  {"type": "portmap", "capabilities": {"portMappings": true}}]}
	END
}

# serve runs a server in an engine's namespaces, with its log in ENGINE/NAME.log,
# and waits for its socket. The server stops with the engine, or by stop_server.
serve() { # ENGINE NAME SOCKET COMMAND...
	local engine=$1 name=$2 socket=$3
	shift 3
	rm -f "$socket"
	# shellcheck disable=SC2016 # the inner shell expands it
	engine_exec "$engine" bash -c 'echo $$ >"$1" && shift && exec "$@"' _ "$engine/$name.pid" "$@" </dev/null >>"$engine/$name.log" 2>&1 &
	disown
	wait_for 30 socket_or_end "$socket" $! && [ -S "$socket" ] || {
		tail -n 5 "$engine/$name.log" >&2
		return 1
	}
}

stop_server() { # ENGINE NAME
	local pid
	pid=$(cat "$1/$2.pid")
	engine_exec "$1" kill "$pid"
	wait_for 30 eval "! engine_exec '$1' kill -0 $pid"
}

socket_or_end() { [ -S "$1" ] || ! kill -0 "$2"; } # SOCKET PID

# adapter_network prints the arguments of cridock and cri-dockerd for pods on their
# own CNI bridge.
adapter_network() { # ENGINE
	cni_conflist "$1/cni" bench0 10.96.0.0/16
	echo "--network-plugin=cni --cni-conf-dir=$1/cni --cni-bin-dir=$cni_bin --cni-cache-dir=$1/cni-cache"
}

start_cridock() { # ENGINE [FLAG...]
	local engine=$1 args=(--network-plugin=docker)
	shift
	# shellcheck disable=SC2207 # the paths are ours, without spaces
	[ "$network" != cni ] || args=($(adapter_network "$engine"))
	serve "$engine" cridock "$engine/cridock.sock" bin/cridock serve --container-runtime-endpoint "unix://$engine/cridock.sock" \
		--docker-endpoint "unix://$(engine_socket "$engine")" --root-directory "$engine/cridock" \
		--runtime-directory "$engine/cridock-run" "${args[@]}" "$@"
}

start_cri_dockerd() { # ENGINE
	local args=(--network-plugin=)
	# shellcheck disable=SC2207
	[ "$network" != cni ] || args=($(adapter_network "$1"))
	serve "$1" cri-dockerd "$1/cri-dockerd.sock" "$cri_dockerd" --container-runtime-endpoint "unix://$1/cri-dockerd.sock" \
		--docker-endpoint "unix://$(engine_socket "$1")" --cri-dockerd-root-directory "$1/cri-dockerd" \
		--pod-infra-container-image "$pause" --streaming-bind-addr 127.0.0.1:0 "${args[@]}"
}

start_containerd() { # ENGINE
	local d=$1/cri-containerd
	cni_conflist "$d/cni" benchctr0 10.97.0.0/16
	cat >"$d/config.toml" <<-END
		version = 2
		root = "$d/root"
		state = "$d/state"
		[grpc]
		  address = "$d/containerd.sock"
		[ttrpc]
		  address = "$d/containerd.sock.ttrpc"
		[plugins."io.containerd.internal.v1.opt"]
		  path = "$d/opt"
		[plugins."io.containerd.grpc.v1.cri"]
		  sandbox_image = "$pause"
		  stream_server_address = "127.0.0.1"
		  stream_server_port = "0"
		  disable_apparmor = true
		  restrict_oom_score_adj = true
		  [plugins."io.containerd.grpc.v1.cri".cni]
		    bin_dir = "$cni_bin"
		    conf_dir = "$d/cni"
		  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
		    runtime_type = "io.containerd.runc.v2"
	END
	[ -z "$wrapper" ] || cat >>"$d/config.toml" <<-END
		    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
		      BinaryName = "$wrapper"
	END
	# It looks for its shim in PATH first.
	serve "$1" cri-containerd "$d/containerd.sock" env "PATH=$containerd_dir:$PATH" containerd --config "$d/config.toml"
}

# fill_registry pushes the run's images to the registry: the pods' image, cridock's
# built-in sandbox image, and those to pull.
fill_registry() { # ENGINE
	local socket name
	socket=$(engine_socket "$1")
	push_image "$socket" "$(import_busybox "$socket" "$image")" "$image"
	push_image "$socket" "$(pause_image "$socket")" "$pause"
	for name in "${pulls[@]}"; do
		push_image "$socket" "$(random_image "$socket" "$name")" "$name"
	done
}

# random_image makes an image of files that cannot be compressed, one in each layer.
random_image() { # SOCKET NAME
	local context i size=$((${PULL:-16} * 1024 / layers))
	context=$(mktemp -d)
	echo "FROM scratch" >"$context/Dockerfile"
	for ((i = 1; i <= layers; i++)); do
		head -c "${size}K" /dev/urandom >"$context/$i"
		echo "COPY $i /$i" >>"$context/Dockerfile"
	done
	tar -C "$context" -c . | curl -sS --fail --unix-socket "$1" -X POST -H 'Content-Type: application/x-tar' --upload-file - \
		"http://docker/build?t=$2" | jq -es 'all(.error == null)' >/dev/null || die "cannot build $2"
	rm -rf "$context"
	echo "$2"
}

log "starting cridock and containerd"
wrapper=$(runc_wrapper "$dir")
runtime=()
if [ -n "$wrapper" ]; then
	log "no CAP_SYS_RESOURCE: Docker and containerd run runc through hack/runcwrap"
	runtime=(--add-runtime "bench=$wrapper" --default-runtime bench)
fi
socket=$(engine_start "$a" "${runtime[@]}")
registry_start "$a" "${registry##*:}" >/dev/null
start_cridock "$a" || die "cridock did not start"
fill_registry "$a"
start_containerd "$a" || die "containerd did not start"
targets=(--target "cridock=unix://$a/cridock.sock" --backend "cridock=unix://$socket"
	--target "containerd=unix://$a/cri-containerd/containerd.sock")
if [ -n "$cri_dockerd" ]; then
	log "starting cri-dockerd"
	peer=$(engine_start "$b" "${runtime[@]}")
	cp -a "$a/registry" "$b/registry"
	registry_start "$b" "${registry##*:}" >/dev/null
	# Not every release supports every engine.
	if start_cri_dockerd "$b"; then
		targets+=(--target "cri-dockerd=unix://$b/cri-dockerd.sock" --backend "cri-dockerd=unix://$peer")
	else
		log "cri-dockerd does not start on this engine, leaving it out"
		engine_remove "$b"
	fi
fi
if [ "$network" = cni ]; then
	log "starting cridock with early-network, on a third engine"
	pause_runtime=() cridock_flags=(--early-network --runtime-directory /run/cridock) # cridock-runtime's default
	if [ -n "${PAUSE_RUNTIME-}" ]; then
		pause_runtime=(--add-runtime "pause=$(command -v "$PAUSE_RUNTIME")") || die "PAUSE_RUNTIME: no $PAUSE_RUNTIME"
		cridock_flags+=(--pause-runtime pause)
	fi
	peer=$(engine_start "$c" "${runtime[@]}" --add-runtime "cridock=$PWD/bin/cridock-runtime" "${pause_runtime[@]}")
	# crun would use the hierarchy of cgroup v2 that may be beside cgroup v1.
	engine_exec "$c" sh -c 'if mountpoint -q /sys/fs/cgroup/unified; then umount /sys/fs/cgroup/unified; fi'
	cp -a "$a/registry" "$c/registry"
	registry_start "$c" "${registry##*:}" >/dev/null
	start_cridock "$c" "${cridock_flags[@]}" || die "cridock did not start"
	targets+=(--target "cridock-early=unix://$c/cridock.sock" --backend "cridock-early=unix://$peer")
fi

# notes prints what the targets do not report themselves, as flags.
notes() {
	printf '%s\n' --note "containers run by $(runc --version | head -n 1)${wrapper:+ through hack/runcwrap, for all targets}"
	printf '%s\n' --note "cridock $version, pods on $([ "$network" = cni ] && echo "CNI bridges" || echo "Docker's bridge, containerd's on a CNI bridge")"
	[ -z "$cri_dockerd" ] || printf '%s\n' --note "cri-dockerd: $("$cri_dockerd" --version 2>&1 | tail -n 1)"
}

# measure runs cribench in the background, so that an interrupt is passed on: it
# removes its pods before the engines stop.
measure() { # ARG...
	bin/cribench "$@" &
	measuring=$!
	wait "$measuring"
}
trap 'kill -TERM "${measuring-}" 2>/dev/null; wait "${measuring-}" || true; exit 130' INT TERM

log "measuring"
mkdir -p "$dir/logs" "$out"
raw=()
if [ "$network" = cni ]; then
	cni_conflist "$a/cni-raw" benchraw0 10.98.0.0/16
	raw=(--docker-cni-conf "$a/cni-raw/10-benchraw0.conflist" --docker-cni-bin "$cni_bin")
fi
mapfile -t noted < <(notes)
measure run "${targets[@]}" --docker "unix://$socket" --docker-sandbox-image "$pause" "${raw[@]}" --image "$image" --pull-image "$(IFS=, && echo "${pulls[*]}")" \
	--cgroup-parent "$(engine_cgroup "$a")" --log-dir "$dir/logs" "${noted[@]}" -o "$out" "$@"
if [ "$trace" != 0 ]; then
	log "tracing pod starts"
	stop_server "$a" cridock
	start_cridock "$a" --tracing-endpoint "$collector" || die "cridock did not start"
	measure trace --target "cridock=unix://$a/cridock.sock" --docker-events "unix://$socket" --collect "$collector" --pods "$trace" \
		--image "$image" --cgroup-parent "$(engine_cgroup "$a")" --log-dir "$dir/logs" -o "$out"
fi
