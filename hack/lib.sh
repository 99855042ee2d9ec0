# Functions for the scripts in this directory; source it, do not run it.
#
# A "private engine" is a dockerd that shares nothing with the machine's own: it has
# its own network, mount and PID namespaces and its own /run, and keeps its data
# root, exec root, configuration and socket in one directory DIR. No shim, mount,
# interface or rule outlives its namespaces.
#
#   DIR/docker.sock   the API, reachable from outside as well
#   DIR/init.pid      the PID of the namespaces' first process, as seen from outside
#   DIR/dockerd.log   dockerd's output
# shellcheck shell=bash

log() { printf '%s\n' "==> $*" >&2; }

die() {
	printf '%s\n' "error: $*" >&2
	exit 1
}

need_root() {
	[ "$(id -u)" = 0 ] || die "$0 needs root: run it with sudo"
}

# find_go adds Go to PATH if sudo has removed it.
find_go() {
	command -v go >/dev/null && return
	PATH=$PATH:/usr/local/go/bin:/usr/lib/go/bin
	command -v go >/dev/null || die "Go is not installed, see https://go.dev/doc/install"
}

# has reports whether the programs needed from a Debian package exist, however they
# were installed: a machine with Docker's own packages must not get Debian's.
has() { # PACKAGE
	case $1 in
	docker.io) command -v dockerd >/dev/null ;;
	containernetworking-plugins) [ -x /usr/lib/cni/bridge ] || [ -x /opt/cni/bin/bridge ] ;;
	busybox-static) [ -x /bin/busybox ] && ! ldd /bin/busybox >/dev/null 2>&1 ;;
	docker-registry) command -v docker-registry >/dev/null ;;
	iproute2) command -v ip >/dev/null ;;
	bsdutils) command -v script >/dev/null ;;
	bind9-dnsutils) command -v dig >/dev/null ;;
	netcat-openbsd) command -v nc.openbsd >/dev/null ;;
	prometheus) command -v promtool >/dev/null ;;
	systemd) command -v systemd-analyze >/dev/null ;;
	gcc-x86-64-linux-gnu) command -v x86_64-linux-gnu-gcc >/dev/null ;;
	gcc-*-linux-gnu*) command -v "${1#gcc-}-gcc" >/dev/null ;;
	libc6-dev) [ -e /usr/include/stdlib.h ] ;;
	*) command -v "$1" >/dev/null ;;
	esac
}

# install_missing installs missing packages with apt. It prevents Debian from
# starting their services: a Docker and, open to the network, a registry.
install_missing() { # PACKAGE...
	local p missing=()
	for p; do
		has "$p" || missing+=("$p")
	done
	[ ${#missing[@]} -gt 0 ] || return 0
	command -v apt-get >/dev/null || die "missing, and cannot be installed without apt-get: ${missing[*]}"
	log "installing ${missing[*]}"
	(
		policy=/usr/sbin/policy-rc.d # maintainer scripts ask it whether to start services
		if [ ! -e "$policy" ]; then
			trap 'rm -f "$policy"' EXIT
			printf '#!/bin/sh\nexit 101\n' >"$policy"
			chmod 0755 "$policy"
		fi
		apt-get update -qq
		DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" </dev/null
	) >&2
	for p in "${missing[@]}"; do
		has "$p" || die "$p is installed, but its programs are missing"
		# Do not start it at the next boot either.
		case $p in docker-registry | prometheus) systemctl disable "$p" >/dev/null 2>&1 || true ;; esac
	done
}

# tool_dir prints where a program is kept. What a program writes can depend on the Go
# that built it, and golangci-lint refuses a module that needs a later one.
tool_dir() { # NAME VERSION
	local go
	go=$(go env GOVERSION) || return
	echo "${XDG_CACHE_HOME:-$HOME/.cache}/cridock/$1-$2-$go"
}

# tool prints the path of a program, and builds it if it is missing.
tool() { # NAME VERSION PACKAGE
	local bin
	bin=$(tool_dir "$1" "$2") || return
	if [ ! -x "$bin/$1" ]; then
		log "building $1 $2"
		GOBIN=$bin GOFLAGS='' go install "$3@$2" >&2 || return
	fi
	echo "$bin/$1"
}

# foreign_program prints where a command of a module that this one does not depend on
# is kept.
foreign_program() { # NAME VERSION
	echo "${XDG_CACHE_HOME:-$HOME/.cache}/cridock/$1-$2"
}

# released_modules copies a module's go.mod and go.sum to WORK. Kubernetes replaces its
# k8s.io modules by directories that only its repository has: the copy has the released
# modules instead.
released_modules() { # SOURCE VERSION WORK
	local module
	install -m644 "$1"/go.{mod,sum} "$3"
	for module in $(go mod edit -json "$3/go.mod" | jq -r '.Replace[]? | select(.New.Path | startswith("./staging/")).Old.Path'); do
		case $module in
		# Only tests need the examples, and not every proxy has all of their releases.
		k8s.io/sample-*) go mod edit -droprequire "$module" -dropreplace "$module" "$3/go.mod" ;;
		*) go mod edit -replace "$module=$module@v0.${2#v*.}" "$3/go.mod" ;;
		esac
	done
}

# build_foreign builds such a command, unless it is already built, and prints its
# path. The module's own go.mod selects the dependencies. "go install" would refuse it:
# it replaces modules.
build_foreign() { # NAME VERSION MODULE PACKAGE LDFLAGS
	set -e # a command substitution does not inherit it
	local binary source work
	binary=$(foreign_program "$1" "$2")
	if [ ! -x "$binary" ]; then
		log "building $1 $2: some minutes the first time"
		source=$(go mod download -json "$3@$2" | jq -er .Dir) || die "cannot download $3@$2"
		mkdir -p "${binary%/*}"
		work=$(mktemp -d)
		released_modules "$source" "$2" "$work"
		# Use another name until the build is complete.
		(cd "$source" && GOFLAGS='' GOWORK=off CGO_ENABLED=0 nice -n 10 go build -p 2 -trimpath -buildvcs=false -mod=mod \
			-modfile "$work/go.mod" -ldflags "-s -w $5" -o "$binary.$$" "$4") || die "cannot build $1 $2"
		rm -r "$work"
		mv "$binary.$$" "$binary"
	fi
	echo "$binary"
}

# build_peer builds commands of a module that cridock does not depend on, with the
# dependencies that the module's go.mod selects, and prints their directory. It prints
# nothing if they cannot be built. "go install" would refuse a module that replaces
# others.
build_peer() { # NAME VERSION MODULE LDFLAGS PACKAGE...
	local bin source work name=$1 version=$2 module=$3 ldflags=$4
	shift 4
	bin=$(tool_dir "$name" "$version") || return
	if [ ! -d "$bin" ]; then
		log "building $name $version: some minutes the first time"
		source=$(go mod download -json "$module@$version" | jq -er 'select(.Error == null).Dir') || return
		work=$(mktemp -d)
		install -m644 "$source"/go.{mod,sum} "$work"
		mkdir -p "$work/bin" "${bin%/*}"
		(cd "$source" && GOFLAGS='' GOWORK=off CGO_ENABLED=0 nice -n 10 go build -p 2 -trimpath -buildvcs=false -mod=mod \
			-modfile "$work/go.mod" -ldflags "-s -w $ldflags" -o "$work/bin/" "$@") >&2 || {
			rm -r "$work"
			return 1
		}
		mv -T "$work/bin" "$bin"
		rm -r "$work"
	fi
	echo "$bin"
}

containerd_version=v2.4.2

# build_containerd builds containerd and its shim, and prints their directory, or
# nothing if it cannot.
build_containerd() {
	build_peer containerd "$containerd_version" github.com/containerd/containerd/v2 \
		"-X github.com/containerd/containerd/v2/version.Version=$containerd_version" ./cmd/containerd ./cmd/containerd-shim-runc-v2
}

# built_containerd prints that directory, or nothing if there is none yet.
built_containerd() {
	local bin
	bin=$(tool_dir containerd "$containerd_version") || return
	[ ! -d "$bin" ] || echo "$bin"
}

# built reports whether a script's programs are built.
built() { # SCRIPT
	local status=0
	"$1" built >/dev/null || status=$?
	case $status in
	0) return 0 ;;
	3) return 1 ;;
	*) die "\"$1 built\" failed with status $status" ;;
	esac
}

# not_built prints what is not run. Call it before the tests: their summary must come
# last.
not_built() { # WHAT COMMAND
	cat >&2 <<-EOF
		==================================================================
		LEFT OUT: $1. Its programs are not built.
		Run "$2" first, and keep its cache.
		==================================================================
	EOF
}

# wait_for runs a command every tenth of a second until it succeeds or time is up.
wait_for() { # SECONDS COMMAND...
	local end=$((SECONDS + $1))
	shift
	until "$@" >/dev/null 2>&1; do
		[ "$SECONDS" -lt "$end" ] || return 1
		sleep 0.1
	done
}

engine_socket() { echo "$1/docker.sock"; } # DIR

docker_answers() { # SOCKET
	curl -sf --max-time 5 --unix-socket "$1" http://docker/_ping
}

# engine_cgroup prints the cgroup of containers without a cgroup parent. It can be
# removed; Docker's default, /docker, is used by the machine's engine too.
engine_cgroup() { echo "/cridock-$(basename "$1")"; } # DIR

# engine_pid prints the PID of a running engine's first process. The file may be
# from before a reboot, so the process must have DIR on its command line.
engine_pid() { # DIR
	local pid
	pid=$(cat "$1/init.pid" 2>/dev/null) || return 1
	{ tr '\0' '\n' <"/proc/$pid/cmdline"; } 2>/dev/null | grep -qxF -- "$1" || return 1
	echo "$pid"
}

# engine_init is the first process of the namespaces. It stays a bash, which reaps
# the shims that containerd leaves behind, and exits when dockerd exits. A killed
# dockerd is started again, as systemd would do; once also one that has not started.
engine_init() { # DIR DOCKERD_ARG...
	local dir=$1 pid resolv
	shift
	# /proc is still the machine's: it shows this process's outer PID.
	read -r pid _ </proc/self/stat
	echo "$pid" >"$dir/init.pid"
	mount -t proc proc /proc
	resolv=$(cat /etc/resolv.conf 2>/dev/null || true)
	# Without this, dockerd would use the socket of a system containerd, and mounts
	# and locks made here would be visible outside.
	mount -t tmpfs -o mode=755 tmpfs /run
	mkdir -p /run/lock
	if [ -L /etc/resolv.conf ] && [ ! -e /etc/resolv.conf ]; then # it was in /run
		mkdir -p "$(dirname "$(readlink -m /etc/resolv.conf)")"
		echo "$resolv" >"$(readlink -m /etc/resolv.conf)"
	fi
	# As systemd does: bidirectional mounts of containers need shared mounts.
	mount --make-rshared /
	ip link set lo up
	# A node forwards packets before Docker starts. Where dockerd has to enable this
	# itself, it also sets the FORWARD chain's policy to DROP, and no packet between
	# two pods on a CNI bridge gets through.
	echo 1 >/proc/sys/net/ipv4/ip_forward
	[ ! -e /proc/sys/net/ipv6 ] || echo 1 >/proc/sys/net/ipv6/conf/all/forwarding
	pid='' again=1 late=''
	trap 'kill -TERM "$pid"' TERM
	while [ "$again" ]; do
		dockerd --config-file "$dir/daemon.json" --cgroup-parent "$(engine_cgroup "$dir")" --data-root "$dir/root" --exec-root "$dir/exec" \
			--pidfile "$dir/dockerd.pid" --host "unix://$dir/docker.sock" "$@" &
		pid=$! again=''
		# A trapped signal ends wait early; dockerd is still shutting down then.
		while kill -0 "$pid" 2>/dev/null; do wait "$pid" || true; done
		# The exit status is still available after the process has exited.
		wait "$pid" || [ $? != 137 ] || again=1
		# dockerd gives its containerd 15 seconds to start, which a busy machine may need
		# for other things.
		if [ ! "$late" ] && grep -q 'timeout waiting for containerd to start' "$dir/dockerd.log"; then
			late=1 again=1
		fi
	done
}

# engine_start starts a private engine, unless it runs already, and prints its
# socket. It never starts a second engine for the same DIR. The engine is the
# dockerd in PATH; CRIDOCK_ENGINE_FLAGS has flags for every engine.
engine_start() { # DIR [DOCKERD_ARG...]
	local dir sock here flags
	mkdir -p "$1"
	dir=$(cd "$1" && pwd)
	shift
	sock=$(engine_socket "$dir")
	[ ${#sock} -le 90 ] || die "$dir is too long a path for unix sockets"
	if engine_pid "$dir" >/dev/null && docker_answers "$sock" >/dev/null; then
		echo "$sock"
		return
	fi
	here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
	read -ra flags <<<"${CRIDOCK_ENGINE_FLAGS-}"
	rm -f "$dir/init.pid" "$dir/dockerd.pid" "$sock"
	echo '{}' >"$dir/daemon.json" # replaces the machine's /etc/docker/daemon.json
	setsid unshare --net --mount --pid --fork --propagation private \
		bash -c 'set -eu; . "$1/lib.sh"; shift; engine_init "$@"' cridock-engine "$here" "$dir" "${flags[@]}" "$@" \
		</dev/null >"$dir/dockerd.log" 2>&1 &
	disown
	if ! wait_for 180 engine_answers_or_ended $! "$sock" || ! kill -0 $! 2>/dev/null; then
		tail -n 20 "$dir/dockerd.log" >&2
		engine_stop "$dir"
		die "dockerd did not start, its log is $dir/dockerd.log"
	fi
	echo "$sock"
}

engine_answers_or_ended() { docker_answers "$2" || ! kill -0 "$1"; } # PID SOCKET

# engine_exec runs a command in a private engine's namespaces, in the current
# directory.
engine_exec() { # DIR COMMAND...
	local pid
	pid=$(engine_pid "$(cd "$1" && pwd)") || die "no engine runs in $1"
	shift
	# nsenter moves the process to /: change back to the current directory.
	nsenter --target "$pid" --net --mount --pid -- bash -c 'cd "$1" && shift && exec "$@"' _ "$PWD" "$@"
}

engine_remove_containers() { # SOCKET
	local id
	for id in $(curl -sf --max-time 20 --unix-socket "$1" 'http://docker/containers/json?all=1' | jq -r '.[].Id'); do
		curl -s --max-time 20 --unix-socket "$1" -X DELETE "http://docker/containers/$id?force=1" >/dev/null || true
	done
}

# engine_stop removes an engine's containers and stops it; DIR stays. It succeeds if
# none runs. Processes that do not exit in time are killed with the PID namespace.
engine_stop() { # DIR
	local dir pid
	dir=$(cd "$1" 2>/dev/null && pwd) || return 0
	if pid=$(engine_pid "$dir"); then
		engine_remove_containers "$(engine_socket "$dir")" || true
		kill -TERM "$pid" 2>/dev/null || true
		wait_for 20 test ! -e "/proc/$pid" || {
			log "dockerd in $dir does not exit, killing it"
			kill -KILL "$pid" 2>/dev/null || true
			wait_for 120 test ! -e "/proc/$pid" || die "process $pid cannot be killed"
		}
	fi
	engine_remove_cgroups "$dir"
	rm -f "$dir/init.pid" "$dir/dockerd.pid" "$dir/docker.sock"
}

# engine_remove_cgroups removes cgroups that a killed runc left behind, and the
# engine's own: unlike a container's other resources, they do not disappear with a
# namespace.
engine_remove_cgroups() { # DIR
	find /sys/fs/cgroup -depth -type d 2>/dev/null | grep -F -f <(ls "$1/root/containers" 2>/dev/null) | xargs -r -d '\n' rmdir 2>/dev/null || true
	# In cgroup v1's hierarchies, or in v2's single one.
	rmdir /sys/fs/cgroup/*"$(engine_cgroup "$1")" /sys/fs/cgroup"$(engine_cgroup "$1")" 2>/dev/null || true
}

# engine_remove stops an engine and removes DIR.
engine_remove() { # DIR
	[ -e "$1" ] || return 0
	engine_stop "$1"
	rm -rf --one-file-system -- "$1"
}

# import_tree makes an image from a directory tree, with files owned by root and one
# instruction of a Dockerfile, by default CMD ["sh"], and prints its name.
import_tree() { # SOCKET NAME:TAG DIR [INSTRUCTION]
	local changes=${4-'CMD ["sh"]'}
	changes=$(jq -rn --arg changes "$changes" '$changes | @uri')
	tar -C "$3" --owner=0 --group=0 -c . |
		curl -sS --fail --unix-socket "$1" -H 'Content-Type: application/x-tar' --data-binary @- \
			"http://docker/images/create?fromSrc=-&repo=${2%:*}&tag=${2##*:}&changes=$changes" >/dev/null
	echo "$2"
}

# push_image pushes an image to the registry in a name, and then removes that name.
push_image() { # SOCKET IMAGE NAME:TAG
	[ "$2" = "$3" ] || curl -sS --fail --unix-socket "$1" -X POST "http://docker/images/$2/tag?repo=${3%:*}&tag=${3##*:}"
	curl -sS --fail --unix-socket "$1" -H 'X-Registry-Auth: e30=' -X POST "http://docker/images/${3%:*}/push?tag=${3##*:}" |
		jq -es 'all(.error == null)' >/dev/null || die "push of $3 failed"
	curl -sS --fail --unix-socket "$1" -X DELETE "http://docker/images/$3" >/dev/null
}

# pause_image prints the name of cridock's own sandbox image, once cridock has made it.
pause_image() { # SOCKET
	curl -sS --unix-socket "$1" http://docker/images/json |
		jq -er 'first(.[].RepoTags[]? | select(startswith("cridock.internal/pause:")))'
}

# runc_wrapper builds a wrapper of runc for a machine without CAP_SYS_RESOURCE, and
# prints its path. With that capability it prints nothing.
runc_wrapper() { # DIR
	local effective
	effective=$((16#$(awk '/^CapEff/ {print $2}' /proc/self/status)))
	[ $((effective >> 24 & 1)) = 0 ] || return 0
	CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" -o "$1/runcwrap" ./hack/runcwrap
	echo "$1/runcwrap"
}

# busybox_tree makes a root directory with the machine's static busybox, hard links for
# its applets, and the files that programs expect.
busybox_tree() { # DIR
	mkdir -p "$1"/{bin,etc,proc,root,sys,dev,var}
	mkdir -m 1777 "$1/tmp"
	chmod 755 "$1" # the storage driver btrfs keeps the mode
	cp /bin/busybox "$1/bin/busybox"
	"$1/bin/busybox" --install "$1/bin" # one process, not one for each link
	echo 'root:x:0:0:root:/root:/bin/sh' >"$1/etc/passwd"
	echo 'root:x:0:' >"$1/etc/group"
}

# import_busybox makes a busybox image, without a registry, and prints its name.
import_busybox() { # SOCKET [NAME:TAG]
	local tree
	tree=$(mktemp -d)
	busybox_tree "$tree"
	import_tree "$1" "${2:-busybox:cridock}" "$tree"
	rm -rf "$tree"
}

# import_go_base makes an image that can be the Dockerfile's BUILD_IMAGE: busybox and
# the machine's Go, whose programs are static. It prints its name.
import_go_base() { # SOCKET [NAME:TAG]
	local tree goroot
	goroot=$(go env GOROOT)
	tree=$(mktemp -d)
	busybox_tree "$tree"
	mkdir -p "$tree/usr/local/go"
	cp -aL "$goroot"/{bin,pkg,src,lib,go.env,VERSION} "$tree/usr/local/go/"
	ln -s ../usr/local/go/bin/go "$tree/bin/go"
	import_tree "$1" "${2:-go:cridock}" "$tree"
	rm -rf "$tree"
}

# registry_start runs Debian's docker-registry inside an engine's namespaces and
# prints its address. Docker accepts registries in 127.0.0.0/8 without TLS. The
# registry stops with the engine.
registry_start() { # DIR [PORT]
	local dir port=${2:-5000}
	dir=$(cd "$1" && pwd)
	cat >"$dir/registry.yml" <<-END
		version: 0.1
		log: {level: warn}
		storage: {filesystem: {rootdirectory: $dir/registry}, delete: {enabled: true}}
		http: {addr: "127.0.0.1:$port"}
	END
	engine_exec "$dir" setsid docker-registry serve "$dir/registry.yml" </dev/null >"$dir/registry.log" 2>&1 &
	disown
	wait_for 120 engine_exec "$dir" curl -sf "http://127.0.0.1:$port/v2/" || {
		tail -n 20 "$dir/registry.log" >&2
		die "docker-registry did not start"
	}
	echo "127.0.0.1:$port"
}
