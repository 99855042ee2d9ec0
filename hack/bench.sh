#!/bin/bash
# Measures cridock and other runtimes on this machine, in one run.
#
#   sudo hack/bench.sh [cribench run flags]      for example --rounds 5 --containers 10,50
#
# It always measures cridock and Docker's own calls, on one private engine, and the
# CRI plugin of Debian's containerd with its own configuration, root, socket and
# network. With CRI_DOCKERD=PATH it also measures that cri-dockerd, on a second
# engine: two adapters on one engine would list each other's pods. All pull from
# registries on loopback and run the same images, including the sandbox's.
#
#   OUT=DIR           directory for the report (default bin/bench)
#   CRI_DOCKERD=PATH  cri-dockerd's binary
#   NETWORK=cni       use a CNI bridge for all pods except those of the raw calls;
#                     the default, docker, uses Docker's bridge for cridock and
#                     cri-dockerd, and a CNI bridge for containerd
#
# On exit, even after a failure, everything except the report is removed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. hack/lib.sh

out=${OUT:-bin/bench}
network=${NETWORK:-docker}
registry=127.0.0.1:5000
image=$registry/busybox:cridock
pause=$registry/pause:cridock
pull=$registry/pull:cridock

need_root
find_go
install_missing docker.io containerd containernetworking-plugins iptables iproute2 mount docker-registry busybox-static curl jq
[ -z "${CRI_DOCKERD:-}" ] || [ -x "$CRI_DOCKERD" ] || die "CRI_DOCKERD: $CRI_DOCKERD is not executable"
cni_bin=/usr/lib/cni
[ -x "$cni_bin/bridge" ] || cni_bin=/opt/cni/bin

log "building bin/cridock and bin/cribench"
version=$(git describe --always --dirty 2>/dev/null || echo dev)
for program in cridock cribench; do
	CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=$version" -o "bin/$program" "./cmd/$program"
done

dir=$(mktemp -d /var/tmp/cribench.XXXXXX)
a=$dir/${dir##*.}-a b=$dir/${dir##*.}-b
# shellcheck disable=SC2154 # the trap sets status
trap 'status=$?; engine_remove "$b" || status=1; engine_remove "$a" || status=1; rm -rf --one-file-system -- "$dir"; exit "$status"' EXIT
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

# runtime_args prints dockerd arguments for a machine that cannot lower
# oom_score_adj, where cri-dockerd's sandboxes would fail: a runtime that does not
# lower it, the same for all engines. With CAP_SYS_RESOURCE it prints nothing.
runtime_args() {
	local effective
	effective=$((16#$(awk '/^CapEff/ {print $2}' /proc/self/status)))
	[ $((effective >> 24 & 1)) = 0 ] || return 0
	cat >"$dir/runc" <<-'END'
		#!/bin/sh
		previous=
		for argument; do
		  [ "$previous" != --bundle ] || config=$argument/config.json
		  previous=$argument
		done
		if [ -e "${config:-}" ]; then
		  jq -c '.process.oomScoreAdj |= (if . and . < 0 then 0 else . end)' "$config" >"$config.new" && mv "$config.new" "$config" || exit
		fi
		exec runc "$@"
	END
	chmod 755 "$dir/runc"
	log "no CAP_SYS_RESOURCE: both engines run containers through a wrapper of runc that does not lower oom_score_adj"
	echo "--add-runtime bench=$dir/runc --default-runtime bench"
}

# serve runs a server in an engine's namespaces, with its log in ENGINE/NAME.log,
# and waits for its socket. The server stops with the engine.
serve() { # ENGINE NAME SOCKET COMMAND...
	local engine=$1 name=$2 socket=$3
	shift 3
	engine_exec "$engine" "$@" </dev/null >"$engine/$name.log" 2>&1 &
	disown
	wait_for 30 socket_or_end "$socket" $! && [ -S "$socket" ] || {
		tail -n 5 "$engine/$name.log" >&2
		return 1
	}
}

socket_or_end() { [ -S "$1" ] || ! kill -0 "$2"; } # SOCKET PID

# adapter_network prints the arguments of cridock and cri-dockerd for pods on their
# own CNI bridge.
adapter_network() { # ENGINE
	cni_conflist "$1/cni" bench0 10.96.0.0/16
	echo "--network-plugin=cni --cni-conf-dir=$1/cni --cni-bin-dir=$cni_bin --cni-cache-dir=$1/cni-cache"
}

start_cridock() { # ENGINE
	local args=(--network-plugin=docker)
	# shellcheck disable=SC2207 # the paths are ours, without spaces
	[ "$network" != cni ] || args=($(adapter_network "$1"))
	serve "$1" cridock "$1/cridock.sock" bin/cridock serve --container-runtime-endpoint "unix://$1/cridock.sock" \
		--docker-endpoint "unix://$(engine_socket "$1")" --root-directory "$1/cridock" --runtime-directory "$1/cridock-run" "${args[@]}"
}

start_cri_dockerd() { # ENGINE
	local args=(--network-plugin=)
	# shellcheck disable=SC2207
	[ "$network" != cni ] || args=($(adapter_network "$1"))
	serve "$1" cri-dockerd "$1/cri-dockerd.sock" "$CRI_DOCKERD" --container-runtime-endpoint "unix://$1/cri-dockerd.sock" \
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
	END
	serve "$1" cri-containerd "$d/containerd.sock" containerd --config "$d/config.toml"
}

docker_post() { # ENGINE PATH
	curl -sS --fail --unix-socket "$(engine_socket "$1")" -H 'X-Registry-Auth: e30=' -X POST "http://docker$2"
}

# push pushes an image to the registry under a name, then removes that name.
push() { # ENGINE IMAGE NAME
	[ "$2" = "$3" ] || docker_post "$1" "/images/$2/tag?repo=${3%:*}&tag=${3##*:}"
	docker_post "$1" "/images/${3%:*}/push?tag=${3##*:}" | jq -es 'all(.error == null)' >/dev/null || die "push of $3 failed"
	curl -sS --fail --unix-socket "$(engine_socket "$1")" -X DELETE "http://docker/images/$3" >/dev/null
}

# fill_registry pushes the run's images to the registry: the pods' image, cridock's
# built-in sandbox image, and one to pull.
fill_registry() { # ENGINE
	local tree
	push "$1" "$(import_busybox "$(engine_socket "$1")" "$image")" "$image"
	push "$1" "$(curl -sS --unix-socket "$(engine_socket "$1")" http://docker/images/json | jq -r '.[].RepoTags[]? | select(startswith("cridock.internal/pause:"))' | head -n 1)" "$pause"
	tree=$(mktemp -d)
	busybox_tree "$tree"
	head -c 16M /dev/urandom >"$tree/data"
	push "$1" "$(import_tree "$(engine_socket "$1")" "$pull" "$tree")" "$pull"
	rm -rf "$tree"
}

log "starting cridock and containerd"
read -ra runtime < <(runtime_args) || true # usually empty
socket=$(engine_start "$a" "${runtime[@]}")
registry_start "$a" "${registry##*:}" >/dev/null
start_cridock "$a" || die "cridock did not start"
fill_registry "$a"
start_containerd "$a" || die "containerd did not start"
targets=(--target "cridock=unix://$a/cridock.sock" --backend "cridock=unix://$socket"
	--target "containerd=unix://$a/cri-containerd/containerd.sock")
if [ -n "${CRI_DOCKERD:-}" ]; then
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

log "measuring"
mkdir -p "$dir/logs" "$out"
bin/cribench run "${targets[@]}" --docker "unix://$socket" --docker-sandbox-image "$pause" --image "$image" --pull-image "$pull" \
	--cgroup-parent "$(engine_cgroup "$a")" --log-dir "$dir/logs" -o "$out" "$@" &
measuring=$!
# Pass an interrupt on to cribench, which removes its pods, before the engines stop.
trap 'kill -TERM "$measuring" 2>/dev/null; wait "$measuring" || true; exit 130' INT TERM
wait "$measuring"
