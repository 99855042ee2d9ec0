# The disruptions of hack/cluster.sh, which sources it after smoke.sh: what happens to a
# node's runtime while a client uses a Service. No request may be lost.
# shellcheck shell=bash
: "${cluster?}" "${busybox?}" "${limit?}" # set by those scripts

rate=100 # requests a second

# disrupt leaves its result in $summary and $failed, as smoke does.
disrupt() {
	local passed=0
	failed=0
	check "ten pods serve" ten_pods
	check "nothing happens" unnoticed sleep 20
	check "the runtimes are restarted" unnoticed on_both restart_runtime
	check "the runtimes are killed" unnoticed on_both kill_runtime
	check "cridock is upgraded" unnoticed upgrade
	check "Docker is killed, with live-restore" unnoticed on_both kill_docker
	check "Docker's containerd is killed" unnoticed on_both kill_containerd
	check "the second node's runtime is away for ${AWAY:=600} s" away
	if [ "$(runtime node2)" = cridock ] && two_stores; then
		check "the second node's image store changes" store
	else
		log "not tried: a change of the image store, which needs cridock on the second node and Docker 24"
	fi
	check "the ten pods are gone" no_pods
	# shellcheck disable=SC2034 # for the script that sources this one
	summary="$passed passed, $failed failed"
}

ten_pods() {
	web v1 | kubectl apply --filename -
	kubectl scale deployment/web --replicas 10
	kubectl expose deployment web --port 80 --target-port http
	kubectl rollout status deployment/web --timeout "$limit"
	wait_for 60 fetch_service
}

fetch_service() { on node1 curl -sf --max-time 5 "$(service_url)"; }

service_url() {
	echo "http://$(kubectl get service web --output 'jsonpath={.spec.clusterIP}')/"
}

# containers prints the containers of the Deployment and how often each was started again.
containers() {
	kubectl get pod --selector app=web --output 'jsonpath={range .items[*].status.containerStatuses[*]}{.containerID} {.restartCount}{"\n"}{end}' | sort
}

# unnoticed runs a command while requests are sent. It fails if one is lost, or if other
# containers run afterwards.
unnoticed() { # COMMAND...
	local before
	before=$(containers)
	expect "$(wc -l <<<"$before")" 10
	under_load "$@"
	kubectl wait --for condition=Ready node --all --timeout "$limit"
	kubectl rollout status deployment/web --timeout "$limit"
	expect "$(containers)" "$before"
}

# under_load runs a command while requests are sent, and fails if one is lost.
under_load() { # COMMAND...
	local client report=$cluster/requests.log
	on node1 bash -c 'echo $$ >"$1"; exec requests "${@:2}"' _ "$cluster/requests.pid" "$(service_url)" "$rate" >"$report" &
	client=$!
	sleep 5
	"$@"
	sleep 10
	on node1 kill "$(cat "$cluster/requests.pid")"
	wait "$client"
	tail "$report"
	grep -q '^sent [1-9][0-9]*, lost 0,' "$report"
}

on_both() { # FUNCTION
	"$1" node1
	"$1" node2
}

restart_runtime() { # NODE
	stop_service "$1" "$(runtime "$1")"
	start_runtime "$1"
	await_runtime "$1"
}

# kill_runtime kills it; its service starts it again.
kill_runtime() { # NODE
	on "$1" pkill -KILL -x "$(runtime "$1")"
	await_runtime "$1"
}

# await_runtime waits until a node has run and removed a pod.
await_runtime() { # NODE
	wait_for 60 on "$1" test -S "$(endpoint "$1" | sed 's|unix://||')"
	kubectl run "probe-$1" --image "$busybox" --overrides '{"spec": {"nodeName": "'"$1"'", "terminationGracePeriodSeconds": 1}}' --command -- sleep infinity
	kubectl wait --for condition=Ready "pod/probe-$1" --timeout "$limit"
	kubectl delete pod "probe-$1" --timeout "$limit"
}

upgrade() {
	CGO_ENABLED=0 go build -trimpath -ldflags "-X main.version=v999.0.0" -o "$cluster/bin/cridock.new" ./cmd/cridock
	mv "$cluster/bin/cridock.new" "$cluster/bin/cridock"
	on_both restart_runtime
	on node1 cridock version | grep v999.0.0
}

kill_docker() { # NODE
	on "$1" pkill -KILL -x dockerd
	wait_for 60 docker_answers "$(engine_socket "$cluster/$1")"
	await_runtime "$1"
}

kill_containerd() { # NODE
	on "$1" pkill -KILL -x containerd
	await_runtime "$1"
}

# away stops the second node's runtime. Its pods go on; the kubelet reports after a
# while that the node is not ready, and later the cluster replaces the node's pods.
away() {
	under_load runtime_is_away
	kubectl wait --for condition=Ready node --all --timeout "$limit"
	kubectl rollout status deployment/web --timeout "$limit"
}

runtime_is_away() {
	stop_service node2 "$(runtime node2)"
	sleep "$AWAY"
	start_runtime node2
	await_runtime node2
}

# docker asks the second node's engine.
docker() { # PATH
	curl -sf --unix-socket "$(engine_socket "$cluster/node2")" "http://docker/$1"
}

# two_stores reports whether Docker has a choice of image stores.
two_stores() {
	docker version | jq -e '.ApiVersion | split(".")[1] | tonumber >= 43' >/dev/null
}

# containerd_store prints whether Docker's images are in containerd.
containerd_store() {
	docker info | jq 'any(.DriverStatus[]?; .[0] == "driver-type")'
}

# store drains the second node, changes Docker's image store, and takes the node back, as
# docs/cluster.md says. Other pods replace the node's, so containers are not compared.
store() {
	under_load change_store
	kubectl wait --for condition=Ready node --all --timeout "$limit"
	kubectl rollout status deployment/web --timeout "$limit"
}

change_store() {
	local other=true
	[ "$(containerd_store)" = false ] || other=false
	kubectl drain node2 --ignore-daemonsets --timeout "$limit"
	stop_service node2 kubelet
	engine_remove_containers "$(engine_socket "$cluster/node2")"
	echo '{"features": {"containerd-snapshotter": '$other'}}' >"$cluster/node2/daemon.json"
	on node2 pkill -KILL -x dockerd
	wait_for 60 docker_answers "$(engine_socket "$cluster/node2")"
	expect "$(containerd_store)" "$other"
	start_service node2 kubelet run_kubelet
	kubectl uncordon node2
	await_runtime node2
	wait_for 60 forgotten
}

# forgotten reports whether cridock keeps nothing of pods that Docker does not have.
forgotten() {
	local id
	for id in $(on node2 ls /run/cridock/netns /var/lib/cridock/sandboxes | grep -xE '[0-9a-f]{64}' | sort -u); do
		docker "containers/$id/json" >/dev/null || {
			echo "left: $id"
			return 1
		}
	done
}

no_pods() {
	kubectl delete deployment/web service/web --timeout "$limit"
	wait_for 120 eval '[ -z "$(kubectl get pod --output name)" ]'
}
