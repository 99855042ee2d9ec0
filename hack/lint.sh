#!/bin/bash
# Runs golangci-lint with .golangci.yml, govulncheck, actionlint on the workflows, the
# alert rules through promtool, and the scripts through shellcheck.
# The first run builds the first three with the Go tool, outside this module and at
# pinned versions (some minutes), and keeps them in ${XDG_CACHE_HOME:-~/.cache}/cridock.
#
#   hack/lint.sh [packages]      the default is ./...
#   hack/lint.sh built           succeed if golangci-lint is already built; the exit
#                                status is 3 if it is not
#
# It needs curl and jq. govulncheck needs the database at https://vuln.go.dev, or a copy
# at the file:// or https:// address in CRIDOCK_VULNDB. Without either it is left out,
# with a message. So are shellcheck and promtool (Debian: prometheus) if they are not
# installed; with CRIDOCK_CI=1 that is an error.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. hack/lib.sh
find_go

golangci=(golangci-lint v2.15.0 github.com/golangci/golangci-lint/v2/cmd/golangci-lint)

left_out() { printf '\n!!!! LEFT OUT: %s\n\n' "$*" >&2; }

# installed reports whether a program exists. CI has all of them: there it fails.
installed() { # PROGRAM PACKAGE
	! command -v "$1" >/dev/null || return 0
	[ "${CRIDOCK_CI-}" != 1 ] || die "$1 is missing: apt-get install $2"
	left_out "$1: apt-get install $2"
	return 1
}

# vulnerabilities fails if the code reaches a vulnerability that a newer version
# fixes. Vulnerabilities without a fix are only listed.
vulnerabilities() { # PACKAGES
	local db=${CRIDOCK_VULNDB:-https://vuln.go.dev} check found
	if [ -z "${CRIDOCK_VULNDB-}" ] && ! curl -sfo /dev/null --max-time 10 "$db/index/db.json"; then
		left_out "govulncheck, as $db cannot be reached: known vulnerabilities were not checked"
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
	installed shellcheck shellcheck || return 0
	log "shellcheck"
	shellcheck --external-sources --severity warning .ci/run hack/*.sh hack/units/* shim/pause/build.sh deploy/package/*.sh
}

workflows() {
	local check
	check=$(tool actionlint v1.7.12 github.com/rhysd/actionlint/cmd/actionlint)
	log "actionlint"
	"$check"
}

alerts() {
	installed promtool prometheus || return 0
	log "promtool"
	promtool check rules deploy/prometheus/cridock.rules.yaml >&2
	promtool test rules deploy/prometheus/cridock.tests.yaml >&2
}

if [ "${1-}" = built ]; then
	dir=$(tool_dir "${golangci[@]:0:2}")
	[ -x "$dir/golangci-lint" ] || exit 3
	exit 0
fi
for program in curl jq; do
	command -v "$program" >/dev/null || die "$program is missing: apt-get install $program"
done
[ $# -gt 0 ] || set -- ./...
scripts
workflows
alerts
lint=$(tool "${golangci[@]}")
log "golangci-lint"
"$lint" run "$@"
vulnerabilities "$@"
