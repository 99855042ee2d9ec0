# Functions for scripts that run Kubernetes on a private engine; source it after lib.sh.
# shellcheck shell=bash
# shellcheck disable=SC2154 # cluster and registry are set by the script that sources this one

# kubernetes_program prints where a program is kept, in the release that
# e2e/kubelet/go.mod requires.
kubernetes_program() { # COMMAND MODULE
	set -e # a command substitution does not inherit it
	local version
	# go list would download the module's go.mod: "built" must work without a network.
	version=$(go mod edit -json e2e/kubelet/go.mod | jq -er --arg path "$2" '.Require[] | select(.Path == $path).Version') ||
		die "e2e/kubelet/go.mod requires no $2"
	foreign_program "$1" "$version"
}

# kubernetes_build builds a program unless it is already built, and prints its path. It
# is a command of e2e/kubelet, or one of the module's own that go.mod has as a tool.
kubernetes_build() { # COMMAND MODULE
	set -e
	local version minor binary command=./cmd/$1 package=k8s.io/component-base/version
	binary=$(kubernetes_program "$@")
	version=${binary##*-}
	minor=${version#v*.}
	[ -d "e2e/kubelet/cmd/$1" ] || command=$2/cmd/$1
	if [ ! -x "$binary" ]; then
		log "building $1 $version: some minutes the first time"
		mkdir -p "${binary%/*}"
		# Use another name until the build is complete.
		(cd e2e/kubelet && CGO_ENABLED=0 nice -n 10 go build -p 2 -trimpath \
			-ldflags "-s -w -X $package.gitVersion=$version -X $package.gitMajor=1 -X $package.gitMinor=${minor%%.*}" \
			-o "$binary.$$" "$command") || die "cannot build $1 $version"
		mv "$binary.$$" "$binary"
	fi
	echo "$binary"
}

coredns_version=v1.14.6 # the one of kubeadm 1.37

coredns_program() { foreign_program coredns "$coredns_version"; }

build_coredns() { build_foreign coredns "$coredns_version" github.com/coredns/coredns . ""; }

# node_setup runs in an engine's namespaces and gives them what a node has of its own,
# except for an address.
node_setup() { # DIR CGROUP
	local dir=$1 cgroup=$2 tree setting path
	# Some of the kubelet's paths in /var/lib and /var/log cannot be changed by flags.
	for tree in lib log; do
		mkdir -p "$dir/var/$tree"
		mount --bind "$dir/var/$tree" "/var/$tree"
	done
	for tree in /sys/fs/cgroup /sys/fs/cgroup/*; do
		[ ! -e "$tree/cgroup.procs" ] || mkdir -p "$tree$cgroup"
	done
	# crun accepts cgroup v2 beside v1 only if v2 has no controllers.
	[ ! -e /sys/fs/cgroup/unified/cgroup.controllers ] || mount --bind /dev/null /sys/fs/cgroup/unified/cgroup.controllers
	# The next lines cover parts of /proc, and in a user namespace the kernel mounts proc
	# only if a whole one is visible: this one.
	mkdir "$dir/proc"
	mount -t proc proc "$dir/proc"
	# The kubelet would set these for the whole machine unless they are as it wants.
	mkdir "$dir/sysctl"
	for setting in vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1 \
		kernel/keys/root_maxkeys=1000000 kernel/keys/root_maxbytes=25000000; do
		path=${setting%=*}
		echo "${setting#*=}" >"$dir/sysctl/${path##*/}"
		mount --bind "$dir/sysctl/${path##*/}" "/proc/sys/$path"
	done
}

# node_address gives a node that has no cable to another one an address, and a default
# route that leads nowhere; it runs in its namespaces.
node_address() {
	ip link add node0 type veth peer name node1
	ip address add 192.0.2.10/24 dev node0
	ip link set node1 up
	ip link set node0 up
	ip route add default dev node0
}

# node_remove_cgroups removes a node's cgroups, which pods may have left.
node_remove_cgroups() { # CGROUP
	find /sys/fs/cgroup -depth -type d -path "*$1*" -exec rmdir {} + 2>/dev/null || true
}

# --- nodes in $cluster, which have a registry of their own at $registry -------------

declare -A cri=([cridock]=unix:///run/cridock/cridock.sock [containerd]=unix:///run/containerd/containerd.sock)

on() { # NODE COMMAND...
	engine_exec "$cluster/$1" "${@:2}"
}

# on_function runs a function of this script on a node.
on_function() { # NODE FUNCTION ARG...
	on "$1" bash -c 'set -eu; '"$(declare -f "$2")"'; "$@"' _ "${@:2}"
}

# node_files gives a node files of its own where kubeadm, the kubelet and pods with
# host paths write, above the machine's.
node_files() { # DIR
	local tree
	for tree in etc opt usr; do
		mkdir -p "$1/files/$tree"/{upper,work}
		mount -t overlay overlay -o "lowerdir=/$tree,upperdir=$1/files/$tree/upper,workdir=$1/files/$tree/work" "/$tree"
	done
	rm -rf /etc/{cni,kubernetes,cridock,nri} /opt/{cni,nri} /usr/libexec/kubernetes
	mkdir -p /etc/cni/net.d /opt/cni
	ln -s /usr/lib/cni /opt/cni/bin
	# kubeadm takes the program for a running systemd. Without one it asks its user to
	# stop and start the kubelet.
	rm -f /usr/bin/systemctl
}

# set_engine_flags sets the flags of nodes' engines in $dockerd, and the wrapper of runc
# that the machine needs, if any, in $wrapper.
set_engine_flags() {
	dockerd=(--live-restore)
	wrapper=$(runc_wrapper "$cluster")
	[ -z "$wrapper" ] || dockerd+=(--add-runtime "bounded=$wrapper" --default-runtime bounded)
}

start_node() { # NODE [DOCKERD_ARG...]
	local dir=$cluster/$1
	mkdir "$dir"
	engine_start "$dir" "${@:2}" >/dev/null
	on_function "$1" node_setup "$dir" "$(engine_cgroup "$dir")"
	on_function "$1" node_files "$dir"
	ln -s ../registry "$dir/registry" # one for both
	registry_start "$dir" "${registry##*:}" >/dev/null
}

remove_node() { # NODE
	(stop_service "$1" "$(runtime "$1")") || true # the namespaces' end kills it
	engine_stop "$cluster/$1"
	node_remove_cgroups "$(engine_cgroup "$cluster/$1")"
	engine_remove "$cluster/$1"
}

# service is what a unit with Restart=always is: it runs a command until it is stopped.
service() { # PIDFILE LOG COMMAND...
	local log=$2 pid=''
	echo $$ >"$1"
	trap 'kill -TERM "$pid"; wait "$pid"; exit 0' TERM
	while :; do
		"${@:3}" >>"$log" 2>&1 &
		pid=$!
		wait "$pid" || true
		sleep 1
	done
}

start_service() { # NODE NAME COMMAND...
	local dir=$cluster/$1 name=$2
	on "$1" setsid bash -c 'set -eu; '"$(declare -f service "$3" || true)"'; service "$@"' _ \
		"$dir/$name.pid" "$dir/$name.log" "${@:3}" </dev/null >/dev/null 2>&1 &
	disown
}

stop_service() { # NODE NAME
	local pid
	pid=$(cat "$cluster/$1/$2.pid" 2>/dev/null) || return 0
	on "$1" kill "$pid" 2>/dev/null || return 0
	wait_for 30 eval "! on $1 kill -0 $pid" || die "$1: $2 does not stop"
}

# runtime prints what a node runs its pods on: cridock or containerd.
runtime() { # NODE
	cat "$cluster/$1.runtime"
}

endpoint() { # NODE
	echo "${cri[$(runtime "$1")]}"
}

start_runtime() { # NODE
	local runtime socket
	runtime=$(runtime "$1")
	socket=$(endpoint "$1")
	"start_$runtime" "$1"
	wait_for 30 on "$1" test -S "${socket#unix://}" || {
		tail -n 20 "$cluster/$1/$runtime.log" >&2
		die "$runtime did not start on $1"
	}
}

start_cridock() { # NODE
	start_service "$1" cridock cridock serve --docker-endpoint "unix://$(engine_socket "$cluster/$1")" \
		--cni-conf-template "$cluster/cni.template" --v 4
}

start_containerd() { # NODE
	local config=$cluster/$1/containerd.toml
	cat >"$config" <<-END
		version = 2
		[plugins."io.containerd.internal.v1.opt"]
		  path = "$cluster/$1/opt"
		[plugins."io.containerd.grpc.v1.cri"]
		  sandbox_image = "$registry/pause:3.10.2"
		  disable_apparmor = true
		  restrict_oom_score_adj = true
		  [plugins."io.containerd.grpc.v1.cri".cni]
		    conf_template = "$cluster/cni.template"
		  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
		    runtime_type = "io.containerd.runc.v2"
		  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
		    BinaryName = "${wrapper:-runc}"
	END
	start_service "$1" containerd env "PATH=$containerd_dir:$PATH" containerd --config "$config"
}

# write_cni_template writes the CNI configuration of the nodes' runtimes, without the
# pod CIDR, which the kubelet sends.
write_cni_template() {
	cat >"$cluster/cni.template" <<-'END'
		{"cniVersion": "1.0.0", "name": "cluster", "plugins": [
		  {"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true,
		   "ipam": {"type": "host-local", "ranges": [[{"subnet": "{{.PodCIDR}}"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
		  {"type": "portmap", "capabilities": {"portMappings": true}}]}
	END
}
