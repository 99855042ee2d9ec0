#!/bin/bash
# Runs golangci-lint with .golangci.yml. The version is pinned; it is built by
# the Go tool outside this module the first time (a minute or two) and kept.
#
#   hack/lint.sh [packages]      the default is ./...
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. hack/lib.sh

version=v2.15.0
find_go
bin=${XDG_CACHE_HOME:-$HOME/.cache}/cridock/golangci-lint-$version
if [ ! -x "$bin/golangci-lint" ]; then
	log "building golangci-lint $version"
	GOBIN=$bin GOFLAGS='' go install "github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$version"
fi
[ $# -gt 0 ] || set -- ./...
exec "$bin/golangci-lint" run "$@"
