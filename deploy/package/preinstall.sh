#!/bin/sh
# Before the files are unpacked, by dpkg ("install" or "upgrade") or RPM (1 or 2).
set -e

# A first install must not overwrite the units of a cri-dockerd that was installed
# by hand: it may be running.
case ${1-} in
install | 1) ;;
*) exit 0 ;;
esac

owned() { # UNIT: a package has it, under one of the names of its directory
	for dir in /usr/lib/systemd/system /lib/systemd/system; do
		if dpkg-query --search "$dir/$1" >/dev/null 2>&1 || rpm -qf "$dir/$1" >/dev/null 2>&1; then
			return 0
		fi
	done
	return 1
}

for unit in cri-docker.service cri-docker.socket; do
	file=/usr/lib/systemd/system/$unit
	[ -e "$file" ] || file=/lib/systemd/system/$unit
	if [ -f "$file" ] && [ ! -L "$file" ] && ! owned "$unit"; then
		echo "cridock: $file was not installed by a package, and this package has a file of that name." >&2
		echo "cridock: Move it to /etc/systemd/system (it keeps working there), or remove cri-dockerd." >&2
		exit 1
	fi
done
