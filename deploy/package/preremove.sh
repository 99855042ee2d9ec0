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

# Without systemctl, as in a container, there is nothing to stop or disable. A failure
# must not keep the package from being removed.
command -v systemctl >/dev/null || exit 0
if [ -d /run/systemd/system ]; then
	# The socket first: a call of the kubelet would start the service again.
	systemctl stop cridock.socket cridock.service || echo "cridock: systemctl could not stop cridock." >&2
	echo "Pods keep running without cridock, but the kubelet cannot manage them until it has a CRI adapter again."
fi
systemctl --quiet disable cridock.service cridock.socket || echo "cridock: systemctl could not disable cridock." >&2
