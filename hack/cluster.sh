#!/bin/bash
# A cluster of two nodes on this machine, made by kubeadm, whose pods - the control
# plane among them - run on cridock.
#
#   sudo hack/cluster.sh up             make the cluster
#   sudo hack/cluster.sh kubectl ...    run kubectl on its first node
#   sudo hack/cluster.sh node N ...     run a command on a node: 1 or 2
#   sudo hack/cluster.sh test           test the cluster that is up, or one that is made
#                                       for this and removed afterwards
#   sudo hack/cluster.sh smoke          the same with the most important checks only
#   sudo hack/cluster.sh disrupt        restart and kill cridock and Docker under a Service
#                                       that a client uses, likewise
#   sudo hack/cluster.sh down           run "kubeadm reset" on both nodes, check that
#                                       they are clean, and remove them
#   sudo hack/cluster.sh build          only build the programs and print their paths
#   hack/cluster.sh built               succeed if they are already built; the exit
#                                       status is 3 if they are not
#
# The programs of Kubernetes, etcd and CoreDNS are built from the Go module proxy in the
# release that e2e/kubelet/go.mod requires, and kept in
# ${XDG_CACHE_HOME:-~/.cache}/cridock. Building takes some minutes each.
#
# A node is a private engine (see hack/engine.sh) with its own address, /etc, /opt,
# /usr, /var/lib, /var/log, cgroup and kernel settings; a cable connects the two. The
# images are made of the programs and come from a registry on each node's loopback.
# docs/cluster.md says more.
#
#   NODE2=containerd   "up": the second node runs containerd in place of cridock (built
#                      from the Go module proxy, too)
#   CLUSTER=DIR   where the nodes are (default /var/tmp/cridock-cluster)
#   LOGS=DIR      "test", "smoke" and "disrupt" keep all logs there
#   AWAY=N        "disrupt" stops the second node's runtime for N seconds (default 600)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. hack/lib.sh
. hack/node.sh

cluster=${CLUSTER:-/var/tmp/cridock-cluster}
registry=127.0.0.1:5000
busybox=$registry/busybox:cluster
metrics_server_version=v0.9.0
metrics_server_image=$registry/metrics-server:$metrics_server_version
declare -A address=([node1]=192.0.2.11 [node2]=192.0.2.12)
. hack/smoke.sh
. hack/disrupt.sh

# --- programs --------------------------------------------------------------------

kubernetes_commands=(kubelet kubeadm kubectl kube-apiserver kube-controller-manager kube-scheduler kube-proxy)

# programs prints the path of each program.
programs() {
	set -e # a command substitution does not inherit it
	local command
	for command in "${kubernetes_commands[@]}"; do
		kubernetes_program "$command" k8s.io/kubernetes
	done
	kubernetes_program etcd go.etcd.io/etcd/server/v3
	coredns_program
}

build_programs() {
	set -e # a command substitution does not inherit it
	local command
	for command in "${kubernetes_commands[@]}"; do
		kubernetes_build "$command" k8s.io/kubernetes
	done
	kubernetes_build etcd go.etcd.io/etcd/server/v3
	build_coredns
}

all_built() {
	local program paths
	paths=$(programs) || die "cannot tell which programs are needed"
	for program in $paths; do
		[ -x "$program" ] || return
	done
}

# --- nodes -----------------------------------------------------------------------

# connect joins the nodes by a cable, and gives them addresses. They have a default
# route, which leads nowhere, because kubeadm and CNI plugins expect one.
connect() {
	local node one two
	one=$(engine_pid "$cluster/node1")
	two=$(engine_pid "$cluster/node2")
	nsenter --target "$one" --net ip link add eth0 type veth peer name eth0 netns "$two"
	for node in node1 node2; do
		on "$node" ip address add "${address[$node]}/24" dev eth0
		on "$node" ip link set eth0 up
		on "$node" ip route add default dev eth0
		printf '%s\n' "${address[node1]} node1" "${address[node2]} node2" | on "$node" tee -a /etc/hosts >/dev/null
	done
}

# run_kubelet is the unit's drop-in that Kubernetes' packages have for kubeadm.
run_kubelet() {
	until [ -e /var/lib/kubelet/config.yaml ]; do sleep 0.2; done
	# shellcheck disable=SC1091 # kubeadm writes it
	. /var/lib/kubelet/kubeadm-flags.env
	# shellcheck disable=SC2086 # the variable is a list
	exec kubelet --bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf --kubeconfig=/etc/kubernetes/kubelet.conf \
		--config=/var/lib/kubelet/config.yaml $KUBELET_KUBEADM_ARGS
}

# --- images ----------------------------------------------------------------------

# iptables_tree copies the machine's iptables with all that it loads.
iptables_tree() { # TREE
	local program modules file name
	program=$(readlink -f "$(command -v iptables)")
	modules=$(find /usr/lib /lib -type d -name xtables -print -quit)
	{
		printf '%s\n' "$program" "$modules"/*.so
		ldd "$program" "$modules"/*.so | grep -oE '/[^ ]+ \(' | cut -d ' ' -f 1
	} | sort -u | while read -r file; do
		cp -L --parents "$file" "$1"
	done
	mkdir -p "$1/usr/sbin"
	for name in ip{,6}tables{,-save,-restore}; do
		ln -s "$program" "$1/usr/sbin/$name"
	done
}

# push_program makes an image of a program. As CoreDNS in the image of its project, it
# is also the entry point: kubeadm names no command for CoreDNS.
push_program() { # SOCKET IMAGE
	local name tree
	name=${2##*/} name=${name%:*}
	tree=$(mktemp -d)
	mkdir -p "$tree"/{etc,tmp,usr/local/bin}
	cp "$cluster/bin/$name" "$tree/usr/local/bin/$name"
	[ "$name" != kube-proxy ] || iptables_tree "$tree"
	push_image "$1" "$(import_tree "$1" "$2" "$tree" "ENTRYPOINT [\"/usr/local/bin/$name\"]")" "$2"
	rm -r "$tree"
}

# push_images fills the registry with what kubeadm asks for, and an image for pods. In
# place of its own sandbox image it gets cridock's, with which cridock makes sandboxes
# whatever kubeadm says.
push_images() {
	local socket image
	socket=$(engine_socket "$cluster/node1")
	wait_for 30 pause_image "$socket" || die "cridock made no sandbox image"
	for image in $(on node1 kubeadm config images list --config "$cluster/init.yaml"); do
		case $image in
		*/pause:*) push_image "$socket" "$(pause_image "$socket")" "$image" ;;
		*) push_program "$socket" "$image" ;;
		esac
	done
	push_image "$socket" "$(import_busybox "$socket" "$busybox")" "$busybox"
}

# push_metrics_server adds what only "test" needs to the registry.
push_metrics_server() {
	cp "$(foreign_program metrics-server "$metrics_server_version")" "$cluster/bin/metrics-server"
	push_program "$(engine_socket "$cluster/node1")" "$metrics_server_image"
}

# --- the cluster -----------------------------------------------------------------

# registration prints a node's part of kubeadm's configuration. What this machine
# forces is in docs/cluster.md.
registration() { # NODE
	cat <<-END
		nodeRegistration:
		  name: $1
		  criSocket: $(endpoint "$1")
		  taints: [] # the control plane's node runs other pods, too
		  ignorePreflightErrors: [SystemVerification] # cgroup v1: for kubeadm an error, whatever failCgroupV1 says
		  kubeletExtraArgs:
		  - {name: node-ip, value: ${address[$1]}}
		  - {name: cgroup-root, value: $(engine_cgroup "$cluster/$1")}
	END
}

write_configuration() {
	local version
	version=$(kubernetes_program kubeadm k8s.io/kubernetes)
	{
		cat <<-END
			apiVersion: kubeadm.k8s.io/v1beta4
			kind: InitConfiguration
			localAPIEndpoint: {advertiseAddress: ${address[node1]}}
		END
		registration node1
		cat <<-END
			---
			apiVersion: kubeadm.k8s.io/v1beta4
			kind: ClusterConfiguration
			kubernetesVersion: ${version##*-}
			imageRepository: $registry
			networking: {podSubnet: 10.244.0.0/16}
			---
			apiVersion: kubelet.config.k8s.io/v1beta1
			kind: KubeletConfiguration
			failCgroupV1: false
			failSwapOn: false
			oomScoreAdj: 0 # a negative one needs CAP_SYS_RESOURCE
			resolvConf: $cluster/resolv.conf
			evictionHard: {memory.available: 1Mi, nodefs.available: 1Mi, imagefs.available: 1Mi}
			imageGCHighThresholdPercent: 100 # the disk is the machine's
			---
			apiVersion: kubeproxy.config.k8s.io/v1alpha1
			kind: KubeProxyConfiguration
			mode: iptables
			# These settings are the whole machine's.
			conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
		END
	} >"$cluster/init.yaml"
	# There is no name server but the cluster's.
	echo "nameserver 192.0.2.53" >"$cluster/resolv.conf"
	write_cni_template
}

# kubeadm runs it on a node. Its output is shown if it fails.
kubeadm() { # NODE ARG...
	local output=$cluster/$1/kubeadm.log
	on "$1" kubeadm "${@:2}" >>"$output" 2>&1 || {
		tail -n 40 "$output" >&2
		die "$1: kubeadm $2 failed"
	}
}

kubectl() { on node1 env KUBECONFIG=/etc/kubernetes/admin.conf kubectl "$@"; }

pod_cidr() { # NODE
	kubectl get node "$1" --output 'jsonpath={.spec.podCIDR}' | grep .
}

init() {
	start_service node1 kubelet run_kubelet
	kubeadm node1 init --config "$cluster/init.yaml"
}

join() {
	local endpoint token hash
	# kubeadm join ENDPOINT --token TOKEN --discovery-token-ca-cert-hash HASH
	read -r _ _ endpoint _ token _ hash < <(on node1 kubeadm token create --print-join-command)
	{
		cat <<-END
			apiVersion: kubeadm.k8s.io/v1beta4
			kind: JoinConfiguration
			discovery:
			  bootstrapToken: {apiServerEndpoint: "$endpoint", token: $token, caCertHashes: ["$hash"]}
		END
		registration node2
	} >"$cluster/join.yaml"
	start_service node2 kubelet run_kubelet
	kubeadm node2 join --config "$cluster/join.yaml"
}

# route lets each node reach the pods of the other.
route() {
	local node
	for node in node1 node2; do
		wait_for 60 pod_cidr "$node" || die "$node has no pod CIDR"
	done
	on node1 ip route add "$(pod_cidr node2)" via "${address[node2]}"
	on node2 ip route add "$(pod_cidr node1)" via "${address[node1]}"
}

ready() {
	kubectl wait --for condition=Ready node --all --timeout 2m &&
		kubectl --namespace kube-system rollout status daemonset/kube-proxy --timeout 2m &&
		kubectl --namespace kube-system rollout status deployment/coredns --timeout 3m
}

await_ready() {
	ready >/dev/null && return
	kubectl get node,pod --all-namespaces --output wide >&2
	kubectl get events --all-namespaces --field-selector type=Warning >&2
	die "the cluster is not ready"
}

up() {
	local program paths wrapper dockerd
	[ ! -e "$cluster" ] || die "$cluster exists: run \"hack/cluster.sh down\" first"
	mkdir -p "$cluster"/{bin,registry}
	echo cridock >"$cluster/node1.runtime"
	echo "$NODE2" >"$cluster/node2.runtime"
	log "building cridock"
	CGO_ENABLED=0 go build -trimpath -o "$cluster/bin/" ./cmd/cridock ./cmd/cridock-runtime
	paths=$(programs)
	for program in $paths; do
		cp "$program" "$cluster/bin/$(basename "${program%-v*}")"
	done
	CGO_ENABLED=0 go build -trimpath -o "$cluster/bin/requests" ./hack/requests
	set_engine_flags
	log "starting two nodes in $cluster"
	dockerd+=(--add-runtime "cridock=$cluster/bin/cridock-runtime")
	start_node node1 "${dockerd[@]}"
	start_node node2 "${dockerd[@]}"
	connect
	write_configuration
	start_runtime node1
	start_runtime node2
	log "making images"
	push_images
	log "kubeadm init"
	init
	log "kubeadm join"
	join
	route
	log "waiting for the cluster"
	await_ready
	log "the cluster is up after $SECONDS s"
}

# reset resets a node with kubeadm, and prints what is left of its pods.
reset() { # NODE
	stop_service "$1" kubelet
	kubeadm "$1" reset --force --cri-socket "$(endpoint "$1")"
	curl -sf --unix-socket "$(engine_socket "$cluster/$1")" 'http://docker/containers/json?all=1' | jq -r '.[] | "container \(.Names[0])"'
	on_function "$1" leftovers
}

# leftovers prints what a runtime and CNI plugins have left on a node without pods. The
# links in /var/log/containers are the kubelet's; it removes them only while it runs.
leftovers() {
	find /var/lib/kubelet /etc/kubernetes/manifests /run/cridock/netns /run/cridock/image-volumes /var/lib/cridock/sandboxes \
		/var/lib/cridock/containers /var/lib/containerd/io.containerd.grpc.v1.cri/{sandboxes,containers} \
		/var/lib/cni/networks/cluster /var/lib/cni/cache/results \
		-mindepth 1 ! -name '.*' ! -name 'last_reserved_ip*' ! -name lock 2>/dev/null || true
	# The directory of image volumes is a file system of its own, as long as the node is up.
	awk '$2 ~ "^/var/lib/kubelet/|^/run/cridock" && $2 != "/run/cridock/image-volumes" { print "mount " $2 }' /proc/mounts
}

# down removes a cluster, whole or not. It fails if pods leave anything on a node.
down() {
	local node left status=0
	for node in node2 node1; do
		if engine_pid "$cluster/$node" >/dev/null; then
			log "kubeadm reset on $node"
			left=$(reset "$node") || status=1
			[ -z "$left" ] || {
				log "left on $node:"
				printf '%s\n' "$left" >&2
				status=1
			}
		fi
		remove_node "$node" || status=1
	done
	rm -rf --one-file-system -- "$cluster"
	return "$status"
}

keep_logs() {
	local node
	for node in node1 node2; do
		mkdir -p "$1/$node"
		cp -a "$cluster/$node"/*.log "$cluster/$node/var/log/pods" "$1/$node/" || true
	done
}

# --- commands --------------------------------------------------------------------

prepare() {
	need_root
	install_missing docker.io containernetworking-plugins iptables iproute2 mount docker-registry busybox-static curl jq bsdutils
	case ${NODE2:=cridock} in
	cridock) ;;
	containerd) containerd_dir=$(build_containerd) || die "cannot build containerd" ;;
	*) die "NODE2: $NODE2 is not cridock or containerd" ;;
	esac
	build_programs >/dev/null # what needs a network: the nodes have none
}

finish() {
	local status=$?
	trap - EXIT
	[ -z "${LOGS-}" ] || keep_logs "$LOGS" || status=1
	down || status=1
	[ -z "${summary-}" ] || printf '%s\n' "$summary"
	exit "$status"
}

find_go
export PATH="$cluster/bin:$PATH"
case ${1-} in
build)
	need_root
	install_missing jq
	build_programs
	;;
built) all_built || exit 3 ;;
up)
	prepare
	up
	;;
down)
	need_root
	down
	;;
kubectl)
	need_root
	kubectl "${@:2}"
	;;
node)
	need_root
	on "node$2" "${@:3}"
	;;
test | smoke | disrupt)
	prepare
	[ "$1" != test ] || build_foreign metrics-server "$metrics_server_version" sigs.k8s.io/metrics-server ./cmd/metrics-server "" >/dev/null
	made=''
	if [ ! -e "$cluster" ]; then
		made=1
		trap finish EXIT
		trap 'exit 130' INT
		trap 'exit 143' TERM
		up
	fi
	case $1 in
	test) smoke all ;;
	smoke) smoke short ;;
	disrupt) disrupt ;;
	esac
	[ "$made" ] || printf '%s\n' "$summary"
	[ "$failed" = 0 ]
	;;
*)
	sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0" >&2
	exit 2
	;;
esac
