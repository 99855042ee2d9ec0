#!/bin/sh
# After the files are removed, by dpkg ("remove", "purge", or "upgrade" and others)
# or RPM (0, or 1 for an upgrade). Only "purge" deletes data, and only data in
# cridock's default directories.
set -e

root=/var/lib/cridock
runtime=/run/cridock

# unmount unmounts all below a directory, the newest first.
unmount() { # DIRECTORY
	cut -d' ' -f5 /proc/self/mountinfo | grep "^$1/" | sort -r | while read -r path; do
		umount "$path" || echo "cridock: cannot unmount $path" >&2
	done
}

# pods prints the sandboxes that Docker has, running or not. It fails if Docker does
# not answer.
pods() {
	timeout 10 docker ps --all --quiet --filter label=io.kubernetes.docker.type=podsandbox 2>/dev/null
}

# purge leaves what pods use: their resolv.conf files, and the pins by which their
# networks are released.
purge() {
	if left=$(pods) && [ -z "$left" ]; then
		unmount "$runtime"
		rm -rf --one-file-system "$runtime" "$root"
		return
	fi
	for path in "$root"/* "$root"/.[!.]*; do
		[ "$path" = "$root/sandboxes" ] || rm -rf --one-file-system "$path"
	done
	if [ -e "$root" ] || [ -e "$runtime" ]; then
		echo "cridock: $root/sandboxes and $runtime stay: Docker has pods that use them, or does not answer."
		echo "cridock: Remove both directories when no pod is left."
	fi
}

case ${1-} in
purge)
	purge
	;;
remove | 0)
	[ ! -d /run/systemd/system ] || systemctl daemon-reload
	[ "${1-}" != 0 ] || echo "cridock: $root and $runtime stay; remove them when no pod is left."
	;;
esac
