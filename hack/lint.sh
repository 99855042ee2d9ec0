#!/bin/bash
# Runs golangci-lint with .golangci.yml, govulncheck, and shellcheck on the scripts.
# The first run builds the first two with the Go tool, outside this module and at
# pinned versions (some minutes), and keeps them in ${XDG_CACHE_HOME:-~/.cache}/cridock.
#
#   hack/lint.sh [packages]      the default is ./...
#   hack/lint.sh built           succeed if golangci-lint is already built
#
# govulncheck needs the database at https://vuln.go.dev, or a copy at the file:// or
# https:// address in CRIDOCK_VULNDB. Without either it is left out, with a message;
# so is shellcheck if it is not installed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. hack/lib.sh
find_go

golangci=(golangci-lint v2.15.0 github.com/golangci/golangci-lint/v2/cmd/golangci-lint)

# tool_dir prints where a program is kept.
tool_dir() { echo "${XDG_CACHE_HOME:-$HOME/.cache}/cridock/$1-$2"; } # NAME VERSION

# tool prints the path of a program, and builds it if it is missing.
tool() { # NAME VERSION PACKAGE
	local bin
	bin=$(tool_dir "$1" "$2")
	if [ ! -x "$bin/$1" ]; then
		log "building $1 $2"
		GOBIN=$bin GOFLAGS='' go install "$3@$2" >&2
	fi
	echo "$bin/$1"
}

skipped() { printf '\n!!!! LEFT OUT: %s\n\n' "$*" >&2; }

# vulnerabilities fails if the code reaches a vulnerability that a newer version
# fixes. Vulnerabilities without a fix are only listed.
vulnerabilities() { # PACKAGES
	local db=${CRIDOCK_VULNDB:-https://vuln.go.dev} check found
	if [ -z "${CRIDOCK_VULNDB-}" ] && ! curl -sfo /dev/null --max-time 10 "$db/index/db.json"; then
		skipped "govulncheck, as $db cannot be reached: known vulnerabilities were not checked"
		return
	fi
	check=$(tool govulncheck v1.9.0 golang.org/x/vuln/cmd/govulncheck)
	log "govulncheck"
	found=$("$check" -format json -db "$db" "$@" | jq -r 'select(.finding.trace[0].function) | .finding |
		"\(.osv) \(.trace[0].module) \(.trace[0].version), \(if .fixed_version then "fixed in " + .fixed_version else "not fixed" end)"' | sort -u)
	[ -z "$found" ] || printf '%s\n' "$found" >&2
	! grep -q ', fixed in ' <<<"$found" || die "update the modules above"
}

scripts() {
	if ! command -v shellcheck >/dev/null; then
		skipped "shellcheck: apt-get install shellcheck"
		return
	fi
	log "shellcheck"
	shellcheck --external-sources --severity warning .ci/run hack/*.sh shim/pause/build.sh
}

if [ "${1-}" = built ]; then
	[ -x "$(tool_dir "${golangci[@]:0:2}")/golangci-lint" ]
	exit
fi
[ $# -gt 0 ] || set -- ./...
scripts
lint=$(tool "${golangci[@]}")
log "golangci-lint"
"$lint" run "$@"
vulnerabilities "$@"
