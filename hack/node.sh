# Functions for scripts that run Kubernetes on a private engine; source it after lib.sh.
# shellcheck shell=bash

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

# node_remove_cgroups removes a node's cgroups, which pods may have left.
node_remove_cgroups() { # CGROUP
	find /sys/fs/cgroup -depth -type d -path "*$1*" -exec rmdir {} + 2>/dev/null || true
}
