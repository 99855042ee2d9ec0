#!/bin/sh
# Before the files are removed, by dpkg ("remove", or "upgrade" and others) or RPM
# (0, or 1 for an upgrade). An upgrade does not stop cridock: the new package's
# postinstall.sh restarts it.
set -e

case ${1-} in
remove | 0) ;;
*) exit 0 ;;
esac

# Without its runtime Docker can neither enter nor remove the containers that use it.
if grep -qs '"/usr/bin/cridock-runtime"' /etc/docker/daemon.json; then
	echo "cridock: Docker is registered to use /usr/bin/cridock-runtime." >&2
	echo "cridock: Run \"cridock runtime remove\" first; it says which pods are in the way." >&2
	exit 1
fi

if [ -d /run/systemd/system ]; then
	# The socket first: a call of the kubelet would start the service again.
	systemctl stop cridock.socket cridock.service
	echo "cridock is stopped. Running pods keep running, but no kubelet manages them until cridock or another adapter runs."
fi
if command -v systemctl >/dev/null; then
	systemctl --quiet disable cridock.service cridock.socket
fi
