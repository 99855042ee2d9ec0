#!/bin/sh
# After the files are removed, by dpkg ("remove", "purge", or "upgrade" and others)
# or RPM (0, or 1 for an upgrade). Only "purge" deletes data, and only in cridock's
# default directories.
set -e

root=/var/lib/cridock
runtime=/run/cridock
drop_ins=/etc/cridock/conf.d

# unmount unmounts all below a directory, the newest first.
unmount() { # DIRECTORY
	cut -d' ' -f5 /proc/self/mountinfo | grep "^$1/" | sort -r | while read -r path; do
		umount "$path" || echo "cridock: cannot unmount $path" >&2
	done
}

# mounted reports whether a running container has a pod's resolv.conf, whichever
# engine runs it: all processes' mounts are looked at.
mounted() {
	grep -qsF /cridock/sandboxes/ /proc/[0-9]*/mountinfo
}

# containers prints the pods' containers that Docker has, running or not. It fails if
# Docker does not answer. It asks the engine that cridock uses by default, whatever
# the environment says: dpkg has already deleted the configuration.
containers() {
	timeout 10 docker --host unix:///var/run/docker.sock ps --all --quiet --filter label=io.kubernetes.pod.uid 2>/dev/null
}

# purge keeps everything while a pod may use it: resolv.conf files, the pins by which
# networks are released, and the key that shows which containers are cridock's.
purge() {
	# Only administrators have files here, so neither dpkg nor RPM deletes it.
	rm -rf "$drop_ins"
	rmdir "${drop_ins%/*}" 2>/dev/null || true
	[ -e "$root" ] || [ -e "$runtime" ] || return 0
	if ! mounted && left=$(containers) && [ -z "$left" ]; then
		unmount "$runtime"
		# A directory may be a file system of its own: then only its content goes.
		rm -rf --one-file-system "$runtime" "$root" || echo "cridock: Remove what is left of $root and $runtime."
		return
	fi
	echo "cridock: $root and $runtime stay: there are pods that use them, or Docker does not answer."
	echo "cridock: Remove both directories when no pod is left."
}

case ${1-} in
purge)
	purge
	;;
remove | 0)
	if [ -d /run/systemd/system ] && command -v systemctl >/dev/null; then
		systemctl daemon-reload || true
	fi
	[ "${1-}" != 0 ] || echo "cridock: $root and $runtime stay; remove them when no pod is left."
	;;
esac
