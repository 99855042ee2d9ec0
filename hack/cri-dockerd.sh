#!/bin/bash
# Builds cri-dockerd from the Go module proxy, for the tests that migrate pods between
# it and cridock. hack/test.sh uses it if it is built.
#
#   hack/cri-dockerd.sh build    build it and print its path
#   hack/cri-dockerd.sh built    print its path if it is already built; the exit status
#                                is 3 if it is not
#
# It is kept in ${XDG_CACHE_HOME:-~/.cache}/cridock. Building takes some minutes.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. hack/lib.sh

# This version works with Docker 20.10 (API 1.41) and later; v0.4.0 and v0.4.1 do not.
version=v0.4.3
module=github.com/Mirantis/cri-dockerd

case ${1-} in
build)
	find_go
	install_missing jq
	build_foreign cri-dockerd "$version" "$module" . "-X $module/cmd/version.Version=${version#v}"
	;;
built)
	binary=$(foreign_program cri-dockerd "$version")
	[ -x "$binary" ] || exit 3
	echo "$binary"
	;;
*)
	die "usage: hack/cri-dockerd.sh build | built"
	;;
esac
