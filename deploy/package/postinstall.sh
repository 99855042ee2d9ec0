#!/bin/sh
# After the files are unpacked, by dpkg ("configure" and the version before, if any)
# or RPM (1, or 2 for an upgrade).
set -e

case "${1-} ${2-}" in
"configure " | "1 "*) upgrade= ;;
"configure "* | "2 "*) upgrade=1 ;;
*) exit 0 ;;
esac

[ -d /run/systemd/system ] || exit 0
systemctl daemon-reload

# A restart is not waited for: cridock is ready when it is in sync with Docker, and
# Docker may be stopped. No pod restarts.
if [ -n "$upgrade" ] && systemctl is-active --quiet cridock.service; then
	systemctl --no-block try-restart cridock.service
	exit 0
fi
if systemctl is-active --quiet cridock.service; then
	exit 0
fi

# Nothing is started: a second adapter beside a running one would act on its pods.
echo "cridock is installed and does not run."
if systemctl is-active --quiet cri-docker.service; then
	echo "cri-dockerd is running. Stop it first: systemctl disable --now cri-docker.socket cri-docker.service"
fi
echo "Look at /etc/cridock/cridock.yaml, check the node with \"cridock doctor --config /etc/cridock/cridock.yaml\","
echo "and run \"systemctl enable --now cridock.service\"."
echo "The kubelet needs the endpoint unix:///run/cridock/cridock.sock: see /usr/share/doc/cridock/examples/kubelet-10-cridock.conf."
