#!/bin/bash
# Runs the conformance suite of Kubernetes on the cluster of hack/cluster.sh.
#
#   sudo hack/cluster.sh up
#   sudo hack/conformance.sh run [REGEXP]   run the specs that have no result yet, or of
#                                           these the ones that match
#   sudo hack/conformance.sh again          run those again that have failed
#   hack/conformance.sh table               print what has run, and what has failed
#   sudo hack/conformance.sh build          only build the programs
#
# The suite (e2e.test), Ginkgo, and the programs of its images are built from the Go
# module proxy, like Kubernetes itself. docs/conformance.md names the images that are
# stand-ins, and the last result.
#
#   RESULTS=DIR   where results are kept (default /var/tmp/cridock-conformance). A run
#                 that is interrupted goes on where it was, but for its last batch
#   PROCS=N       specs that run at once, except for serial ones (default 4)
#   CLUSTER=DIR   the cluster, as for hack/cluster.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. hack/lib.sh
. hack/node.sh

cluster=${CLUSTER:-/var/tmp/cridock-cluster}
results=${RESULTS:-/var/tmp/cridock-conformance}
registry=127.0.0.1:5000
batch_size=150

# --- programs --------------------------------------------------------------------

version=$(go mod edit -json e2e/kubelet/go.mod | jq -er '.Require[] | select(.Path == "k8s.io/kubernetes").Version')
programs=$(foreign_program conformance "$version")

# build_programs builds the suite and the programs of its images, with the dependencies
# that Kubernetes' own go.mod selects.
build_programs() {
	local source work program ldflags
	[ ! -d "$programs" ] || return 0
	log "building the conformance suite $version: most of an hour the first time"
	source=$(go mod download -json "k8s.io/kubernetes@$version" | jq -er .Dir) || die "cannot download k8s.io/kubernetes@$version"
	work=$(mktemp -d)
	mkdir "$work/bin"
	released_modules "$source" "$version" "$work"
	ldflags="-s -w -X k8s.io/component-base/version.gitVersion=$version"
	ldflags+=" -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=$(cut -d . -f 2 <<<"$version")"
	for program in agnhost nonewprivs regression-issue-74839 resource-consumer; do
		build_in "$source" "$work" build -ldflags "-s -w" -o "$work/bin/$program" "./test/images/$program"
	done
	build_in "$source" "$work" build -ldflags "-s -w" -o "$work/bin/sample-apiserver" k8s.io/sample-apiserver
	build_in "$source" "$work" build -ldflags "-s -w" -o "$work/bin/ginkgo" github.com/onsi/ginkgo/v2/ginkgo
	build_in "$source" "$work" test -c -ldflags "$ldflags" -o "$work/bin/e2e.test" ./test/e2e
	cp "$source"/test/images/agnhost/porter/localhost.{crt,key} "$work/bin/"
	mkdir -p "${programs%/*}"
	mv -T "$work/bin" "$programs"
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
# volume of the image, beside a file of the original's distribution.
web_image() { # NAME:TAG FILE CONTENT
	local tree
	tree=$(mktemp -d)
	busybox_tree "$tree"
	mkdir -p "$tree/www"
	echo "$3" | tee "$tree/$2" >"$tree/www/$2"
	echo 'NAME="Alpine Linux"' >"$tree/etc/os-release"
	image "$1" "$tree" 'ENTRYPOINT ["httpd", "-f", "-p", "80", "-h", "/www"]'
	rm -r "$tree"
}

# bash_as_sh replaces the shell of Debian's busybox: that one drops variables such as
# "data-1", for which specs look, and prefers its own nc.
bash_as_sh() { # TREE
	with_libraries "$1" bash
	ln -sf "$(readlink -f "$(command -v bash)")" "$1/bin/sh"
}

busybox_image() { # NAME:TAG
	local tree
	tree=$(mktemp -d)
	busybox_tree "$tree"
	bash_as_sh "$tree"
	image "$1" "$tree" 'CMD ["sh"]'
	rm -r "$tree"
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
	for tag in $(tags_of agnhost); do
		image "$tag" "$tree" 'ENTRYPOINT ["/agnhost"]
CMD ["pause"]'
	done
	rm -r "$tree"
	program_image "$(tag_of nonewprivs)" nonewprivs 6755
	program_image "$(tag_of regression-issue-74839)" regression-issue-74839
	program_image "$(tag_of resource-consumer)" resource-consumer
	program_image "$(tag_of sample-apiserver)" sample-apiserver
	busybox_image "$(tag_of busybox)"
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
	[ -s "$cluster/conformance-images" ] ||
		KUBE_TEST_REPO_LIST=$cluster/repos.yaml "$programs/e2e.test" --list-images | sort -u >"$cluster/conformance-images"
	cat "$cluster/conformance-images"
}

# write_repos has the suite ask the nodes' registry for all images.
write_repos() {
	printf '%s: %s\n' promoterE2eRegistry "$registry" buildImageRegistry "$registry" gcEtcdRegistry "$registry" \
		gcRegistry "$registry" sigStorageRegistry "$registry" dockerLibraryRegistry "$registry" >"$cluster/repos.yaml"
}

# --- specs -----------------------------------------------------------------------

# suite runs it on the first node.
suite() { # GINKGO ARGUMENTS... -- SUITE ARGUMENTS...
	engine_exec "$cluster/node1" env KUBE_TEST_REPO_LIST="$cluster/repos.yaml" KUBECONFIG=/etc/kubernetes/admin.conf \
		PATH="$cluster/bin:$PATH" HOME=/root "$programs/ginkgo" "$@"
}

# specs prints the names of all conformance specs.
specs() {
	[ -s "$results/specs" ] || {
		suite --dry-run --silence-skips --focus '\[Conformance\]' --json-report specs.json --output-dir "$results" "$programs/e2e.test" >/dev/null
		report "$results/specs.json" | cut -f 2 | sort >"$results/specs.new"
		mv "$results/specs.new" "$results/specs"
	}
	cat "$results/specs"
}

# report prints what a report of Ginkgo has: RESULT, NAME, SECONDS.
report() { # FILE
	jq -r '.[].SpecReports[]? | select(.LeafNodeType == "It" and .State != "skipped") |
		[.State, (.ContainerHierarchyTexts + [.LeafNodeText] | join(" ")), (.RunTime / 1e9 | round)] | @tsv' "$1"
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
	suite --procs "$1" --silence-skips --no-color --focus "($focus)\$" --json-report report.json --junit-report junit.xml --output-dir "$dir" --timeout 6h \
		"$programs/e2e.test" -- --provider local --num-nodes 2 --kubectl-path "$cluster/bin/kubectl" --report-dir "$dir" >"$dir/output" 2>&1 || true
	[ -s "$dir/report.json" ] || {
		tail -n 40 "$dir/output" >&2
		die "the suite wrote no report"
	}
	report "$dir/report.json" >>"$results/results"
	log "$(report "$dir/report.json" | cut -f 1 | sort | uniq -c | xargs), $(remaining | wc -l) left"
}

run() { # REGEXP
	local batch
	while batch=$(remaining | grep -E -- "$1" | grep -vF '[Serial]' | head -n "$batch_size"); [ "$batch" ]; do
		run_batch "${PROCS:-4}" <<<"$batch"
	done
	while batch=$(remaining | grep -E -- "$1" | grep -F '[Serial]' | head -n "$batch_size"); [ "$batch" ]; do
		run_batch 1 <<<"$batch"
	done
}

table() {
	local all
	all=$(sort -u "$results/specs" | wc -l)
	printf '%s specs\n' "$all"
	cut -f 1 "$results/results" | sort | uniq -c
	grep -v '^passed' "$results/results" || true
}

prepare() {
	need_root
	find_go
	install_missing jq docker.io curl bind9-dnsutils netcat-openbsd socat iproute2
	build_programs
	engine_pid "$cluster/node1" >/dev/null || die "no cluster runs: hack/cluster.sh up"
	socket=$(engine_socket "$cluster/node1")
	mkdir -p "$results"
	touch "$results/results"
	write_repos
	[ -e "$cluster/conformance-images.pushed" ] || {
		log "making images"
		push_images
		touch "$cluster/conformance-images.pushed"
	}
}

case ${1-} in
build)
	need_root
	find_go
	install_missing jq
	build_programs
	;;
run)
	prepare
	run "${2:-.}"
	table
	;;
again)
	prepare
	sed -i '/^passed\t/!d' "$results/results"
	run .
	table
	;;
table) table ;;
*)
	sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0" >&2
	exit 2
	;;
esac
