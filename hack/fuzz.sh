#!/bin/bash
# Runs fuzz targets, each for some time, one per processor in parallel.
#
#   hack/fuzz.sh [DURATION] [PACKAGE/TARGET...]
#
#   hack/fuzz.sh                            every target for 5s
#   hack/fuzz.sh 2s                         every target for 2s
#   hack/fuzz.sh 8h shim/logs/FuzzAnyLine   one overnight
#
# With a duration in seconds, the targets run with the race detector but without
# the fuzzer's instrumentation: inputs are mutated blindly. With minutes or hours,
# the programs are instrumented, which finds inputs that reach new code but takes
# minutes to build.
#
# It fails if a target fails. The failing input is then in the package's
# testdata/fuzz/TARGET, where go test runs it: commit it with the fix. Inputs that
# reached new code are kept in Go's cache for the next run.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. hack/lib.sh
find_go

duration=5s
if [[ ${1-} =~ ^[0-9]+(s|m|h)$ ]]; then
	duration=$1
	shift
fi

build=(-fuzz .)
[[ $duration != *s ]] || build=(-race)
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

# fuzz runs one target. It fails if there is no target of that name.
fuzz() { # PACKAGE/TARGET
	local package=${1%/*} target=${1##*/} out="$dir/$1.log" status=0
	(cd "$package" && "$dir/$package/test" -test.run '^$' -test.fuzz "^$target\$" -test.fuzztime "$duration" \
		-test.parallel 1 -test.fuzzcachedir "$cache/$package") >"$out" 2>&1 || status=1
	if [ $status -ne 0 ] && grep -q '^ *context deadline exceeded$' "$out" && ! grep -q '^ *Failing input' "$out"; then
		echo "ok $1: the time was over before all its seeds had run"
	elif [ $status -ne 0 ] || ! grep -q '^fuzz: elapsed' "$out"; then
		{ cat "$out"; echo "FAIL $1"; } >&2
		return 1
	else
		echo "ok $1"
	fi
}

cache=$(go env GOCACHE)/fuzz/cridock
targets=("$@")
if [ $# -eq 0 ]; then
	mapfile -t packages < <(grep -rl --include='*_test.go' '^func Fuzz' . | xargs -n 1 dirname | sed 's|^\./||' | sort -u)
else
	mapfile -t packages < <(dirname "$@" | sort -u)
fi
[ ${#packages[@]} -gt 0 ] || die "no fuzz targets found"
for package in "${packages[@]}"; do
	mkdir -p "$dir/$package"
	go test -c "${build[@]}" -o "$dir/$package/test" "./$package"
	[ $# -gt 0 ] || while read -r target; do targets+=("$package/$target"); done < <(cd "$package" && "$dir/$package/test" -test.list '^Fuzz')
done

log "fuzzing ${#targets[@]} targets, $duration each"
export -f fuzz
export dir cache duration
printf '%s\n' "${targets[@]}" | xargs -P "$(nproc)" -I {} bash -c 'fuzz {}'
