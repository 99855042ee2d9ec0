#!/bin/bash
# Builds pause_linux_amd64 and pause_linux_arm64 from pause.c.
#
#   build.sh           builds both, and writes pause.lock
#   build.sh --check   proves that the committed binaries match pause.c; writes nothing
#
# Needs x86_64-linux-gnu-gcc and aarch64-linux-gnu-gcc (Debian: gcc and
# gcc-aarch64-linux-gnu on amd64); CC_AMD64 and CC_ARM64 name others. Exit status 3
# means that a compiler is missing.
#
# What --check proves: the same compiler and linker produce the same bytes, and
# pause.lock records which ones built the committed binaries. So:
#   1. pause.c with these flags, and each binary, have the hashes in pause.lock;
#   2. a fresh build equals the committed binary byte for byte, or
#   3. if the toolchain is not the recorded one and bytes differ, the committed
#      and the fresh binary behave the same: they run until SIGTERM or SIGINT,
#      ignore SIGHUP, and exit with status 0. That is weaker than 2, and the
#      output says so. Binaries of another architecture need qemu-user; without
#      it, rule 3 cannot be tested and the check fails.
set -euo pipefail
export LC_ALL=C
cd "$(dirname "${BASH_SOURCE[0]}")"

CFLAGS=(-std=c11 -Wall -Wextra -Werror -O2 -ffreestanding -fno-pie -fno-stack-protector
	-fno-unwind-tables -fno-asynchronous-unwind-tables -fno-ident -mgeneral-regs-only)
# One read-only, executable segment: with -z noseparate-code the text shares a
# page with the ELF header, so that even 64 KiB pages need no padding.
# shellcheck disable=SC2054 # -Wl has commas
LDFLAGS=(-static -nostdlib -nostartfiles -no-pie -s -Wl,--build-id=none
	-Wl,-z,noseparate-code -Wl,-z,noexecstack)
ARCHS=(amd64 arm64)

compiler() { # ARCH
	case $1 in
	amd64) echo "${CC_AMD64:-x86_64-linux-gnu-gcc}" ;;
	arm64) echo "${CC_ARM64:-aarch64-linux-gnu-gcc}" ;;
	esac
}

toolchain() { # ARCH: the versions that determine the bytes
	local cc ld
	cc=$(compiler "$1")
	ld=$($cc -print-prog-name=ld)
	echo "$($cc -dumpfullversion) $($cc --version | sed -n '1s/^[^ ]* //p'); $($ld --version | head -n 1)"
}

compile() { # ARCH OUTPUT
	"$(compiler "$1")" "${CFLAGS[@]}" "${LDFLAGS[@]}" -o "$2" pause.c
}

source_hash() { { echo "${CFLAGS[*]} ${LDFLAGS[*]}"; cat pause.c; } | sha256sum | cut -d' ' -f1; }
file_hash() { sha256sum <"$1" | cut -d' ' -f1; }

locked() { # KEY: its value in pause.lock
	sed -n "s/^$1 = //p" pause.lock
}

fail() {
	echo "pause: $*" >&2
	exit 1
}

# behaves runs a binary (natively, or by qemu-user) and sends it signals.
behaves() { # ARCH BINARY
	local run=() pid status=0 sig
	case $1-$(uname -m) in
	amd64-x86_64 | arm64-aarch64) ;;
	*)
		run=("qemu-$([ "$1" = amd64 ] && echo x86_64 || echo aarch64)")
		command -v "${run[0]}" >/dev/null || { echo "pause: ${run[0]} (qemu-user) is missing" >&2; return 1; }
		;;
	esac
	for sig in TERM INT; do
		# A script's background jobs start with SIGINT ignored; a container's do not.
		env --default-signal=INT "${run[@]}" "$2" &
		pid=$!
		sleep 0.3
		kill -HUP "$pid" && sleep 0.1 && kill -"$sig" "$pid" || return 1 # kill fails if the binary has exited
		wait "$pid" || status=$?
		[ "$status" = 0 ] || return 1
	done
}

write() {
	local arch
	for arch in "${ARCHS[@]}"; do
		compile "$arch" "pause_linux_$arch"
		chmod 0755 "pause_linux_$arch"
	done
	{
		echo "# Written by build.sh: what the committed binaries were built from and by."
		echo "source = $(source_hash)"
		for arch in "${ARCHS[@]}"; do
			echo "$arch.sha256 = $(file_hash "pause_linux_$arch")"
			echo "$arch.toolchain = $(toolchain "$arch")"
		done
	} >pause.lock
}

check() {
	local arch tmp
	tmp=$(mktemp -d)
	# shellcheck disable=SC2064 # the directory is known now
	trap "rm -rf '$tmp'" EXIT
	[ "$(locked source)" = "$(source_hash)" ] || fail "pause.c or the flags changed since the binaries were built: run shim/pause/build.sh"
	for arch in "${ARCHS[@]}"; do
		local bin=pause_linux_$arch
		[ "$(locked "$arch.sha256")" = "$(file_hash "$bin")" ] || fail "$bin is not the file that pause.lock records"
		compile "$arch" "$tmp/$bin"
		if cmp -s "$bin" "$tmp/$bin"; then
			echo "pause: $bin equals a fresh build, byte for byte"
			continue
		fi
		[ "$(locked "$arch.toolchain")" != "$(toolchain "$arch")" ] || fail "$bin differs from a fresh build by the same toolchain"
		behaves "$arch" "./$bin" || fail "$bin does not behave as pause must"
		behaves "$arch" "$tmp/$bin" || fail "a fresh $bin does not behave as pause must"
		echo "pause: $bin differs from a fresh build by another toolchain ($(toolchain "$arch")); both behave the same"
	done
}

for arch in "${ARCHS[@]}"; do
	command -v "$(compiler "$arch")" >/dev/null || {
		echo "pause: $(compiler "$arch") is missing (Debian: apt-get install gcc gcc-aarch64-linux-gnu)" >&2
		exit 3
	}
done
case ${1:-} in
'') write ;;
--check) check ;;
*) fail "usage: build.sh [--check]" ;;
esac
