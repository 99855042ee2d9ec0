#!/bin/bash
# Runs the tests on several Docker Engines and prints a table of results.
#
#   sudo hack/matrix.sh [ENGINE...] [-- go test arguments]
#
# An ENGINE is a Debian suite, to use its Docker, or the path of a directory with
# dockerd, containerd, containerd-shim-runc-v2, runc, crun, docker-proxy and
# docker-init, and criu for the tests of checkpoints. The suffix "+containerd" enables
# the containerd image store, "+graphdriver" disables it (Docker 28 and later). The
# default:
#
#   bookworm          Docker 20.10
#   trixie            Docker 26.1
#   sid               Docker 28.5 or later
#   sid+containerd
#
# The default go test arguments are ./e2e ./shim/..., the tests that need an engine.
# Each engine is tested by hack/test.sh, with its dockerd first in PATH.
#
# Debian's packages come from the mirror that this machine's apt uses, with separate
# lists, cache and package status: only patchelf is installed, which makes the
# unpacked programs use the libraries that they were built with. They are kept in
# ${XDG_CACHE_HOME:-~/.cache}/cridock/engines/SUITE; remove that to get newer ones.
# The output of each run is kept beside them: that of go test -json in
# results/ENGINE.json, the log in results/ENGINE.log.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. hack/lib.sh

cache=${XDG_CACHE_HOME:-$HOME/.cache}/cridock/engines
programs=(dockerd docker-proxy docker-init containerd containerd-shim-runc-v2 runc crun criu)

# unpack_suite downloads and unpacks a suite's Docker with all its dependencies.
unpack_suite() { # SUITE ROOT
	local apt mirror deb options packages
	apt=$2.apt
	rm -rf "$apt" "$2"
	mkdir -p "$apt"/{lists/partial,archives/partial,sources} "$2"
	: >"$apt/status"
	mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' 'Label: Debian' | head -n 1)
	[ -n "$mirror" ] || die "no Debian mirror found; run apt-get update"
	echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $1 main" >"$apt/sources.list"
	options=(-qq -o "Dir::State=$apt" -o "Dir::State::status=$apt/status" -o "Dir::Cache=$apt"
		-o "Dir::Etc::sourcelist=$apt/sources.list" -o "Dir::Etc::sourceparts=$apt/sources"
		-o APT::Default-Release= -o APT::Sandbox::User=root)
	apt-get "${options[@]}" update
	packages=(docker.io containerd runc crun tini)
	[ -z "$(apt-cache "${options[@]}" search --names-only '^criu$')" ] || packages+=(criu) # Debian 12 has none
	apt-get "${options[@]}" install -y --download-only --no-install-recommends "${packages[@]}"
	for deb in "$apt"/archives/*.deb; do
		dpkg-deb --extract "$deb" "$2"
	done
	rm -r "$apt"
}

# patch_programs copies a suite's programs to a directory and makes them use the
# suite's loader and libraries instead of the machine's.
patch_programs() { # ROOT DIR
	local program path libraries loader
	mkdir -p "$2"
	libraries=$(find "$1" -maxdepth 3 -type d -path '*lib/*-linux-gnu' | paste -sd :)
	for program in "${programs[@]}"; do
		path=$(find "$1"/usr/{sbin,bin} -name "$program" -print -quit)
		[ -n "$path" ] || [ "$program" = criu ] || die "no $program in $1"
		[ -n "$path" ] || continue
		cp -L "$path" "$2/$program"
		loader=$(patchelf --print-interpreter "$2/$program" 2>/dev/null) || continue # it is a static binary
		# Not the one in lib64, which may be an absolute link.
		loader=$(find "$1" -path "*-linux-gnu/${loader##*/}" -print -quit)
		# RPATH, not RUNPATH: it also applies to the libraries' own libraries.
		patchelf --set-interpreter "$loader" --force-rpath --set-rpath "$libraries" "$2/$program"
	done
}

# suite_programs prints the directory of a suite's programs.
suite_programs() { # SUITE
	local root=$cache/$1
	mkdir -p "$cache"
	(
		flock 9
		[ ! -d "$root/programs" ] || exit 0
		log "downloading the Docker of Debian $1"
		unpack_suite "$1" "$root"
		patch_programs "$root" "$root/programs.part"
		mv "$root/programs.part" "$root/programs"
	) 9>"$cache/lock" >&2
	echo "$root/programs"
}

# count prints how many tests passed, failed and were skipped. A test with subtests
# does not count; a package that fails without a failed test counts as one.
count() { # RESULTS.json
	jq -Rrs '
		[split("\n")[] | fromjson? | select(.Action | IN("pass", "fail", "skip"))] as $ends |
		[$ends[] | select(.Test) | {name: (.Package + " " + .Test), action: .Action}] as $tests |
		(reduce ($tests[].name | select(contains("/")) | sub("/[^/]*$"; "")) as $name ({}; .[$name] = true)) as $holders |
		(reduce ($ends[] | select(.Test and .Action == "fail")) as $e ({}; .[$e.Package] = true)) as $explained |
		([$tests[] | select($holders[.name] | not).action] +
		 [$ends[] | select((.Test | not) and .Action == "fail" and ($explained[.Package] | not)).Action]) as $actions |
		[("pass", "fail", "skip") as $a | [$actions[] | select(. == $a)] | length] | @tsv' "$1"
}

# failures lists the failed tests and packages.
failures() { # RESULTS.json
	jq -Rr 'fromjson? | select(.Action == "fail") | "    " + .Package + " " + (.Test // "")' "$1"
}

need_root
install_missing patchelf jq

engines=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do
	engines+=("$1")
	shift
done
[ $# -eq 0 ] || shift
[ $# -gt 0 ] || set -- ./e2e ./shim/...
[ ${#engines[@]} -gt 0 ] || engines=(bookworm trixie sid sid+containerd)

# Download everything first: an unreachable mirror must not waste an hour.
declare -A directories
for engine in "${engines[@]}"; do
	case ${engine%+*} in
	*/*) directories[$engine]=$(cd "${engine%+*}" && pwd) ;;
	*) directories[$engine]=$(suite_programs "${engine%+*}") ;;
	esac
done

results=$cache/results
mkdir -p "$results"
table=() status=0
for engine in "${engines[@]}"; do
	case $engine in
	*+containerd) export CRIDOCK_ENGINE_FLAGS=--feature=containerd-snapshotter=true ;;
	*+graphdriver) export CRIDOCK_ENGINE_FLAGS=--feature=containerd-snapshotter=false ;;
	*) export CRIDOCK_ENGINE_FLAGS= ;;
	esac
	name=$(basename "$engine")
	version=$("${directories[$engine]}/dockerd" --version)
	version=${version#Docker version }
	log "$engine: Docker ${version%%,*}"
	start=$SECONDS
	remark=
	PATH=${directories[$engine]}:$PATH hack/test.sh -json "$@" >"$results/$name.json" 2> >(tee "$results/$name.log" >&2) || {
		status=1
		remark='hack/test.sh failed'
		failures "$results/$name.json"
	}
	read -r passed failed skipped < <(count "$results/$name.json")
	table+=("$(printf '%-20s %-20s %7d %7d %8d %6d s  %s' "$engine" "${version%%,*}" "$passed" "$failed" "$skipped" $((SECONDS - start)) "$remark")")
done

printf '\n%-20s %-20s %7s %7s %8s %8s\n' engine Docker passed failed skipped time
printf '%s\n' "${table[@]}"
exit "$status"
