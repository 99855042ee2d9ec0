#!/bin/sh
# After the files are unpacked, by dpkg ("configure" and the version before, if any)
# or RPM (1, or 2 for an upgrade).
set -e

config=/etc/cridock/cridock.yaml

case "${1-} ${2-}" in
"configure " | "1 "*) upgrade= ;;
"configure "* | "2 "*) upgrade=1 ;;
*) exit 0 ;;
esac

# disable_cri_dockerd removes the links that enabled the units of a cri-dockerd that
# this package has replaced. At the next boot they would start cridock, whose units
# also have these names. A cri-dockerd in /etc keeps its units, and its links.
disable_cri_dockerd() {
	for unit in cri-docker.service cri-docker.socket; do
		[ ! -e "/etc/systemd/system/$unit" ] || continue
		for link in /etc/systemd/system/*.wants/$unit /etc/systemd/system/*.requires/$unit; do
			[ -L "$link" ] || continue
			rm "$link"
			echo "cri-dockerd was enabled and is not installed any more: removed $link."
		done
	done
}

# restart has the new version take over. It is not waited for: cridock is ready when
# it is in sync with Docker, and Docker may be stopped. No pod restarts.
restart() {
	if ! /usr/bin/cridock config check --config "$config" >/dev/null; then
		echo "cridock: This version does not accept the configuration; the version before it keeps running." >&2
		echo "cridock: Correct the configuration, then run \"systemctl restart cridock.service\"." >&2
		return
	fi
	systemctl --no-block try-restart cridock.service ||
		echo "cridock: Not restarted: run \"systemctl restart cridock.service\"." >&2
}

# Not only at a first install: dpkg also calls it an upgrade when cridock was removed
# but not purged, and cri-dockerd was there in between.
disable_cri_dockerd

# In a chroot or a container there may be no systemd to talk to.
[ -d /run/systemd/system ] && command -v systemctl >/dev/null || exit 0
systemctl daemon-reload || true

if systemctl is-active --quiet cridock.service; then
	[ -z "$upgrade" ] || restart
	exit 0
fi

# Nothing is started: a second adapter beside a running one would act on its pods.
echo "cridock is installed and does not run."
echo "Edit $config, and check the node with \"cridock doctor --config $config\"."
if systemctl is-active --quiet cri-docker.service || systemctl is-active --quiet cri-dockerd.service; then
	echo "cri-dockerd is running. Replace it with \"cridock migrate --from cri-dockerd\": all pods keep running."
	exit 0
fi
echo "Then run \"systemctl enable --now cridock.service\"; on a node with dockershim, \"cridock migrate --from dockershim\"."
echo "The kubelet needs the endpoint unix:///run/cridock/cridock.sock: see /usr/share/doc/cridock/examples/kubelet-10-cridock.conf."
