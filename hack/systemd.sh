#!/bin/bash
# Tests the Debian package and "cridock migrate" on a machine with a real systemd, a
# real Docker Engine and real kubelets whose pods must keep running.
#
#   sudo hack/systemd.sh [SCENARIO...]      the default is all of them:
#
#   package      install, start, upgrade to a later version, remove, purge
#   cri-dockerd  migrate from a real cri-dockerd, back, and again; also after a kill
#   dockershim   migrate from the dockershim of a real kubelet 1.23, back, and again;
#                then start later kubelets (see "later") on the same pod
#
# The machine is systemd as the first process of its own namespaces, with this machine's
# files below a throw-away layer; its units are Docker's, cridock's, cri-dockerd's and
# the kubelet's. Nothing outside changes, and nothing is left. It needs cgroup v1 with
# all controllers: old kubelets do.
#
# cri-dockerd and the kubelets are built from the Go module proxy and kept in
# ${XDG_CACHE_HOME:-~/.cache}/cridock; each kubelet takes about ten minutes the first
# time. With LOGS=DIR the journal of a scenario that fails is kept there.
set -euo pipefail
export LC_ALL=C
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. hack/lib.sh

shim=v1.23.17 # the last kubelet with dockershim
read -ra later <<<"${CRIDOCK_KUBELETS-v1.24.17 v1.30.14 v1.37.2}"
socket=unix:///run/cridock/cridock.sock

# --- the machine -----------------------------------------------------------------

# make_machine lays out the machine's files in $root.
make_machine() {
	local path
	mkdir -p "$work"/{layer,data}
	mount -t tmpfs tmpfs "$work/layer"
	mkdir "$work/layer"/{upper,work,root}
	mount -t overlay overlay -o "lowerdir=/,upperdir=$work/layer/upper,workdir=$work/layer/work" "$root"
	for path in /var/lib/{docker,containerd,kubelet,cni,cridock,cri-dockerd,dockershim} /var/log /etc/{cni,docker,cridock,kubernetes}; do
		rm -rf "${root:?}$path"
	done
	# Docker cannot have its overlays below another one.
	for path in /var/lib/{docker,containerd,kubelet} /var/log; do
		mkdir -p "$work/data$path" "$root$path"
		mount --bind "$work/data$path" "$root$path"
	done
	: >"$root/var/lib/dpkg/triggers/File" # other packages' triggers take time
	make_units
	make_network
	mkdir -p "$root/opt/cni" "$root/etc/kubernetes/manifests" "$root/etc/docker"
	rm -rf "$root/opt/cni/bin"
	ln -s /usr/lib/cni "$root/opt/cni/bin"
	make_engine
	echo machine >"$root/etc/hostname"
	install -m755 /bin/busybox "$root/usr/bin/busybox"
	mkdir "$root/share"
	mount --bind "$work/share" "$root/share"
}

# make_units leaves only what the machine needs to start.
make_units() {
	local units=$root/usr/lib/systemd/system
	rm -rf "$root"/etc/systemd/system/* "$units"/*.target.wants/* "$root"/usr/{local/bin,bin}/{cridock,kubelet,cri-dockerd}
	ln -s ../systemd-journald.service ../systemd-tmpfiles-setup.service "$units/sysinit.target.wants"
	ln -s ../systemd-journald.socket ../systemd-journald-dev-log.socket "$units/sockets.target.wants"
	mkdir -p "$root/etc/systemd/system/multi-user.target.wants"
	ln -s /lib/systemd/system/docker.service "$root/etc/systemd/system/multi-user.target.wants"
	echo "[Unit]" >"$root/etc/systemd/system/network-online.target"
	cat >"$root/etc/systemd/system/kubelet.service" <<-'END'
		[Service]
		EnvironmentFile=-/var/lib/kubelet/kubeadm-flags.env
		ExecStart=/usr/bin/kubelet --config=/var/lib/kubelet/config.yaml --cert-dir=/var/lib/kubelet/pki $KUBELET_KUBEADM_ARGS
		Restart=always
		RestartSec=2
		[Install]
		WantedBy=multi-user.target
	END
	cat >"$root/var/lib/kubelet/config.yaml" <<-'END'
		apiVersion: kubelet.config.k8s.io/v1beta1
		kind: KubeletConfiguration
		staticPodPath: /etc/kubernetes/manifests
		authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
		authorization: {mode: AlwaysAllow}
		address: 127.0.0.1
		cgroupDriver: cgroupfs
		failSwapOn: false
		failCgroupV1: false
		oomScoreAdj: 0
		fileCheckFrequency: 1s
		evictionHard: {memory.available: 1Mi, nodefs.available: 1%, imagefs.available: 1%}
	END
}

make_network() {
	mkdir -p "$root/etc/cni/net.d"
	cat >"$root/etc/cni/net.d/10-test.conflist" <<-'END'
		{"cniVersion": "0.4.0", "name": "test", "plugins": [
		  {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
		   "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.88.0.0/16"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
		  {"type": "portmap", "capabilities": {"portMappings": true}}]}
	END
}

# make_engine configures Docker. Without CAP_SYS_RESOURCE, as in a container, the
# oom_score_adj that cri-dockerd and dockershim want for sandboxes cannot be set.
make_engine() {
	echo '{}' >"$root/etc/docker/daemon.json"
	[ $((0x$(awk '$1 == "CapEff:" { print $2 }' /proc/self/status) & 1 << 24)) = 0 ] || return 0
	cat >"$root/usr/local/bin/runc-score" <<-'END'
		#!/bin/sh
		for argument; do
			[ "$previous" != --bundle ] || config=$argument/config.json
			previous=$argument
		done
		if [ -e "$config" ]; then
			jq -c '.process.oomScoreAdj |= (if . and . < 0 then 0 else . end)' "$config" >"$config.new" && mv "$config.new" "$config" || exit
		fi
		exec runc "$@"
	END
	chmod 0755 "$root/usr/local/bin/runc-score"
	echo '{"runtimes": {"score": {"path": "/usr/local/bin/runc-score"}}, "default-runtime": "score"}' >"$root/etc/docker/daemon.json"
}

# boot makes this process the first of the machine: systemd.
boot() { # ROOT CONSOLE
	local device file setting path
	cd "$1"
	mount -t proc proc proc
	mount -t sysfs -o ro sysfs sys
	mount -t tmpfs -o mode=755 tmpfs dev
	mount -t tmpfs -o mode=755 tmpfs run
	mount -t tmpfs tmpfs tmp
	for device in null zero full random urandom tty kmsg; do
		touch "dev/$device"
		mount --bind "/dev/$device" "dev/$device"
	done
	touch dev/console # systemd's own messages go there
	mount --bind "$2" dev/console
	ln -s /proc/self/fd dev/fd
	mkdir dev/pts dev/shm
	mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
	ln -s pts/ptmx dev/ptmx
	mount -t tmpfs tmpfs dev/shm
	mount -t tmpfs -o mode=755 tmpfs sys/fs/cgroup
	awk '$3 == "cgroup" && $2 ~ "^/sys/fs/cgroup/" {print $2}' /proc/self/mounts | while read -r path; do
		file=sys/fs/cgroup/${path##*/}
		mkdir "$file"
		case $path in
		*/systemd) mount -t cgroup -o none,name=systemd none "$file" ;;
		*) mount -t cgroup -o "${path##*/}" none "$file" ;;
		esac
	done
	ip link set lo up
	ip link add node0 type veth peer name node1
	ip address add 192.0.2.10/24 dev node0
	ip link set node1 up
	ip link set node0 up
	ip route add default dev node0
	echo 1 >proc/sys/net/ipv4/ip_forward
	# The kubelet would set these for the whole machine unless they are as it wants.
	mkdir run/sysctl
	for setting in vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1 \
		kernel/keys/root_maxkeys=1000000 kernel/keys/root_maxbytes=25000000; do
		path=${setting%=*}
		echo "${setting#*=}" >"run/sysctl/${path##*/}"
		mount --bind "run/sysctl/${path##*/}" "proc/sys/$path"
	done
	mkdir -p run/outside
	mount --make-rprivate /
	pivot_root . run/outside
	umount -l /run/outside
	exec env -i container=other PATH=/usr/local/bin:/usr/sbin:/usr/bin /lib/systemd/systemd --unit=multi-user.target --log-target=console --show-status=0
}

# cgroups prints the machine's cgroup in each hierarchy.
cgroups() {
	awk '$3 == "cgroup" || $3 == "cgroup2" {print $2}' /proc/mounts | sed "s#\$#/$name#"
}

# enter_cgroups moves this process into the machine's cgroups.
enter_cgroups() {
	local group
	for group in $(cgroups); do
		mkdir -p "$group"
		if [ -e "$group/cpuset.cpus" ]; then
			cat "${group%/*}/cpuset.cpus" >"$group/cpuset.cpus"
			cat "${group%/*}/cpuset.mems" >"$group/cpuset.mems"
		fi
		echo 0 >"$group/cgroup.procs"
	done
}

start_machine() {
	make_machine
	: >"$work/console.log"
	(
		enter_cgroups
		exec unshare --mount --net --pid --uts --ipc --cgroup --fork --propagation private "$BASH" -c \
			'set -euo pipefail; eval "$3"; boot "$1" "$2"' _ "$root" "$work/console.log" "$(declare -f boot)"
	) </dev/null >"$work/boot.log" 2>&1 &
	unshared=$!
	wait_for 20 pgrep -P "$unshared" -x systemd || die "systemd does not start: $(cat "$work/boot.log")"
	first=$(pgrep -P "$unshared" -x systemd)
	wait_for 90 in_machine systemctl is-active docker.service || failed "Docker does not start"
	import_busybox_inside
}

stop_machine() {
	kill -KILL "$first"
	wait "$unshared" || true
	umount --recursive "$work/layer"
	rm -rf --one-file-system "$work/data"
}

in_machine() {
	nsenter --target "$first" --mount --net --pid --uts --ipc --cgroup --wd -- "$@"
}

import_busybox_inside() {
	local tree=$work/share/busybox
	[ -e "$tree" ] || { mkdir "$tree" && busybox_tree "$tree"; }
	in_machine sh -c 'tar -C /share/busybox -c . | docker import --change "CMD [\"sh\"]" - busybox:test' >/dev/null
	in_machine sh -c 'printf "FROM busybox:test\nSTOPSIGNAL SIGKILL\nENTRYPOINT [\"sleep\", \"1000000\"]\n" | docker build -q -t pause:test - 2>&1' >/dev/null
}

failed() {
	printf '%s\n' "error: ${FUNCNAME[1]}: $*" >&2
	cat "$work/output" >&2 2>/dev/null || true
	tail -n 20 "$work/console.log" >&2
	in_machine journalctl --no-pager -n 60 -u cridock -u cri-docker -u docker -o cat >&2 || true
	in_machine journalctl --no-pager -n 25 -u kubelet -o cat >&2 || true
	if [ -n "${LOGS-}" ]; then
		mkdir -p "$LOGS"
		in_machine journalctl --no-pager >"$LOGS/journal-$scenario.log" || true
	fi
	exit 1
}

# ok runs a command in the machine and keeps its output.
ok() { in_machine "$@" >"$work/output" 2>&1 || failed "$* failed"; }
says() { grep -qF -- "$1" "$work/output" || failed "the output lacks: $1"; }
active() { in_machine systemctl is-active --quiet "$1" || failed "$1 does not run"; }
inactive() { ! in_machine systemctl is-active --quiet "$1" || failed "$1 runs"; }
exists() { in_machine test -e "$1" || failed "$1 does not exist"; }
gone() { in_machine test ! -e "$1" || failed "$1 exists"; }

# --- pods ------------------------------------------------------------------------

# add_pod gives the kubelet a static pod. It has a UID of its own: that which the
# kubelet makes up depends on the kubelet's version.
add_pod() { # NAME HOST-PORT
	cat >"$root/etc/kubernetes/manifests/.new" <<-END
		apiVersion: v1
		kind: Pod
		metadata: {name: $1, uid: $(printf '%08x' "$2")-0000-4000-8000-000000000000}
		spec:
		  terminationGracePeriodSeconds: 0
		  containers:
		  - name: logger
		    image: busybox:test
		    imagePullPolicy: Never
		    command: [sh, -c, 'i=0; while :; do echo "line \$i"; i=\$((i+1)); usleep 50000; done']
		  - name: server
		    image: busybox:test
		    imagePullPolicy: Never
		    command: [sh, -c, 'echo hello >/tmp/index.html; exec httpd -f -p 80 -h /tmp']
		    ports: [{containerPort: 80, hostPort: $2}]
	END
	mv "$root/etc/kubernetes/manifests/.new" "$root/etc/kubernetes/manifests/$1.yaml"
	wait_for 120 kubelet_has "$1" 0 || failed "pod $1 does not start"
}

# kubelet_has reports whether the kubelet sees both containers of a pod as ready, with
# this number of restarts.
kubelet_has() { # POD RESTARTS
	in_machine curl -sk --max-time 5 https://127.0.0.1:10250/pods | jq -e --arg pod "$1-machine" --argjson restarts "$2" \
		'.items[] | select(.metadata.name == $pod).status.containerStatuses | length == 2 and all(.ready and .restartCount == $restarts)'
}

# remember notes the containers and processes of all pods.
remember() { containers_of_pods >"$work/before"; }

containers_of_pods() {
	in_machine sh -c 'docker ps --all --quiet --no-trunc --filter label=io.kubernetes.pod.uid | sort |
		xargs docker inspect --format "{{.Id}} {{.Name}} {{.State.Pid}} {{.State.StartedAt}}"'
}

# unchanged checks that all pods run on: the same containers and processes, no other
# container, every line of the logs once, and the host port.
unchanged() { # POD HOST-PORT
	containers_of_pods >"$work/after"
	diff "$work/before" "$work/after" >&2 || failed "containers of pods have changed"
	whole_log "$1"
	[ "$(in_machine curl -s --max-time 5 "http://192.0.2.10:$2/")" = hello ] || failed "host port $2 does not answer"
}

# managed checks that the kubelet sees a pod as it was, and can use its containers.
managed() { # POD
	wait_for 60 kubelet_has "$1" 0 || failed "the kubelet does not see pod $1 ready and without restarts"
	[ "$(in_machine curl -sk --max-time 10 -X POST "https://127.0.0.1:10250/run/default/$1-machine/logger?cmd=echo%20inside")" = inside ] ||
		failed "exec in pod $1 fails"
}

# whole_log checks that a log has every line once, in order, and that new lines come.
whole_log() { # POD
	local last
	last=$(last_line "$1")
	wait_for 20 grown "$1" "$last" || failed "the log of $1 does not grow from line $last"
	in_machine sh -c 'cat /var/log/pods/*_'"$1"'-machine_*/logger/0.log' | grep -o 'line [0-9]*' |
		awk '$2 != NR - 1 { print "line " NR " of the log is \"" $0 "\""; exit 1 }' >&2 || failed "the log of $1 is not whole"
}

last_line() { in_machine sh -c 'cat /var/log/pods/*_'"$1"'-machine_*/logger/0.log' | grep -o 'line [0-9]*' | tail -n 1 | cut -d' ' -f2; }
grown() { [ "$(last_line "$1")" -gt "$2" ]; }

kubelet_flags() { echo "KUBELET_KUBEADM_ARGS=\"$*\"" >"$root/var/lib/kubelet/kubeadm-flags.env"; }

# use_kubelet replaces the kubelet; it does not start it.
use_kubelet() { # VERSION
	rm -f "$root/usr/bin/kubelet"
	install -m755 "$work/share/kubelet-$1" "$root/usr/bin/kubelet"
}

# --- scenarios -------------------------------------------------------------------

scenario_package() {
	use_kubelet "$newest"
	ok dpkg --install /share/cridock.deb
	says "cridock migrate"
	inactive cridock.service
	inactive cri-docker.service
	ok systemctl enable --now cridock.service
	kubelet_flags "--container-runtime-endpoint=$socket"
	ok systemctl enable --now kubelet.service
	add_pod logger 18091
	remember

	upgrade
	remove
	purge
}

upgrade() {
	local pid
	pid=$(in_machine systemctl show --property MainPID --value cridock.service)
	ok dpkg --install /share/later.deb
	wait_for 60 restarted "$pid" || failed "cridock was not restarted"
	ok cridock --version
	says "v99.0.0"
	ok readlink "/proc/$(in_machine systemctl show --property MainPID --value cridock.service)/exe"
	says /usr/bin/cridock
	managed logger
	unchanged logger 18091
	log "  upgraded: same containers, every line of the log once"
}

restarted() { # PID
	local now
	now=$(in_machine systemctl show --property MainPID --value cridock.service)
	[ "$now" != 0 ] && [ "$now" != "$1" ] && in_machine systemctl is-active cridock.service
}

remove() {
	ok dpkg --remove cridock
	says "Pods keep running"
	gone /usr/bin/cridock
	exists /etc/cridock/cridock.yaml
	containers_of_pods | diff "$work/before" - >&2 || failed "containers of pods have changed"
	# It comes back to its pods, and to what they have logged meanwhile.
	ok dpkg --install /share/later.deb
	ok systemctl enable --now cridock.service
	managed logger
	unchanged logger 18091
	log "  removed and installed again: same containers, every line of the log once"
}

purge() {
	ok dpkg --purge cridock
	says "stay: there are pods that use them"
	exists /var/lib/cridock
	containers_of_pods | diff "$work/before" - >&2 || failed "containers of pods have changed"
	ok systemctl disable --now kubelet.service
	ok sh -c 'docker rm --force $(docker ps --all --quiet)'
	ok dpkg --install /share/later.deb
	ok dpkg --purge cridock
	gone /var/lib/cridock
	gone /run/cridock
	gone /etc/cridock/cridock.yaml
	inactive cridock.service
	! in_machine sh -c 'grep -rl cridock /etc/systemd/system' || failed "units are left"
	log "  purged: nothing is left"
}

# by_hand installs cri-dockerd as its own guide does: units in /etc, a socket unit.
by_hand() {
	install -m755 "$work/share/cri-dockerd" "$root/usr/bin/cri-dockerd"
	cat >"$root/etc/systemd/system/cri-docker.service" <<-'END'
		[Unit]
		After=docker.service
		Requires=cri-docker.socket
		[Service]
		Type=notify
		ExecStart=/usr/bin/cri-dockerd --container-runtime-endpoint fd:// --pod-infra-container-image=pause:test --network-plugin=cni
		Restart=always
		KillMode=process
		[Install]
		WantedBy=multi-user.target
	END
	cat >"$root/etc/systemd/system/cri-docker.socket" <<-'END'
		[Unit]
		PartOf=cri-docker.service
		[Socket]
		ListenStream=%t/cri-dockerd.sock
		SocketMode=0660
		SocketUser=root
		SocketGroup=docker
		[Install]
		WantedBy=sockets.target
	END
	ok systemctl daemon-reload
	ok systemctl enable --now cri-docker.socket cri-docker.service
}

scenario_cri-dockerd() {
	use_kubelet "$newest"
	by_hand
	kubelet_flags "--container-runtime-endpoint=unix:///var/run/cri-dockerd.sock"
	ok systemctl enable --now kubelet.service
	add_pod logger 18092
	remember
	ok dpkg --install /share/cridock.deb
	says "cri-dockerd is running"
	! in_machine cridock doctor --config /etc/cridock/cridock.yaml >"$work/output" 2>&1 || failed "doctor finds nothing wrong"
	says "cridock migrate --from cri-dockerd"
	active cri-docker.service
	inactive cridock.service
	unchanged logger 18092

	there_and_back cri-dockerd cri-docker.service logger 18092
	killed cri-dockerd cri-docker.service logger 18092
}

# there_and_back ends on cridock.
there_and_back() { # FROM UNIT POD PORT
	ok cridock migrate --from "$1" --dry-run
	says "Nothing was changed"
	to_cridock "$@" --from "$1"
	log "  migrated from $1: same containers, every line of the log once"
	ok cridock migrate --back --yes
	inactive cridock.service
	active "$2"
	active kubelet.service
	managed "$3"
	unchanged "$3" "$4"
	log "  migrated back to $1: same containers, every line of the log once"
	to_cridock "$@" --from "$1"
	log "  migrated from $1 again: same containers, every line of the log once"
}

to_cridock() { # FROM UNIT POD PORT ARG...
	local unit=$2 pod=$3 port=$4
	shift 4
	ok cridock migrate "$@" --yes
	active cridock.service
	active kubelet.service
	[ "$unit" = kubelet.service ] || inactive "$unit"
	managed "$pod"
	unchanged "$pod" "$port"
}

# killed kills a migration once it has stopped the kubelet. The next call goes back or
# on.
killed() { # FROM UNIT POD PORT
	ok cridock migrate --back --yes
	kill_migration "$1"
	ok cridock migrate --back --yes
	active "$2"
	managed "$3"
	unchanged "$3" "$4"
	log "  killed, then undone: same containers, every line of the log once"
	kill_migration "$1"
	to_cridock "$@" --resume
	log "  killed, then resumed: same containers, every line of the log once"
}

kill_migration() { # FROM
	# systemctl stop kubelet is a first step; "timeout" cannot know it, so watch for it.
	in_machine sh -c 'cridock migrate --from "$1" --yes >/run/migrate.log 2>&1 & pid=$!
		while kill -0 $pid && systemctl is-active --quiet kubelet.service; do :; done
		kill -KILL $pid && ! wait $pid' _ "$1" 2>/dev/null || failed "the migration was not killed in time"
	! in_machine cridock migrate --from "$1" --yes >"$work/output" 2>&1 || failed "a second migration begins"
	says "was interrupted"
}

scenario_dockershim() {
	local version
	use_kubelet "$shim"
	kubelet_flags "--network-plugin=cni --pod-infra-container-image=pause:test"
	ok systemctl enable --now kubelet.service
	add_pod logger 18093
	remember
	ok dpkg --install /share/cridock.deb
	there_and_back dockershim kubelet.service logger 18093
	for version in "${later[@]}"; do
		later_kubelet "$version" $((18000 + ${version:3:2}))
	done
}

# later_kubelet replaces the kubelet by a later one. It must keep the pod, run a new
# one, and remove that. From 1.31 on the kubelet does not recognize the containers of an
# earlier one, and restarts them once, whatever the runtime (kubernetes/kubernetes#129385).
later_kubelet() { # VERSION PORT
	local minor=${1#v1.} kept="kept the pod"
	minor=${minor%%.*}
	ok systemctl stop kubelet.service
	use_kubelet "$1"
	# Flags that later kubelets do not know.
	sed -i -e 's/--container-runtime=remote//' -e 's/--pod-infra-container-image=[^ "]*//' "$root/var/lib/kubelet/kubeadm-flags.env"
	ok systemctl start kubelet.service
	if [ "$minor" -lt 31 ]; then
		managed logger
		unchanged logger 18093
	else
		kept="kept the sandbox"
		restarted_once logger
		remember
	fi
	add_pod fresh "$2"
	managed fresh
	whole_log fresh
	rm "$root/etc/kubernetes/manifests/fresh.yaml"
	wait_for 120 nothing_of fresh || failed "pod fresh is not removed"
	containers_of_pods | diff "$work/before" - >&2 || failed "containers of pods have changed"
	log "  kubelet $1 on cridock: $kept of $shim, ran and removed another"
}

# restarted_once waits until both containers of a pod have been restarted in the same
# sandbox.
restarted_once() { # POD
	wait_for 120 kubelet_has "$1" 1 || failed "the kubelet does not see pod $1 ready after one restart"
	# The first attempts are removed with the next collection.
	diff <(grep /k8s_POD_ "$work/before") <(containers_of_pods | grep /k8s_POD_) >&2 || failed "the sandbox of pod $1 has changed"
}

nothing_of() { # POD
	[ -z "$(in_machine docker ps --all --quiet --filter "label=io.kubernetes.pod.name=$1-machine")" ]
}

# --- main ------------------------------------------------------------------------

# kubelet_of builds a kubelet unless it is built, and prints its path.
kubelet_of() { # VERSION
	local package=k8s.io/component-base/version minor=${1#v*.}
	build_foreign kubelet "$1" k8s.io/kubernetes ./cmd/kubelet \
		"-X $package.gitVersion=$1 -X $package.gitMajor=1 -X $package.gitMinor=${minor%%.*}"
}

# prepare builds everything that the scenarios need into $work/share.
prepare() {
	local version binary kubelets=("$newest")
	mkdir "$work/share"
	[[ " $* " != *" cri-dockerd "* ]] || { binary=$(hack/cri-dockerd.sh build) && cp "$binary" "$work/share/cri-dockerd"; }
	[[ " $* " != *" dockershim "* ]] || kubelets+=("$shim" "${later[@]}")
	for version in "${kubelets[@]}"; do
		binary=$(kubelet_of "$version")
		cp "$binary" "$work/share/kubelet-$version"
	done
	for version in v0.0.0 v99.0.0; do
		ARCHS=$(go env GOHOSTARCH) DIST=$work/dist-$version hack/release.sh "$version-dirty"
	done
	cp "$work"/dist-v0.0.0/*.deb "$work/share/cridock.deb"
	cp "$work"/dist-v99.0.0/*.deb "$work/share/later.deb"
	rm -rf "$work"/dist-*
}

need_root
# The kubelet of e2e/kubelet.
newest=$(sed -n 's/^\tk8s.io\/kubernetes //p' e2e/kubelet/go.mod)
[ $# -gt 0 ] || set -- package cri-dockerd dockershim
for scenario; do
	declare -F "scenario_$scenario" >/dev/null || die "unknown scenario $scenario"
done
if [ -z "${CRIDOCK_SYSTEMD_WORK-}" ]; then
	find_go
	install_missing docker.io containernetworking-plugins iptables iproute2 mount busybox-static curl jq systemd
	work=$(mktemp -d /var/tmp/cridock-systemd.XXXXXX) name=$(basename "$work")
	# shellcheck disable=SC2154 # the trap sets group
	trap 'for group in $(cgroups); do find "$group" -depth -type d -exec rmdir {} + 2>/dev/null || true; done; rm -rf --one-file-system "$work"' EXIT
	trap 'exit 130' INT
	trap 'exit 143' TERM
	prepare "$@"
	# When the first process of the PID namespace exits, the machine is gone.
	CRIDOCK_SYSTEMD_WORK=$work unshare --mount --pid --fork --kill-child --mount-proc --propagation private "$0" "$@" &
	wait $!
	exit
fi
work=$CRIDOCK_SYSTEMD_WORK name=$(basename "$CRIDOCK_SYSTEMD_WORK") root=$CRIDOCK_SYSTEMD_WORK/layer/root
for scenario; do
	log "$scenario"
	start_machine
	"scenario_$scenario"
	stop_machine
	log "$scenario: ok"
done
