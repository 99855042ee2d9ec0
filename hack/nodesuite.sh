# The suite of a node (e2e_node), for hack/conformance.sh, which sources it: the node has
# a kubelet and a runtime, and the suite starts an API server and etcd in its own process.
# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154 # shared with the script that sources this one

runtime=${RUNTIME:-cridock}
cluster=${CLUSTER:-/var/tmp/cridock-nodesuite}
results=${RESULTS:-/var/tmp/cridock-node-$runtime}
images=$results/images # it is kept, as the node is not
suite=e2e_node
group='gsub("\\[[^]]*\\] *"; "") | gsub(" +$"; "")'
registry=127.0.0.1:5001 # specs have a registry of their own at 5000
selection=. # nothing would leave those with a feature out
node=e2e-node

# excluded prints the specs that are not run: REASON, REGEXP.
excluded() {
	cat <<-'END'
		flaky	\[Flaky\]
		needs features that are off by default	\[Feature:OffByDefault\]
		needs a proxy between the kubelet and the runtime	\[Feature:CriProxy\]
		needs a kubelet without an API server	\[Feature:StandaloneMode\]
		needs systemd	\[Feature:GracefulNodeShutdown\]|MirrorPodWithGracePeriod .*container runtime
		needs a kubelet with other flags	\[Feature:LockContention\]
		needs a second file system, or quotas	\[Feature:KubeletSeparateDiskGC\]|\[Feature:LSCIQuotaMonitoring\]
		fills the disk or the memory, which are the machine's	Eviction|MemoryAllocatable
		measures the machine, with images that are not made	\] (Density|Resource-usage|Node Performance Testing) 
		needs images by their digests, or of their projects' registries	\[Feature:ImageID\]|\[Feature:DevicePlugin\]|ImageGarbageCollect
		needs protocols and devices that the kernel may lack	\[Feature:SCTPConnectivity\]|PrivilegedPod
		needs a kernel that promises more memory than there is	OOMKiller for pod using more memory than node allocatable
		expects the words of another shell	should not write to root filesystem
		needs an oom_score_adj below that of the machine's processes	\[Feature:OOMScoreAdj\]|PLR guaranteed qos|Resize Container guaranteed qos .* (cpu|mem) restart 
		needs a kernel with NFS	MirrorPod .*volume failing to unmount
		needs huge pages of 1 GiB, for which the memory must not be fragmented	HugePages .*(multiple hugepages resources|(multiple|different) page size)
		needs cgroup v2, or looks for it too late	\[Feature:NodeSwap\] (Basic functionality|with swap stress|with a critical pod)
		needs a credential provider	\[Feature:KubeletCredentialProviders\]
	END
}

# run_suite runs it where its kubelet is. It looks for the kubelet beside itself, and
# keeps the kubelet's configuration there. In the background, so that a signal is handled
# at once; the suite ends with the node.
run_suite() { # DIR GINKGO ARGUMENTS...
	local gates=()
	[ -z "${FEATURE_GATES-}" ] || gates=(--feature-gates "$FEATURE_GATES" --service-feature-gates "$FEATURE_GATES")
	ginkgo "${@:2}" "$cluster/bin/e2e_node.test" -- --node-name "$node" --container-runtime-endpoint "$(endpoint "$node")" \
		--container-runtime-process-name "$runtime" \
		--prepull-images=false --kubelet-config-file "$cluster/kubelet.yaml" --report-dir "$1" \
		--kubelet-flags --runtime-cgroups=/runtime "${gates[@]}" &
	wait $!
}

# own_cgroups runs a command in a cgroup namespace, because specs look for the pods'
# cgroups at the root. Afterwards its cgroups are removed.
own_cgroups() { # COMMAND...
	local cgroup child status=0
	[ ! -e /sys/fs/cgroup/cgroup.controllers ] || die "the suite of a node needs cgroup v1 here"
	cgroup=$(engine_cgroup "$cluster")
	(
		move_to "$cgroup" "$BASHPID"
		exec unshare --cgroup --mount --propagation private bash -c 'set -eu; '"$(declare -f mount_cgroups)"'; mount_cgroups; exec "$@"' _ "$@"
	) &
	child=$!
	trap 'kill -TERM "$child"' INT TERM
	# A trapped signal ends wait early.
	while kill -0 "$child" 2>/dev/null; do wait "$child" || status=$?; done
	node_remove_cgroups "$cgroup"
	return "$status"
}

# move_to moves a process to a cgroup.
move_to() { # CGROUP PID
	local hierarchy file
	for hierarchy in /sys/fs/cgroup/*; do
		mkdir -p "$hierarchy$1"
		for file in cpuset.cpus cpuset.mems; do
			[ ! -e "$hierarchy/$file" ] || cat "$hierarchy/$file" >"$hierarchy$1/$file"
		done
		echo "$2" >"$hierarchy$1/cgroup.procs"
	done
}

# mount_cgroups mounts the hierarchies of cgroup v1 again, as a new cgroup namespace
# shows them.
mount_cgroups() {
	local hierarchies path options
	hierarchies=$(awk '$3 ~ "^cgroup" && $2 ~ "^/sys/fs/cgroup/" { print $2, $3 == "cgroup" ? $4 : "" }' /proc/mounts)
	cut -d ' ' -f 1 <<<"$hierarchies" | xargs umount
	mount -t tmpfs tmpfs /sys/fs/cgroup # the other is the machine's
	while read -r path options; do
		[ "$options" ] || continue # v2
		mkdir "$path"
		mount -t cgroup -o "${options#rw,*,}" cgroup "$path"
	done <<<"$hierarchies"
}

write_kubelet_configuration() {
	cat >"$cluster/kubelet.yaml" <<-END
		apiVersion: kubelet.config.k8s.io/v1beta1
		kind: KubeletConfiguration
		# As the suite's own test/e2e_node/jenkins/default-kubelet-config.yaml:
		cgroupRoot: /
		systemCgroups: /system
		podCIDR: 10.100.0.0/24
		volumeStatsAggPeriod: 10s
		fileCheckFrequency: 10s
		evictionPressureTransitionPeriod: 30s
		serializeImagePulls: false
		# As for hack/cluster.sh:
		failCgroupV1: false
		failSwapOn: false
		oomScoreAdj: 0
		evictionHard: {memory.available: 1Mi, nodefs.available: 1Mi, imagefs.available: 1Mi}
		imageGCHighThresholdPercent: 100
	END
}

prepare() { # COMMAND...
	install_missing docker.io containernetworking-plugins iptables iproute2 mount docker-registry busybox-static curl jq \
		bind9-dnsutils netcat-openbsd socat
	case $runtime in
	cridock) ;;
	containerd) containerd_dir=$(build_containerd) || die "cannot build containerd" ;;
	*) die "RUNTIME: $runtime is not cridock or containerd" ;;
	esac
	build_programs
	kubernetes_build kubelet k8s.io/kubernetes >/dev/null
	build_coredns >/dev/null
	if [ "${CRIDOCK_OWN_CGROUPS-}" != 1 ]; then
		own_cgroups env CRIDOCK_OWN_CGROUPS=1 hack/conformance.sh node "$@"
		exit
	fi
	trap finish EXIT
	trap 'exit 130' INT
	trap 'exit 143' TERM
	up
}

# up makes the node.
up() {
	local wrapper dockerd
	[ ! -e "$cluster" ] || die "$cluster exists"
	mkdir -p "$cluster/bin" "$results/registry"
	ln -s "$results/registry" "$cluster/registry"
	log "building cridock"
	CGO_ENABLED=0 go build -trimpath -o "$cluster/bin/" ./cmd/cridock ./cmd/cridock-runtime
	install hack/units/* "$cluster/bin"
	cp "$(kubernetes_program kubelet k8s.io/kubernetes)" "$cluster/bin/kubelet"
	cp "$(coredns_program)" "$cluster/bin/coredns"
	cp "$(suite_program)" "$cluster/bin/$suite.test"
	export PATH=$cluster/bin:$PATH
	set_engine_flags
	# What the runtime and Docker use is in the kubelet's statistics: their cgroup.
	move_to /runtime $$
	log "starting a node in $cluster"
	start_node "$node" "${dockerd[@]}" --add-runtime "cridock=$cluster/bin/cridock-runtime" \
		--add-runtime "test-handler=${wrapper:-runc}" # of specs with a RuntimeClass
	on_function "$node" node_address
	# There is no name server. Here that is known at once.
	echo 'nameserver 127.0.0.1' | on "$node" tee /etc/resolv.conf >/dev/null
	write_cni_template
	write_kubelet_configuration
	socket=$(engine_socket "$cluster/$node")
	echo cridock >"$cluster/$node.runtime"
	start_runtime "$node"
	make_images
	# A sandbox image for containerd.
	wait_for 30 pause_image "$socket" || die "cridock made no sandbox image"
	push_image "$socket" "$(pause_image "$socket")" "$registry/$(tag_of pause)"
	[ "$runtime" = cridock ] || {
		stop_service "$node" cridock
		echo "$runtime" >"$cluster/$node.runtime"
		start_runtime "$node"
	}
	move_to / $$
}

finish() {
	local status=$?
	trap - EXIT
	cp "$cluster/$node"/*.log "$results/" || status=1
	remove_node "$node" || status=1
	rm -rf --one-file-system -- "$cluster"
	exit "$status"
}
