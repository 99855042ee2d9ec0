#!/bin/bash
# Builds pause_linux_ARCH from pause.c, for the architectures below.
#
#   build.sh           builds all, and writes pause.lock
#   build.sh --check   proves that the committed binaries match pause.c; writes nothing
#   build.sh --run     runs each committed binary, those of other architectures with
#                      qemu-user: see rule 3. As root it also leaves them orphans to
#                      reap. It waits for fixed times: the machine must not be busy.
#
# Needs Debian's cross compilers (on amd64: gcc gcc-aarch64-linux-gnu
# gcc-arm-linux-gnueabihf gcc-powerpc64le-linux-gnu gcc-s390x-linux-gnu
# gcc-riscv64-linux-gnu); CC_AMD64, CC_ARM64 and so on name others. Exit status 3
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
	-fno-unwind-tables -fno-asynchronous-unwind-tables -fno-ident)
# One read-only, executable segment: with -z noseparate-code the text shares a
# page with the ELF header, so that even 64 KiB pages need no padding.
# shellcheck disable=SC2054 # -Wl has commas
LDFLAGS=(-static -nostdlib -nostartfiles -no-pie -s -Wl,--build-id=none
	-Wl,-z,noseparate-code -Wl,-z,noexecstack)
ARCHS=(amd64 arm64 arm ppc64le s390x riscv64)
# The kernel's and qemu's names.
declare -A MACHINE=([amd64]=x86_64 [arm64]=aarch64 [arm]=arm [ppc64le]=ppc64le [s390x]=s390x [riscv64]=riscv64)
declare -A COMPILER=([amd64]=x86_64-linux-gnu-gcc [arm64]=aarch64-linux-gnu-gcc [arm]=arm-linux-gnueabihf-gcc
	[ppc64le]=powerpc64le-linux-gnu-gcc [s390x]=s390x-linux-gnu-gcc [riscv64]=riscv64-linux-gnu-gcc)
# The oldest processor of each, and no floating point.
declare -A ARCH_CFLAGS=([amd64]=-mgeneral-regs-only [arm64]=-mgeneral-regs-only
	[arm]='-march=armv7-a+fp -marm -mgeneral-regs-only' [ppc64le]='-mcpu=power8 -msoft-float' [s390x]='-march=z13 -msoft-float'
	# Relaxed code uses gp, which nobody sets here.
	[riscv64]='-march=rv64imac -mabi=lp64 -mno-relax')

compiler() { # ARCH
	local override=CC_${1^^}
	echo "${!override:-${COMPILER[$1]}}"
}

toolchain() { # ARCH: the versions that determine the bytes
	local cc ld
	cc=$(compiler "$1")
	ld=$($cc -print-prog-name=ld)
	echo "$($cc -dumpfullversion) $($cc --version | sed -n '1s/^[^ ]* //p'); $($ld --version | head -n 1)"
}

compile() { # ARCH OUTPUT
	# shellcheck disable=SC2086 # several flags
	"$(compiler "$1")" "${CFLAGS[@]}" ${ARCH_CFLAGS[$1]} "${LDFLAGS[@]}" -o "$2" pause.c
}

source_hash() { # of pause.c and all flags
	local arch
	{
		echo "${CFLAGS[*]} ${LDFLAGS[*]}"
		for arch in "${ARCHS[@]}"; do echo "$arch ${ARCH_CFLAGS[$arch]}"; done
		cat pause.c
	} | sha256sum | cut -d' ' -f1
}
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
	if [ "${MACHINE[$1]}" != "$(uname -m)" ]; then
		run=("qemu-${MACHINE[$1]}")
		command -v "${run[0]}" >/dev/null || { echo "pause: ${run[0]} (qemu-user) is missing" >&2; return 1; }
	fi
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

# reaps runs a binary as PID 1, with an orphan that exits.
reaps() { # ARCH BINARY
	local run=()
	[ "${MACHINE[$1]}" = "$(uname -m)" ] || run=("qemu-${MACHINE[$1]}")
	# The subshell exits before its child, which leaves a zombie if nobody reaps it.
	# shellcheck disable=SC2016 # the inner shell expands it
	unshare --pid --fork --mount-proc --kill-child bash -c '(sleep 0.3 & echo) >/dev/null; exec "$@"' _ "${run[@]}" "$2" &
	local pid=$! inside status=0
	sleep 1
	inside=$(pgrep -P "$pid")
	[ -z "$(ps -o pid= --ppid "$inside")" ] || status=1
	kill -TERM "$inside" && wait "$pid" || status=1
	return "$status"
}

run() {
	local arch
	for arch in "${ARCHS[@]}"; do
		behaves "$arch" "./pause_linux_$arch" || fail "pause_linux_$arch does not behave as pause must"
		if [ "$(id -u)" = 0 ]; then
			reaps "$arch" "./pause_linux_$arch" || fail "pause_linux_$arch does not reap orphans"
		fi
		echo "pause: pause_linux_$arch behaves as pause must"
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
		echo "pause: $(compiler "$arch") is missing (the head of build.sh lists Debian's packages)" >&2
		exit 3
	}
done
case ${1:-} in
'') write ;;
--check) check ;;
--run) run ;;
*) fail "usage: build.sh [--check | --run]" ;;
esac
