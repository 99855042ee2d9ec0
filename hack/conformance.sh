#!/bin/bash
# Runs the conformance suite of Kubernetes on the cluster of hack/cluster.sh, and the
# suite of a node on a node that is made for it.
#
#   sudo hack/cluster.sh up
#   sudo hack/conformance.sh run [REGEXP]   run the specs that have no result yet, or of
#                                           these the ones that match
#   sudo hack/conformance.sh again          run those again that have failed, with others of
#                                           their groups
#   hack/conformance.sh table               print what has run, and what has failed
#   sudo hack/conformance.sh build          only build the programs
#   hack/conformance.sh node COMMAND...     one of these commands for the suite of a node:
#                                           without a cluster
#
# The suites (e2e.test and e2e_node.test), Ginkgo, and the programs of their images are
# built from the Go module proxy, like Kubernetes itself. docs/conformance.md names the
# images that are stand-ins, and the last results.
#
#   RESULTS=DIR   where results are kept (default /var/tmp/cridock-conformance, and
#                 /var/tmp/cridock-node-RUNTIME). A run that is interrupted goes on where it
#                 was, but for its last batch
#   PROCS=N       specs that run at once, except for serial ones (default 4)
#   BATCH=N       specs in a batch (default 150)
#   TIMEOUT=TIME  how long a batch may take (default 6h): what has not run by then is interrupted
#   CLUSTER=DIR   the cluster, as for hack/cluster.sh
#   RUNTIME=containerd   "node": what the node runs in place of cridock
#   FEATURE_GATES=GATE=true,...   "node": feature gates of its kubelet and its API server
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. hack/lib.sh
. hack/node.sh

cluster=${CLUSTER:-/var/tmp/cridock-cluster}
results=${RESULTS:-/var/tmp/cridock-conformance}
images=$cluster/conformance-images # the suite's, in the nodes' registry
node=node1                         # the one that runs the suite
registry=127.0.0.1:5000
batch_size=${BATCH:-150}

# --- programs --------------------------------------------------------------------

version=$(go mod edit -json e2e/kubelet/go.mod | jq -er '.Require[] | select(.Path == "k8s.io/kubernetes").Version')
programs=$(foreign_program conformance "$version") # Ginkgo, and those of images
suite=e2e

suite_program() { echo "$(foreign_program "$suite" "$version").test"; }

# build_programs builds the suite and the programs of its images, with the dependencies
# that Kubernetes' own go.mod selects.
build_programs() {
	local source work program ldflags
	[ ! -d "$programs" ] || [ ! -x "$(suite_program)" ] || return 0
	log "building $suite.test $version: most of an hour the first time"
	source=$(go mod download -json "k8s.io/kubernetes@$version" | jq -er .Dir) || die "cannot download k8s.io/kubernetes@$version"
	work=$(mktemp -d)
	mkdir -p "$work/bin" "${programs%/*}"
	released_modules "$source" "$version" "$work"
	ldflags="-s -w -X k8s.io/component-base/version.gitVersion=$version"
	ldflags+=" -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=$(cut -d . -f 2 <<<"$version")"
	build_in "$source" "$work" test -c -ldflags "$ldflags" -o "$work/$suite.test" "./test/$suite"
	mv "$work/$suite.test" "$(suite_program)"
	if [ ! -d "$programs" ]; then
		for program in agnhost nonewprivs regression-issue-74839 resource-consumer sample-device-plugin; do
			build_in "$source" "$work" build -ldflags "-s -w" -o "$work/bin/$program" "./test/images/$program"
		done
		build_in "$source" "$work" build -ldflags "-s -w" -o "$work/bin/sample-apiserver" k8s.io/sample-apiserver
		build_in "$source" "$work" build -ldflags "-s -w" -o "$work/bin/ginkgo" github.com/onsi/ginkgo/v2/ginkgo
		cp "$source"/test/images/agnhost/porter/localhost.{crt,key} "$work/bin/"
		mv -T "$work/bin" "$programs"
	fi
	rm -r "$work"
}

build_in() { # SOURCE WORK go ARGUMENTS
	(cd "$1" && GOFLAGS='' GOWORK=off CGO_ENABLED=0 nice -n 10 go "$3" -p 2 -trimpath -buildvcs=false -mod=mod \
		-modfile "$2/go.mod" "${@:4}") || die "cannot build: go ${*:3}"
}

# --- images ----------------------------------------------------------------------

# with_libraries copies programs to a tree, with the libraries that they load.
with_libraries() { # TREE PROGRAM...
	local tree=$1 program
	shift
	for program in "$@"; do
		program=$(readlink -f "$(command -v "$program")") || die "no $program"
		{
			echo "$program"
			ldd "$program" 2>/dev/null | grep -oE '/[^ ]+ \(' | cut -d ' ' -f 1
		} | while read -r file; do
			cp -L --parents "$file" "$tree"
		done
	done
}

# tools_tree makes the root of an image with a shell and the tools that specs use.
tools_tree() { # TREE
	local tree=$1 tool
	busybox_tree "$tree"
	with_libraries "$tree" curl dig nslookup getent nc socat ss ip bash
	for tool in curl dig nslookup getent nc socat ss ip bash; do
		rm -f "$tree/bin/$tool"
		ln -s "$(readlink -f "$(command -v "$tool")")" "$tree/bin/$tool"
	done
	bash_as_sh "$tree"
	mkdir -p "$tree/etc" "$tree/uploads"
	echo 'user-defined-in-image:x:1000:1000::/:/bin/sh' >>"$tree/etc/passwd"
	echo 'group-defined-in-image:x:50000:user-defined-in-image' >>"$tree/etc/group"
}

# image makes an image from a tree and pushes it.
image() { # NAME:TAG TREE INSTRUCTION
	push_image "$socket" "$(import_tree "$socket" "$registry/$1" "$2" "$3")" "$registry/$1"
}

# program_image makes an image of one program and a shell.
program_image() { # NAME:TAG PROGRAM [MODE]
	local tree
	tree=$(mktemp -d)
	busybox_tree "$tree"
	install -m "${3:-755}" "$programs/$2" "$tree/bin/$2"
	image "$1" "$tree" "ENTRYPOINT [\"/bin/$2\"]"
	rm -r "$tree"
}

# web_image makes an image of a web server with a file, which specs also look for in a
# volume of the image, beside a file of the original's distribution. As nginx, it has a
# process of that name, which leaves its ID in a file.
web_image() { # NAME:TAG FILE CONTENT
	local tree
	tree=$(mktemp -d)
	busybox_tree "$tree"
	mkdir -p "$tree/www"
	echo "$3" | tee "$tree/$2" >"$tree/www/$2"
	echo 'NAME="Alpine Linux"' >"$tree/etc/os-release"
	mkdir "$tree/run"
	ln -s ../run "$tree/var/run"
	cat >"$tree/bin/nginx" <<-'END'
		#!/bin/sh
		echo $$ >/run/nginx.pid
		httpd -f -p 80 -h /www &
		trap 'kill $!; exit' TERM
		wait
	END
	chmod +x "$tree/bin/nginx"
	image "$1" "$tree" 'ENTRYPOINT ["nginx"]'
	rm -r "$tree"
}

# bash_as_sh replaces the shell of Debian's busybox: that one drops variables such as
# "data-1", for which specs look, and prefers its own nc. It also has no nmeter, of which
# specs use one form: nmeter -d0 %3t.
bash_as_sh() { # TREE
	with_libraries "$1" bash
	ln -sf "$(readlink -f "$(command -v bash)")" "$1/bin/sh"
	cat >"$1/bin/nmeter" <<-'END'
		#!/bin/sh
		now=$EPOCHREALTIME fraction=${now#*.}
		TZ=UTC0 printf '%(%H:%M:%S)T.%s\n' "${now%.*}" "${fraction:0:3}"
	END
	chmod +x "$1/bin/nmeter"
}

busybox_image() { # NAME:TAG [INSTRUCTION]
	local tree instruction=${2-'CMD ["sh"]'}
	tree=$(mktemp -d)
	busybox_tree "$tree"
	bash_as_sh "$tree"
	image "$1" "$tree" "$instruction"
	rm -r "$tree"
}

# fake_registry gives agnhost's tree an image for its own registry, from the files of the
# nodes' one, which has the same layout.
fake_registry() { # TREE
	local stored=$cluster/registry/docker/registry/v2 served=$1/var/registry/pause tree digest
	tree=$(mktemp -d)
	busybox_tree "$tree"
	image pause:testing "$tree" 'CMD ["sh", "-c", "trap exit TERM; sleep infinity & wait"]'
	rm -r "$tree"
	digest=$(cat "$stored/repositories/pause/_manifests/tags/testing/current/link")
	install -D -m644 "$stored/blobs/$(blob "$digest")" "$served/manifests/$(blob "$digest")"
	echo "$digest" >"$served/manifests/testing"
	for digest in $(jq -r '.config.digest, .layers[].digest' "$served/manifests/$(blob "$digest")"); do
		install -D -m644 "$stored/blobs/$(blob "$digest")" "$served/blobs/$(blob "$digest")"
	done
}

# blob prints where a registry keeps a digest's content.
blob() { # DIGEST
	echo "${1%:*}/${1:7:2}/${1#*:}/data"
}

push_images() {
	local tree tag
	tree=$(mktemp -d)
	tools_tree "$tree"
	image "$(tag_of glibc-dns-testing)" "$tree" 'CMD ["sh"]'
	cp "$programs/agnhost" "$tree/agnhost"
	cp "$cluster/bin/coredns" "$tree/coredns"
	cp "$programs"/localhost.{crt,key} "$tree/"
	ln -s agnhost "$tree/agnhost-2"
	fake_registry "$tree"
	for tag in $(tags_of agnhost); do
		image "$tag" "$tree" 'ENTRYPOINT ["/agnhost"]
CMD ["pause"]'
	done
	rm -r "$tree"
	program_image "$(tag_of nonewprivs)" nonewprivs 6755
	program_image "$(tag_of regression-issue-74839)" regression-issue-74839
	program_image "$(tag_of resource-consumer)" resource-consumer
	program_image "$(tag_of sample-apiserver)" sample-apiserver
	program_image "$(tag_of sample-device-plugin)" sample-device-plugin
	for tag in $(tags_of busybox); do
		busybox_image "$tag"
	done
	busybox_image "$(tag_of nonroot)" 'USER 1234'
	tree=$(mktemp -d)
	busybox_tree "$tree"
	with_libraries "$tree" ipcs
	image "$(tag_of ipc-utils)" "$tree" 'CMD ["sh"]'
	rm -r "$tree"
	for tag in $(tags_of nginx); do
		web_image "$tag" index.html '<title>Welcome to nginx!</title>'
	done
	web_image "$(tag_of nautilus)" data.json '{"image": "nautilus.jpg"}'
	web_image "$(tag_of kitten)" data.json '{"image": "kitten.jpg"}'
}

# tags_of prints the names of an image, with its tag, in the releases that specs use.
tags_of() { # NAME
	list_images | sed -n "s|^$registry/\($1:.*\)|\1|p"
}

tag_of() { # NAME
	tags_of "$1" | grep . || die "the suite has no image $1"
}

# list_images prints the images that the suite asks for.
list_images() {
	[ -s "$images" ] ||
		KUBE_TEST_REPO_LIST=$cluster/repos.yaml "$(suite_program)" --list-images | sort -u >"$images"
	cat "$images"
}

# write_repos has the suite ask the nodes' registry for all images.
write_repos() {
	printf '%s: %s\n' promoterE2eRegistry "$registry" buildImageRegistry "$registry" gcEtcdRegistry "$registry" \
		gcRegistry "$registry" sigStorageRegistry "$registry" dockerLibraryRegistry "$registry" >"$cluster/repos.yaml"
}

# --- specs -----------------------------------------------------------------------

# ginkgo runs it on the node.
ginkgo() { # ARGUMENTS... -- SUITE ARGUMENTS...
	engine_exec "$cluster/$node" env KUBE_TEST_REPO_LIST="$cluster/repos.yaml" KUBECONFIG=/etc/kubernetes/admin.conf \
		PATH="$cluster/bin:$PATH" HOME=/root "$programs/ginkgo" "$@"
}

# run_suite runs specs with the reports in DIR.
run_suite() { # DIR GINKGO ARGUMENTS...
	ginkgo "${@:2}" "$(suite_program)" -- --provider local --num-nodes 2 --kubectl-path "$cluster/bin/kubectl" --report-dir "$1"
}

selection='\[Conformance\]'

excluded() { :; }

# specs prints the names of all specs.
specs() {
	[ -s "$results/specs" ] || {
		ginkgo --dry-run --silence-skips --focus "$selection" --json-report specs.json --output-dir "$results" "$(suite_program)" >/dev/null
		report "$results/specs.json" | cut -f 2 | sort | grep -vE -f <(excluded | cut -f 2) >"$results/specs.new"
		mv "$results/specs.new" "$results/specs"
	}
	cat "$results/specs"
}

# report prints what a report of Ginkgo has: RESULT, NAME, SECONDS, WHY. A spec that was
# not selected is skipped, too, but for no reason.
report() { # FILE
	jq -r '.[].SpecReports[]? | select(.LeafNodeType == "It" and (.State != "skipped" or .Failure.Message)) |
		[.State, (.ContainerHierarchyTexts + [.LeafNodeText] | map(select(. != "")) | join(" ")), (.RunTime / 1e9 | round), (.Failure.Message // "" | split("\n")[0])] | @tsv' "$1"
}

# containers prints the outer containers of each spec: NAME, CONTAINERS. Specs that share
# them run in the same batch, because one may need what an earlier one has left.
containers() {
	jq -r '.[].SpecReports[]? | select(.LeafNodeType == "It") |
		[(.ContainerHierarchyTexts + [.LeafNodeText] | map(select(. != "")) | join(" ")), (.ContainerHierarchyTexts[:2] | join(" "))] | @tsv' "$results/specs.json"
}

# batch prints the first of the specs on standard input.
batch() {
	awk -F '\t' -v size="$batch_size" '
		NR == FNR { containers[$1] = $2; next }
		n >= size && containers[$0] != last { exit }
		{ print; n++; last = containers[$0] }' <(containers) -
}

# forget_failed removes the results of specs that have failed, and of those that share
# their containers.
forget_failed() {
	awk -F '\t' '
		FILENAME == ARGV[1] { containers[$1] = $2; next }
		FILENAME == ARGV[2] { if ($1 != "passed" && $1 != "skipped") again[containers[$2]]; next }
		!(containers[$2] in again)' <(containers) "$results/results" - <"$results/results" >"$results/results.new"
	mv "$results/results.new" "$results/results"
}

# remaining prints the specs that have no result.
remaining() {
	specs | grep -vxFf <(cut -f 2 "$results/results") || true
}

# run_batch runs specs, whose names are on standard input, and appends their results.
run_batch() { # PROCS
	local dir focus
	focus=$(sed 's/[][()|.*+?^$\\{}]/\\&/g' | paste -s -d '|')
	[ "$focus" ] || return 0
	dir=$results/$(date +%Y%m%dT%H%M%S)
	mkdir "$dir"
	run_suite "$dir" --procs "$1" --silence-skips --no-color --focus "($focus)\$" --json-report report.json --junit-report junit.xml --output-dir "$dir" --timeout "${TIMEOUT:-6h}" \
		>"$dir/output" 2>&1 || true
	[ -s "$dir/report.json" ] && report "$dir/report.json" >"$dir/results" && [ -s "$dir/results" ] || {
		tail -n 40 "$dir/output" >&2
		die "the suite has no result"
	}
	cat "$dir/results" >>"$results/results"
	log "$(cut -f 1 "$dir/results" | sort | uniq -c | xargs), $(remaining | wc -l) left"
}

run() { # REGEXP
	local batch
	specs >/dev/null # makes the report that batch reads
	while batch=$(remaining | grep -E -- "$1" | grep -vF '[Serial]' | batch); [ "$batch" ]; do
		run_batch "${PROCS:-4}" <<<"$batch"
	done
	while batch=$(remaining | grep -E -- "$1" | grep -F '[Serial]' | batch); [ "$batch" ]; do
		run_batch 1 <<<"$batch"
	done
}

# group is what makes a spec's group of the name of its outermost container, in jq.
group='capture("\\[sig-(?<sig>[a-z-]+)\\]").sig'

# table prints how many specs of each group have which result, and those that failed.
table() {
	{
		jq -r ".[].SpecReports[]? | select(.LeafNodeType == \"It\") |
			[(.ContainerHierarchyTexts[0] | $group), (.ContainerHierarchyTexts + [.LeafNodeText] | map(select(. != \"\")) | join(\" \"))] | @tsv" "$results/specs.json"
		echo
		cat "$results/results"
	} | awk -F '\t' '
		!NF { results = 1; next }
		!results { group[$2] = $1; next }
		{ count[group[$2]]++; count["all"]++; if ($1 != "passed" && $1 != "skipped") $1 = "failed"; of[group[$2], $1]++; of["all", $1]++ }
		END { for (g in count) printf "%-70s %4d passed %4d skipped %4d failed\n", g, of[g, "passed"], of[g, "skipped"], of[g, "failed"] }' | sort
	printf '%s specs, %s left\n' "$(wc -l <"$results/specs")" "$(remaining | wc -l)"
	grep -vE '^(passed|skipped)' "$results/results" || true
}

# make_images fills the nodes' registry, once.
make_images() {
	write_repos
	[ -e "$images.pushed" ] || {
		log "making images"
		push_images
		touch "$images.pushed"
	}
}

# prepare makes what a run needs.
prepare() {
	install_missing jq docker.io curl bind9-dnsutils netcat-openbsd socat iproute2
	build_programs
	engine_pid "$cluster/$node" >/dev/null || die "no cluster runs: hack/cluster.sh up"
	socket=$(engine_socket "$cluster/$node")
	make_images
}

[ "${1-}" != node ] || {
	shift
	. hack/nodesuite.sh
}
case ${1-} in
build)
	need_root
	find_go
	install_missing jq
	build_programs
	;;
run | again)
	need_root
	find_go
	mkdir -p "$results"
	touch "$results/results"
	prepare "$@"
	[ "$1" = run ] || forget_failed
	run "${2:-.}"
	table
	;;
table) table ;;
*)
	sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0" >&2
	exit 2
	;;
esac
