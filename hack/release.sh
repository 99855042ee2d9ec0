#!/bin/bash
# Builds the files of a release, for each architecture.
#
#   hack/release.sh VERSION         for example v1.2.3; makes dist/
#   hack/release.sh check           proves that two builds are equal, byte for byte,
#                                   and tests the packages with hack/packages.sh (root)
#
# In dist/, V is VERSION without "v", ARCH is Go's name of the architecture:
#
#   cridock-V.ARCH, cribench-V.ARCH   static binaries
#   PROGRAM-V.ARCH.cdx.json           what is in each, a CycloneDX SBOM
#   cridock-V.ARCH.tgz                the binaries with units, manual pages and so on
#   cri-dockerd-V.ARCH.tgz            cridock as cri-dockerd/cri-dockerd, in the form
#                                     in which tools download cri-dockerd
#   cridock_V-1_*.deb                 Debian package
#   cridock-V-1.*.rpm                 RPM package
#   SHA256SUMS                        hashes of all of these
#
# ARCHS="amd64 arm64" builds only these; "check" builds this machine's unless it is
# set, and must have it for the tests of the packages.
#
# The bytes depend on the source, VERSION and the releases of Go, tar and gzip, and
# on nothing else: dates are that of the commit (or SOURCE_DATE_EPOCH), and no path,
# user, host or state of the repository is recorded. A version that does not end in
# "-dirty" needs a clean work tree. nfpm and cyclonedx-gomod are built with the Go
# tool at pinned versions, outside this module, as in hack/lint.sh. It also needs jq.
set -euo pipefail
export LC_ALL=C TZ=UTC
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. hack/lib.sh

all_archs=(amd64 arm64 arm ppc64le s390x riscv64)
nfpm=(nfpm v2.45.2 github.com/goreleaser/nfpm/v2/cmd/nfpm)
cyclonedx=(cyclonedx-gomod v1.10.0 github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod)

# Programs of cmd that are released, if they exist. Those in node_programs are also
# in the packages.
programs=(cridock cribench cridock-runtime)
node_programs=(cridock cridock-runtime)

# existing prints those of the programs that the source has.
existing() { # PROGRAM...
	local program
	for program; do
		[ ! -d "cmd/$program" ] || echo "$program"
	done
}

# set_build_environment leaves nothing to the environment that changes bytes, nor to
# the settings of "go env -w": the lowest level of each processor, Go's default
# experiments and cryptography, and no flags but those in build. Where modules are from
# and what is cached stays as it is set: go.sum has the modules' hashes.
set_build_environment() {
	local name value
	for name in GOCACHE GOMODCACHE GOPROXY GONOPROXY GOSUMDB GONOSUMDB GOPRIVATE GOINSECURE GOVCS GOAUTH; do
		value=$(go env "$name")
		declare -gx "$name=$value"
	done
	export GOENV=off CGO_ENABLED=0 GOOS=linux GOTOOLCHAIN=local GOFLAGS='' GOEXPERIMENT='' GOFIPS140=off GOWORK=off GODEBUG=''
	export GOAMD64=v1 GOARM64=v8.0 GOARM=7 GOPPC64=power8 GORISCV64=rva20u64
	unset GO_EXTLINK_ENABLED
	if [ -z "${SOURCE_DATE_EPOCH-}" ]; then
		SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
	fi
	export SOURCE_DATE_EPOCH
	umask 022
}

# build compiles the programs for one architecture. The version is in the program;
# the repository's state is not (-buildvcs=false), so that an unpacked source
# archive gives the same bytes as a clone.
build() { # ARCH DIRECTORY
	local program
	for program in $(existing "${programs[@]}"); do
		log "building $program for $1"
		GOARCH=$1 go build -trimpath -buildvcs=false -ldflags "-s -w -X main.version=$version" \
			-o "$2/$program-$v.$1" "./cmd/$program"
		sbom "$2/$program-$v.$1"
	done
}

# sbom lists a binary's modules, as the linker recorded them. How the tool itself
# was built is left out: it changes with the Go release that built it.
sbom() { # BINARY
	"$cyclonedx_bin" bin -json -noserial -notimestamp -std -version "$version" "$1" 2>"$work/sbom.log" |
		jq 'del(.metadata.tools[].hashes)' >"$1.cdx.json" ||
		{ cat "$work/sbom.log" >&2; die "no SBOM for $1"; }
}

# documents generates manual pages and completions, once for all architectures.
documents() { # DIRECTORY
	log "generating manual pages and completions"
	cp go.mod go.sum "$work"
	# DOCKER_CONFIG is the default of a setting, and would be the builder's.
	GOARCH='' GOOS='' DOCKER_CONFIG=/root/.docker go run -trimpath -buildvcs=false -mod=mod -modfile "$work/go.mod" \
		hack/manpages/main.go "$1" "$version"
	gzip -9n "$1"/man/*
}

# date_files gives files the release's date: archives and packages record it.
date_files() { # DIRECTORY
	find "$1" -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +
}

# archive packs a directory as NAME.tgz, with its own name as the first folder.
archive() { # DIRECTORY NAME.tgz
	tar --create --format=ustar --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$SOURCE_DATE_EPOCH" \
		--directory "$(dirname "$1")" "$(basename "$1")" | gzip -9n >"$2"
}

archives() { # ARCH DIRECTORY
	local dir=$work/archive program
	rm -rf "$dir"
	mkdir -p "$dir/cridock" "$dir/cri-dockerd"
	for program in $(existing "${programs[@]}"); do
		install -m755 "$2/$program-$v.$1" "$dir/cridock/$program"
	done
	cp -r deploy/cridock.yaml deploy/systemd deploy/prometheus deploy/grafana LICENSE "$dir/cridock"
	documents_for "$dir/cridock" README.md CHANGELOG.md
	cp -r "$work/documents/man" "$work/documents/completions" "$dir/cridock"
	chmod -R u=rwX,go=rX "$dir"
	archive "$dir/cridock" "$2/cridock-$v.$1.tgz"
	install -m755 "$2/cridock-$v.$1" "$dir/cri-dockerd/cri-dockerd"
	archive "$dir/cri-dockerd" "$2/cri-dockerd-$v.$1.tgz"
}

# documents_for copies documents to where the rest of the source is not: links to its
# other files become addresses in the repository, of this version.
documents_for() { # DIRECTORY FILE...
	local file folder
	mkdir -p "$1"
	for file in "${@:2}"; do
		folder=${file%"${file##*/}"}
		sed -E -e "s,\]\(([^):#][^):]*)\),](https://github.com/cridock/cridock/blob/$version/$folder\1),g" \
			-e "s,/blob/$version/docs/\.\./,/blob/$version/,g" "$file" >"$1/${file##*/}"
	done
}

# stage lays out a package's files as on a node, except for the configuration.
stage() { # ARCH DIRECTORY STAGE deb|rpm
	local program unit doc=$3/usr/share/doc/cridock zsh=vendor-completions
	[ "$4" = deb ] || zsh=site-functions
	rm -rf "$3"
	for program in $(existing "${node_programs[@]}"); do
		install -Dm755 "$2/$program-$v.$1" "$3/usr/bin/$program"
	done
	mkdir -p "$3/usr/lib/systemd/system"
	for unit in cridock.service cridock.socket; do
		# The head of the service says how to install it by hand.
		sed -e 's#/usr/local/bin/#/usr/bin/#' -e '/^# cridock as a systemd service/,/^$/d' \
			"deploy/systemd/$unit" >"$3/usr/lib/systemd/system/$unit"
	done
	install -Dm644 -t "$3/usr/share/man/man8" "$work"/documents/man/*
	install -Dm644 "$work/documents/completions/cridock.bash" "$3/usr/share/bash-completion/completions/cridock"
	install -Dm644 "$work/documents/completions/cridock.zsh" "$3/usr/share/zsh/$zsh/_cridock"
	install -Dm644 "$work/documents/completions/cridock.fish" "$3/usr/share/fish/vendor_completions.d/cridock.fish"
	install -Dm644 LICENSE "$doc/copyright"
	documents_for "$doc" README.md CHANGELOG.md docs/migrating.md docs/settings.md
	install -Dm644 -t "$doc/examples" deploy/systemd/kubelet-10-cridock.conf deploy/prometheus/*.yaml deploy/grafana/*.json
	chmod -R u=rwX,go=rX "$3"
}

packages() { # ARCH DIRECTORY
	local format arch=$1
	[ "$1" != arm ] || arch=arm7
	install -m644 deploy/cridock.yaml "$work/cridock.yaml"
	for format in deb rpm; do
		stage "$1" "$2" "$work/stage" "$format"
		date_files "$work"
		STAGE=$work/stage CONFIG=$work/cridock.yaml PACKAGE_ARCH=$arch VERSION=$v \
			"$nfpm_bin" package --config deploy/package/nfpm.yaml --packager "$format" --target "$2" >&2
	done
}

# release builds everything into a new directory.
release() { # DIRECTORY
	local arch
	mkdir -p "$1"
	documents "$work/documents"
	for arch in "${archs[@]}"; do
		build "$arch" "$1"
		archives "$arch" "$1"
		packages "$arch" "$1"
	done
	(cd "$1" && sha256sum -- * >"$work/SHA256SUMS" && mv "$work/SHA256SUMS" .)
}

# check builds twice, the second time without a cache, with other settings of Go, and
# from a copy of the source in another place and without its repository.
check() {
	local first=$work/first second=$work/second copy=$work/elsewhere/source
	release "$first"
	mkdir -p "$copy"
	git ls-files -z | tar --create --null --files-from=- | tar --extract --directory "$copy"
	log "building again, without a cache"
	printf '%s\n' GOFLAGS=-tags=elsewhere GOAMD64=v2 GOARM64=v8.1 >"$work/go.env"
	GOENV=$work/go.env GOFIPS140=latest GOCACHE=$work/gocache ARCHS="${archs[*]}" DIST=$second "$copy/hack/release.sh" "$version"
	diff -r "$first" "$second" || die "two builds differ"
	log "two builds are equal"
	later "$work/later"
	hack/packages.sh "$first" "$work/later"
}

# later makes packages of a later version, for this machine.
later() { # DIRECTORY
	local version=v99.0.0 v=99.0.0 arch
	arch=$(go env GOHOSTARCH)
	mkdir "$1"
	build "$arch" "$1"
	packages "$arch" "$1"
}

find_go
install_missing jq
[ $# = 1 ] || die "usage: hack/release.sh VERSION | check"
version=$1 dist=${DIST:-dist}
if [ "$1" = check ]; then
	version=v0.0.0-check
	ARCHS=${ARCHS:-$(go env GOHOSTARCH)}
fi
[[ $version =~ ^v[0-9]+\.[0-9]+\.[0-9]+(-[0-9A-Za-z.-]+)?$ ]] || die "the version must be like v1.2.3 or v1.2.3-rc.1"
v=${version#v}
read -ra archs <<<"${ARCHS:-${all_archs[*]}}"
if [ -e .git ] && [[ $version != *-dirty && $version != v0.0.0-check ]]; then
	changes=$(git status --porcelain) || die "git cannot say whether the work tree is clean"
	[ -z "$changes" ] || die "the work tree has changes that are not committed"
fi
nfpm_bin=$(tool "${nfpm[@]}")
cyclonedx_bin=$(tool "${cyclonedx[@]}")
work=$(mktemp -d /var/tmp/cridock-release.XXXXXX)
trap 'chmod -R u+w "$work"; rm -rf "$work"' EXIT
set_build_environment
if [ "$1" = check ]; then
	check
	exit
fi
release "$work/dist"
rm -rf "$dist"
mv "$work/dist" "$dist"
log "$dist has $(find "$dist" -type f | wc -l) files, built with $(go env GOVERSION)"
