# The smoke test of hack/cluster.sh, which sources it: what people do with a cluster.
# Each check waits for what it expects, for a limited time.
# shellcheck shell=bash
: "${cluster?}" "${busybox?}" "${metrics_server_image?}" # set by that script

limit=120s # of kubectl's waits; a quiet machine needs a few seconds

# smoke runs the checks, "short" or "all", and leaves the result in $summary and $failed.
# Do not call it where its status is tested: nothing in it would end a check that fails.
smoke() { # short|all
	local passed=0
	failed=0
	check "both nodes are ready, with their runtimes" nodes_are_ready
	check "the control plane runs on cridock" control_plane_runs_on_cridock
	check "a Deployment spreads over both nodes" deployment
	check "a pod reaches the Service by its name" service_by_name
	check "pods of different nodes reach each other" across_nodes
	check "each node serves the NodePort" node_port
	check "exec" exec_in_pod
	check "logs, and logs that are followed" logs_of_pod
	check "port-forward" port_forward
	[ "$1" = short ] || further
	check "deleted pods are gone" deletion
	# shellcheck disable=SC2034 # for the script that sources this one
	summary="$passed passed, $failed failed"
}

further() {
	check "cp" copy_files
	check "attach" attach_to_pod
	check "an ephemeral container (debug)" debug_pod
	check "all of this in a pod with a user namespace" user_namespace
	check "a rolling update serves without a gap" rolling_update
	check "scale up and down" scale
	check "a Job with an init container" job
	check "a DaemonSet with a sidecar" daemon_set
	check "a StatefulSet keeps its data" stateful_set
	check "resize of a running pod" resize_pod
	check "a liveness probe restarts a container" liveness
	check "a CronJob" cron_job
	check "a PodDisruptionBudget holds an eviction" disruption_budget
	check "RuntimeClasses: one that exists, one that does not" runtime_class
	check "a projected volume, which follows its ConfigMap" projected_volume
	check "debug of a node" debug_node
	check "top, by metrics-server" metrics
	check "an autoscaler on these metrics" autoscaler
	check "drain and uncordon" drain
}

# check runs a function as its own process, in which any failure counts.
check() { # NAME FUNCTION [ARGUMENT...]
	local start=$SECONDS output
	output=$cluster/smoke-$(IFS=- && echo "${*:2}").log
	(
		set -ex
		"${@:2}"
	) >"$output" 2>&1 &
	if wait $!; then
		passed=$((passed + 1))
		log "passed: $1 ($((SECONDS - start)) s)"
		return
	fi
	failed=$((failed + 1))
	log "FAILED: $1 ($((SECONDS - start)) s)"
	tail -n 20 "$output" >&2
}

expect() { # GOT WANT
	[ "$1" = "$2" ] || {
		echo "got: $1, want: $2"
		return 1
	}
}

# pods_of prints the names of the pods with a label app, and their nodes.
pods_of() { # APP
	kubectl get pod --selector "app=$1" --output 'jsonpath={range .items[*]}{.metadata.name} {.spec.nodeName}{"\n"}{end}'
}

nodes_are_ready() {
	local node
	local -A want=([cridock]=docker [containerd]=containerd)
	kubectl wait --for condition=Ready node node1 node2 --timeout "$limit"
	for node in node1 node2; do
		expect "$(kubectl get node "$node" --output 'jsonpath={.status.nodeInfo.containerRuntimeVersion}' | cut -d : -f 1)" "${want[$(runtime "$node")]}"
	done
}

control_plane_runs_on_cridock() {
	local name socket
	socket=$(engine_socket "$cluster/node1")
	for name in etcd kube-apiserver kube-controller-manager kube-scheduler; do
		kubectl --namespace kube-system wait --for condition=Ready "pod/$name-node1" --timeout "$limit"
		docker_has "$socket" "k8s_${name}_$name-node1_kube-system_"
	done
}

# docker_has reports whether a container runs whose name starts so.
docker_has() { # SOCKET PREFIX
	curl -sf --unix-socket "$1" http://docker/containers/json | jq -e --arg prefix "/$2" 'any(.[].Names[]; startswith($prefix))'
}

# web prints a Deployment of two, one on each node, whose page is the pod's name.
web() { # VERSION
	cat <<-END
		apiVersion: apps/v1
		kind: Deployment
		metadata: {name: web}
		spec:
		  replicas: 2
		  selector: {matchLabels: {app: web}}
		  strategy: {rollingUpdate: {maxUnavailable: 0, maxSurge: 1}}
		  template:
		    metadata: {labels: {app: web}}
		    spec:
		      terminationGracePeriodSeconds: 6 # httpd does not stop for a signal
		      topologySpreadConstraints:
		      - {maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: DoNotSchedule, labelSelector: {matchLabels: {app: web}}, matchLabelKeys: [pod-template-hash]}
		      containers:
		      - name: web
		        image: $busybox
		        command: [sh, -c, "mkdir /www; echo $1 \$(hostname) | tee /www/index.html; exec httpd -f -p 8080 -h /www"]
		        ports: [{name: http, containerPort: 8080}]
		        readinessProbe: {httpGet: {path: /, port: http}, periodSeconds: 1}
		        # While it sleeps, its address leaves the Service.
		        lifecycle: {preStop: {exec: {command: [sleep, "5"]}}}
	END
}

deployment() {
	web v1 | kubectl apply --filename -
	kubectl rollout status deployment/web --timeout "$limit"
	expect "$(pods_of web | cut -d ' ' -f 2 | sort | xargs)" "node1 node2"
	kubectl run client --image "$busybox" --labels app=client --command -- sleep infinity
	kubectl wait --for condition=Ready pod/client --timeout "$limit"
}

# fetch prints a page that a pod sees. Debian's busybox has a wget that crashes.
fetch() { # POD HOST PORT
	kubectl exec "$1" -- sh -c "$(request "$2" "$3")" | grep .
}

# request prints a command that prints a page.
request() { # HOST PORT
	echo "printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 5 $1 $2 | tail -n 1"
}

# fetches_all fetches a page until each of the Deployment's pods has answered.
fetches_all() { # COMMAND...
	local pod pages='' try
	for try in {1..40}; do
		pages+=$("$@" || true)$'\n' # a busy machine may not answer in time
		for pod in $(pods_of web | cut -d ' ' -f 1); do
			grep -qw "$pod" <<<"$pages" || continue 2
		done
		echo "after $try requests"
		return
	done
	echo "$pages"
	return 1
}

service_by_name() {
	kubectl expose deployment web --port 80 --target-port http
	wait_for 180 fetch client web.default.svc.cluster.local 80
	wait_for 180 fetch client web 80
	fetches_all fetch client web 80
	wait_for 180 resolves client web.default.svc.cluster.local "$(kubectl get service web --output 'jsonpath={.spec.clusterIP}')"
}

resolves() { # POD NAME ADDRESS
	kubectl exec "$1" -- nslookup "$2" | grep -F "$3"
}

across_nodes() {
	local address
	for address in $(kubectl get pod --selector app=web --output 'jsonpath={.items[*].status.podIP}'); do
		wait_for 180 fetch client "$address" 8080
	done
}

node_port() {
	local node port
	kubectl expose deployment web --name web-port --type NodePort --port 80 --target-port http
	port=$(kubectl get service web-port --output 'jsonpath={.spec.ports[0].nodePort}')
	for node in node1 node2; do
		wait_for 180 on node1 curl -sf --max-time 5 "http://${address[$node]}:$port/"
		fetches_all on node1 curl -sf --max-time 5 "http://${address[$node]}:$port/"
		fetches_all on node2 curl -sf --max-time 5 "http://${address[$node]}:$port/"
	done
}

exec_in_pod() {
	local pod status=0
	for pod in $(pods_of web | cut -d ' ' -f 1); do
		expect "$(kubectl exec "$pod" -- hostname)" "$pod"
		expect "$(echo "through $pod" | kubectl exec --stdin "$pod" -- cat)" "through $pod"
	done
	kubectl exec "$pod" -- sh -c 'exit 7' || status=$?
	expect "$status" 7
	exec_on_terminal "$pod" | grep "a terminal"
}

exec_on_terminal() { # POD
	on node1 script --quiet --return --command \
		"env KUBECONFIG=/etc/kubernetes/admin.conf kubectl exec -it $1 -- sh -c 'test -t 0 && echo a terminal'" /dev/null </dev/null
}

logs_of_pod() {
	local pod followed=$cluster/followed follower
	for pod in $(pods_of web | cut -d ' ' -f 1); do
		expect "$(kubectl logs "$pod")" "v1 $pod"
	done
	kubectl run counter --image "$busybox" --restart Never --command -- \
		sh -c 'for i in 1 2 3 4; do echo line $i; done; until [ -e /tmp/go ]; do sleep 1; done; echo line 5'
	kubectl wait --for jsonpath='{.status.phase}'=Running pod/counter --timeout "$limit"
	kubectl logs --follow counter >"$followed" &
	follower=$!
	wait_for 180 grep -qx "line 4" "$followed"
	kubectl exec counter -- touch /tmp/go
	wait "$follower"
	expect "$(xargs <"$followed")" "line 1 line 2 line 3 line 4 line 5"
	expect "$(kubectl logs --tail 1 counter)" "line 5"
	kubectl delete pod counter --timeout "$limit"
}

port_forward() {
	local pod
	for pod in $(pods_of web | cut -d ' ' -f 1); do
		expect "$(on_function node1 fetch_forwarded "$pod")" "v1 $pod"
	done
}

# fetch_forwarded runs on a node, and prints the page of a pod from a forwarded port.
fetch_forwarded() { # POD
	local forward try
	env KUBECONFIG=/etc/kubernetes/admin.conf kubectl port-forward "pod/$1" 18080:8080 >&2 &
	forward=$!
	for try in {1..100}; do
		! curl -sf --max-time 5 http://127.0.0.1:18080/ || break
		sleep 0.2
	done
	kill "$forward"
	wait "$forward" || true # it has the port
	[ "$try" -lt 100 ]
}

copy_files() {
	local dir=$cluster/copy
	mkdir -p "$dir"
	head -c 1M /dev/urandom >"$dir/there"
	kubectl cp "$dir/there" client:/tmp/there
	kubectl cp client:/tmp/there "$dir/back"
	cmp "$dir/there" "$dir/back"
}

attach_to_pod() {
	kubectl run reader --image "$busybox" --restart Never --stdin --attach=false --command -- sh -c 'read line; echo "read $line"; sleep 1'
	kubectl wait --for condition=Ready pod/reader --timeout "$limit"
	expect "$(echo something | kubectl attach --stdin --quiet reader)" "read something"
	kubectl delete pod reader --timeout "$limit"
}

debug_pod() {
	local pod
	read -r pod _ < <(pods_of web)
	kubectl debug "$pod" --image "$busybox" --container debugger --target web --quiet -- sh -c 'ps; sleep infinity'
	kubectl wait --for jsonpath='{.status.ephemeralContainerStatuses[0].state.running}' "pod/$pod" --timeout "$limit"
	wait_for 20 eval "kubectl logs $pod --container debugger | grep -F 'httpd -f -p 8080'"
}

# user_namespace does with such a pod, on a node with cridock, what the checks before do
# with others.
user_namespace() {
	local dir=$cluster/copy
	kubectl apply --filename - <<-END
		apiVersion: v1
		kind: Pod
		metadata: {name: users}
		spec:
		  nodeName: node1
		  hostUsers: false
		  terminationGracePeriodSeconds: 1
		  containers:
		  - name: users
		    image: $busybox
		    command: [sh, -c, "mkdir /www; echo users | tee /www/index.html; httpd -p 8080 -h /www; exec sleep 4711"]
		    resources: {requests: {cpu: 100m}, limits: {cpu: 100m}}
		  - name: reader
		    image: $busybox
		    command: [sh, -c, "read line; echo read \$line; sleep 1"]
		    stdin: true
		    stdinOnce: true
	END
	kubectl wait --for condition=Ready pod/users --timeout "$limit"
	expect "$(kubectl exec users --container users -- awk '$2 == 0 {exit 1} {print $1, $3}' /proc/self/uid_map)" "0 65536"
	exec_on_terminal users | grep "a terminal"
	expect "$(on_function node1 fetch_forwarded users)" users
	mkdir -p "$dir"
	head -c 1M /dev/urandom >"$dir/users"
	kubectl cp --container users "$dir/users" users:/tmp/there
	kubectl cp --container users users:/tmp/there "$dir/users-back"
	cmp "$dir/users" "$dir/users-back"
	expect "$(echo something | kubectl attach --stdin --quiet users --container reader)" "read something"
	expect "$(kubectl logs users --container users)" users
	kubectl debug users --image "$busybox" --container debugger --target users --quiet -- sh -c 'ps; cat /proc/1/root/www/index.html; sleep infinity'
	kubectl wait --for jsonpath='{.status.ephemeralContainerStatuses[0].state.running}' pod/users --timeout "$limit"
	wait_for 20 eval "kubectl logs users --container debugger | grep -x users"
	kubectl logs users --container debugger | grep -F 'sleep 4711'
	kubectl patch pod users --subresource resize --patch '{"spec": {"containers": [{"name": "users", "resources": {"requests": {"cpu": "200m"}, "limits": {"cpu": "200m"}}}]}}'
	kubectl wait --for jsonpath='{.status.containerStatuses[1].resources.limits.cpu}'=200m pod/users --timeout "$limit"
	expect "$(kubectl get pod users --output 'jsonpath={.status.containerStatuses[1].restartCount}')" 0
	kubectl delete pod users --timeout "$limit"
}

# rolling_update replaces all pods while a client sends requests, of which none may
# fail.
rolling_update() {
	local page client
	kubectl exec client -- sh -c "rm -f /tmp/stop; while [ ! -e /tmp/stop ]; do
		page=\$($(request web 80)); echo \${page:-failed}; sleep 0.05; done" >"$cluster/requests" &
	client=$!
	web v2 | kubectl apply --filename -
	kubectl rollout status deployment/web --timeout "$limit"
	wait_for 180 eval '[ "$(pods_of web | wc -l)" = 2 ]'
	kubectl exec client -- touch /tmp/stop
	wait "$client"
	for page in v1 v2; do
		grep -q "^$page " "$cluster/requests"
	done
	expect "$(grep -c failed "$cluster/requests" || true)" 0
	wc -l "$cluster/requests"
}

scale() {
	kubectl scale deployment/web --replicas 6
	kubectl rollout status deployment/web --timeout "$limit"
	expect "$(pods_of web | cut -d ' ' -f 2 | sort | uniq -c | xargs)" "3 node1 3 node2"
	kubectl scale deployment/web --replicas 2
	wait_for 180 eval '[ "$(pods_of web | wc -l)" = 2 ]'
}

job() {
	kubectl apply --filename - <<-END
		apiVersion: batch/v1
		kind: Job
		metadata: {name: job}
		spec:
		  completions: 4
		  parallelism: 2
		  template:
		    metadata: {labels: {app: job}}
		    spec:
		      restartPolicy: Never
		      volumes: [{name: data, emptyDir: {}}]
		      initContainers:
		      - {name: first, image: $busybox, command: [sh, -c, "echo done first >/data/file"], volumeMounts: [{name: data, mountPath: /data}]}
		      containers:
		      - {name: then, image: $busybox, command: [cat, /data/file], volumeMounts: [{name: data, mountPath: /data}]}
	END
	kubectl wait --for condition=Complete job/job --timeout "$limit"
	expect "$(kubectl logs --selector app=job | sort -u)" "done first"
	kubectl delete job job --timeout "$limit"
}

daemon_set() {
	kubectl apply --filename - <<-END
		apiVersion: apps/v1
		kind: DaemonSet
		metadata: {name: everywhere}
		spec:
		  selector: {matchLabels: {app: everywhere}}
		  template:
		    metadata: {labels: {app: everywhere}}
		    spec:
		      terminationGracePeriodSeconds: 1
		      initContainers:
		      - {name: sidecar, image: $busybox, restartPolicy: Always, command: [sleep, infinity], startupProbe: {exec: {command: ["true"]}, periodSeconds: 1}}
		      containers:
		      - {name: main, image: $busybox, command: [sleep, infinity]}
	END
	kubectl rollout status daemonset/everywhere --timeout "$limit"
	expect "$(pods_of everywhere | cut -d ' ' -f 2 | sort | xargs)" "node1 node2"
	kubectl delete daemonset everywhere --timeout "$limit"
}

# stateful_set has its data in a directory of one node, and a headless Service.
stateful_set() {
	kubectl create service clusterip store --clusterip None --tcp 80
	kubectl apply --filename - <<-END
		apiVersion: apps/v1
		kind: StatefulSet
		metadata: {name: store}
		spec:
		  serviceName: store
		  selector: {matchLabels: {app: store}}
		  template:
		    metadata: {labels: {app: store}}
		    spec:
		      nodeName: node2
		      terminationGracePeriodSeconds: 1
		      volumes: [{name: data, hostPath: {path: /var/lib/store, type: DirectoryOrCreate}}]
		      containers:
		      - {name: main, image: $busybox, command: [sh, -c, "echo start >>/data/log; exec sleep infinity"], volumeMounts: [{name: data, mountPath: /data}]}
	END
	kubectl rollout status statefulset/store --timeout "$limit"
	wait_for 180 kubectl exec client -- nslookup store-0.store.default.svc.cluster.local
	kubectl delete pod store-0 --timeout "$limit"
	kubectl rollout status statefulset/store --timeout "$limit"
	kubectl wait --for condition=Ready pod/store-0 --timeout "$limit"
	expect "$(kubectl exec store-0 -- cat /data/log | xargs)" "start start"
	kubectl delete statefulset,service store --timeout "$limit"
	rm -r "$cluster/node2/var/lib/store"
}

resize_pod() {
	kubectl run sized --image "$busybox" --overrides '{"spec": {"terminationGracePeriodSeconds": 1, "containers": [{"name": "sized", "image": "'"$busybox"'",
		"command": ["sleep", "infinity"], "resources": {"requests": {"cpu": "100m"}, "limits": {"cpu": "100m"}}}]}}'
	kubectl wait --for condition=Ready pod/sized --timeout "$limit"
	kubectl patch pod sized --subresource resize --patch '{"spec": {"containers": [{"name": "sized", "resources": {"requests": {"cpu": "200m"}, "limits": {"cpu": "200m"}}}]}}'
	kubectl wait --for jsonpath='{.status.containerStatuses[0].resources.limits.cpu}'=200m pod/sized --timeout "$limit"
	expect "$(kubectl get pod sized --output 'jsonpath={.status.containerStatuses[0].restartCount}')" 0
	kubectl delete pod sized --timeout "$limit"
}

liveness() {
	kubectl apply --filename - <<-END
		apiVersion: v1
		kind: Pod
		metadata: {name: alive}
		spec:
		  terminationGracePeriodSeconds: 1
		  containers:
		  - name: main
		    image: $busybox
		    command: [sh, -c, "touch /tmp/alive; sleep 2; rm /tmp/alive; sleep infinity"]
		    livenessProbe: {exec: {command: [test, -e, /tmp/alive]}, periodSeconds: 1, failureThreshold: 2}
	END
	kubectl wait --for jsonpath='{.status.containerStatuses[0].restartCount}'=1 pod/alive --timeout "$limit"
	kubectl delete pod alive --timeout "$limit"
}

cron_job() {
	kubectl apply --filename - <<-END
		apiVersion: batch/v1
		kind: CronJob
		metadata: {name: tick}
		spec:
		  schedule: "* * * * *"
		  jobTemplate:
		    spec:
		      template:
		        metadata: {labels: {app: tick}}
		        spec:
		          restartPolicy: Never
		          containers: [{name: main, image: $busybox, command: [echo, ticked]}]
	END
	wait_for 240 eval 'kubectl logs --selector app=tick | grep -x ticked'
	kubectl delete cronjob tick --timeout "$limit"
}

# disruption_budget asks for the eviction of a pod that the budget needs, and of the
# same pod once it does not.
disruption_budget() {
	local pod
	read -r pod _ < <(pods_of web)
	kubectl create poddisruptionbudget web --selector app=web --min-available 2
	kubectl wait --for jsonpath='{.status.currentHealthy}'=2 poddisruptionbudget/web --timeout "$limit"
	! evict "$pod" 2>"$cluster/eviction"
	grep "disruption budget" "$cluster/eviction"
	kubectl delete poddisruptionbudget web --timeout "$limit"
	evict "$pod"
	kubectl wait --for delete "pod/$pod" --timeout "$limit"
	kubectl rollout status deployment/web --timeout "$limit"
	wait_for 180 eval '[ "$(pods_of web | wc -l)" = 2 ]'
}

evict() { # POD
	kubectl create --raw "/api/v1/namespaces/default/pods/$1/eviction" --filename - <<<'{"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "'"$1"'"}}'
}

runtime_class() {
	local handler
	for handler in runc none; do
		kubectl apply --filename - <<-END
			{apiVersion: node.k8s.io/v1, kind: RuntimeClass, metadata: {name: $handler}, handler: $handler}
		END
		kubectl run "on-$handler" --image "$busybox" --overrides '{"spec": {"runtimeClassName": "'$handler'", "terminationGracePeriodSeconds": 1}}' --command -- sleep infinity
	done
	kubectl wait --for condition=Ready pod/on-runc --timeout "$limit"
	wait_for 180 eval "kubectl events --for pod/on-none --types Warning | grep -i 'FailedCreatePodSandBox.*none'"
	kubectl delete pod/on-runc pod/on-none runtimeclass/runc runtimeclass/none --timeout "$limit"
}

projected_volume() {
	kubectl create configmap settings --from-literal color=red
	kubectl create secret generic login --from-literal word=sesame
	kubectl apply --filename - <<-END
		apiVersion: v1
		kind: Pod
		metadata: {name: projected, labels: {app: projected}}
		spec:
		  terminationGracePeriodSeconds: 1
		  volumes:
		  - name: all
		    projected:
		      sources:
		      - configMap: {name: settings}
		      - secret: {name: login}
		      - downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}]}
		      - serviceAccountToken: {path: token}
		  containers: [{name: main, image: $busybox, command: [sleep, infinity], volumeMounts: [{name: all, mountPath: /all}]}]
	END
	kubectl wait --for condition=Ready pod/projected --timeout "$limit"
	expect "$(kubectl exec projected -- sh -c 'cd /all; echo $(cat color word labels)')" 'redsesameapp="projected"'
	kubectl exec projected -- test -s /all/token
	kubectl patch configmap settings --patch '{"data": {"color": "blue"}}'
	wait_for 240 eval '[ "$(kubectl exec projected -- cat /all/color)" = blue ]'
	kubectl delete pod/projected configmap/settings secret/login --timeout "$limit"
}

# debug_node looks at a node from a privileged pod in the node's namespaces.
debug_node() {
	local node pod
	for node in node1 node2; do
		kubectl debug "node/$node" --image "$busybox" --profile sysadmin --quiet -- sh -c 'ps -o args; tail -n 2 /host/etc/hosts' >/dev/null
		pod=$(kubectl get pod --output name | grep "node-debugger-$node-")
		kubectl wait --for jsonpath='{.status.phase}'=Succeeded "$pod" --timeout "$limit"
		kubectl logs "$pod" | grep "^kubelet "
		kubectl logs "$pod" | grep " node2$"
		kubectl delete "$pod" --timeout "$limit"
	done
}

metrics() {
	push_metrics_server
	metrics_server | kubectl apply --filename -
	kubectl --namespace kube-system rollout status deployment/metrics-server --timeout "$limit"
	wait_for 240 eval "kubectl top node | grep -E '^node2 +[0-9]+m'"
	wait_for 240 eval "kubectl top pod --selector app=web | grep -E '^web-[^ ]+ +[0-9]+m +[0-9]+Mi'"
	wait_for 240 eval "kubectl top pod --namespace kube-system --containers | grep -E '^etcd-node1 +etcd +[1-9][0-9]*m +[1-9][0-9]*Mi'"
	kubectl top node
	kubectl top pod --all-namespaces
}

# metrics_server prints how metrics-server is installed. It does not check the kubelets'
# certificates: they sign their own, kubeadm's default.
metrics_server() {
	cat <<-END
		{apiVersion: v1, kind: ServiceAccount, metadata: {name: metrics-server, namespace: kube-system}}
		---
		apiVersion: rbac.authorization.k8s.io/v1
		kind: ClusterRole
		metadata: {name: metrics-server}
		rules:
		- {apiGroups: [""], resources: [nodes/metrics], verbs: [get]}
		- {apiGroups: [""], resources: [pods, nodes], verbs: [get, list, watch]}
		---
		apiVersion: rbac.authorization.k8s.io/v1
		kind: ClusterRoleBinding
		metadata: {name: metrics-server}
		roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: metrics-server}
		subjects: [{kind: ServiceAccount, name: metrics-server, namespace: kube-system}]
		---
		apiVersion: rbac.authorization.k8s.io/v1
		kind: ClusterRoleBinding
		metadata: {name: metrics-server-delegates}
		roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: "system:auth-delegator"}
		subjects: [{kind: ServiceAccount, name: metrics-server, namespace: kube-system}]
		---
		apiVersion: rbac.authorization.k8s.io/v1
		kind: RoleBinding
		metadata: {name: metrics-server, namespace: kube-system}
		roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: extension-apiserver-authentication-reader}
		subjects: [{kind: ServiceAccount, name: metrics-server, namespace: kube-system}]
		---
		apiVersion: v1
		kind: Service
		metadata: {name: metrics-server, namespace: kube-system}
		spec: {selector: {app: metrics-server}, ports: [{port: 443, targetPort: 10250}]}
		---
		apiVersion: apiregistration.k8s.io/v1
		kind: APIService
		metadata: {name: v1beta1.metrics.k8s.io}
		spec:
		  group: metrics.k8s.io
		  version: v1beta1
		  groupPriorityMinimum: 100
		  versionPriority: 100
		  insecureSkipTLSVerify: true
		  service: {name: metrics-server, namespace: kube-system}
		---
		apiVersion: apps/v1
		kind: Deployment
		metadata: {name: metrics-server, namespace: kube-system}
		spec:
		  selector: {matchLabels: {app: metrics-server}}
		  template:
		    metadata: {labels: {app: metrics-server}}
		    spec:
		      serviceAccountName: metrics-server
		      containers:
		      - name: metrics-server
		        image: $metrics_server_image
		        args: [--cert-dir=/tmp, --secure-port=10250, --metric-resolution=15s, --kubelet-preferred-address-types=InternalIP, --kubelet-insecure-tls]
		        readinessProbe: {httpGet: {path: /readyz, port: 10250, scheme: HTTPS}, periodSeconds: 2}
	END
}

autoscaler() {
	kubectl apply --filename - <<-END
		apiVersion: apps/v1
		kind: Deployment
		metadata: {name: busy}
		spec:
		  selector: {matchLabels: {app: busy}}
		  template:
		    metadata: {labels: {app: busy}}
		    spec:
		      terminationGracePeriodSeconds: 1
		      containers:
		      - name: main
		        image: $busybox
		        command: [sh, -c, "while :; do :; done"]
		        resources: {requests: {cpu: 50m}, limits: {cpu: 50m}}
		---
		apiVersion: autoscaling/v2
		kind: HorizontalPodAutoscaler
		metadata: {name: busy}
		spec:
		  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: busy}
		  maxReplicas: 2
		  metrics: [{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 50}}}]
	END
	kubectl wait --for jsonpath='{.status.readyReplicas}'=2 deployment/busy --timeout 6m
	kubectl describe horizontalpodautoscaler busy
	kubectl delete deployment/busy horizontalpodautoscaler/busy --timeout "$limit"
	wait_for 180 eval '[ -z "$(pods_of busy)" ]'
	metrics_server | kubectl delete --filename - --timeout "$limit"
}

drain() {
	kubectl delete pod client --grace-period 1 --timeout "$limit"
	kubectl drain node2 --ignore-daemonsets --delete-emptydir-data --timeout "$limit"
	expect "$(kubectl get pod --all-namespaces --field-selector spec.nodeName=node2 --output name | sed 's/-[^-]*$//' | sort | xargs)" pod/kube-proxy
	kubectl uncordon node2
	kubectl rollout status deployment/web --timeout "$limit"
	kubectl --namespace kube-system rollout status deployment/coredns --timeout "$limit"
}

# deletion: neither the API server nor Docker keeps anything of the workload.
deletion() {
	local node
	kubectl delete pod client --ignore-not-found --grace-period 1 --timeout "$limit"
	kubectl delete deployment/web service/web service/web-port --timeout "$limit"
	wait_for 180 eval '[ -z "$(kubectl get pod --output name)" ]'
	for node in node1 node2; do
		wait_for 180 eval "! docker_has '$(engine_socket "$cluster/$node")' k8s_web_" || return 1
	done
}
