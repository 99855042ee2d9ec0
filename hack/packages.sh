#!/bin/bash
# Tests the packages of a release: their content, and installation, upgrade, removal
# and purge.
#
#   sudo hack/packages.sh DIR       DIR is what hack/release.sh has made
#
# dpkg and rpm run in a throw-away root: an overlay over this machine's, in a mount
# namespace, with stand-ins for systemctl and docker that record what they are asked.
# So this shows what the packages' scripts do, not what systemd makes of it. Nothing
# outside changes, and nothing is left.
set -euo pipefail
export LC_ALL=C
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. hack/lib.sh

# make_root mounts the throw-away root and puts the stand-ins in it.
make_root() {
	mount -t tmpfs tmpfs "$work"
	mkdir "$work"/{upper,work,root}
	mount -t overlay overlay -o "lowerdir=/,upperdir=$work/upper,workdir=$work/work" "$root"
	mount --rbind /proc "$root/proc"
	mount --rbind /dev "$root/dev"
	mount -t tmpfs tmpfs "$root/run"
	mount -t tmpfs tmpfs "$root/tmp"
	mkdir -p "$root/run/systemd/system" "$root/run/active"
	: >"$root/var/lib/dpkg/triggers/File" # other packages' triggers take time
	rm -rf "$root/etc/cridock" "$root/var/lib/cridock" "$root"/etc/systemd/system/cri*
	rm -f "$root/usr/bin/systemctl" "$root/usr/bin/docker"
	cat >"$root/usr/bin/systemctl" <<-'END'
		#!/bin/sh
		if [ "$1" = is-active ]; then
			[ -e "/run/active/$3" ]
			exit
		fi
		echo "$*" >>/run/calls
	END
	cat >"$root/usr/bin/docker" <<-'END'
		#!/bin/sh
		[ ! -e /run/docker-is-down ] || exit 1
		[ ! -e /run/pods ] || cat /run/pods
	END
	chmod 0755 "$root/usr/bin/systemctl" "$root/usr/bin/docker"
	# rpm's scripts do not search /usr/local; dpkg's search it first.
	cp "$root/usr/bin/systemctl" "$root/usr/bin/docker" "$root/usr/local/bin"
}

# in_root runs a command in the throw-away root; its output is kept for "says".
in_root() {
	: >"$root/run/calls"
	chroot "$root" "$@" >"$work/output" 2>&1
}

ok() { # COMMAND...
	in_root "$@" || fail "$* failed"
}

fail() {
	sed 's/^/    /' "$work/output" "$root/run/calls" >&2
	die "${FUNCNAME[-2]}: $*"
}

says() { grep -qF -- "$1" "$work/output" || fail "the output lacks: $1"; }
exists() { local path; for path; do [ -e "$root$path" ] || [ -L "$root$path" ] || fail "$path does not exist"; done; }
gone() { local path; for path; do [ ! -e "$root$path" ] && [ ! -L "$root$path" ] || fail "$path exists"; done; }

# called compares what systemctl was asked, but for is-active and daemon-reload.
called() { # CALL...
	local got want
	got=$(grep -vx daemon-reload "$root/run/calls" || true)
	want=$(printf '%s\n' "$@")
	[ "$got" = "$want" ] || fail "systemctl was asked \"$got\", want \"$want\""
}

running() { : >"$root/run/active/$1"; }
stopped() { rm -f "$root"/run/active/*; }

# use makes what a cridock with a pod has on a node.
use() {
	mkdir -p "$root"/var/lib/cridock/{sandboxes/1,containers/2} "$root/run/cridock/netns"
	touch "$root"/var/lib/cridock/{seal.key,lock,sandboxes/1/resolv.conf} "$root/run/cridock/netns/pod"
	mount --bind "$root/run/calls" "$root/run/cridock/netns/pod"
}

forget() {
	umount "$root/run/cridock/netns/pod" 2>/dev/null || true
	rm -rf "$root/var/lib/cridock" "$root/run/cridock"
}

# repack makes a later version of a Debian package.
repack() { # DEB NEW.deb
	dpkg-deb --raw-extract "$1" "$work/repack"
	sed -i 's/^Version: .*/Version: 99.0.0-1/' "$work/repack/DEBIAN/control"
	dpkg-deb --build --root-owner-group "$work/repack" "$2" >/dev/null
}

# dummy makes a cri-dockerd package with a unit.
dummy() { # NEW.deb
	mkdir -p "$work/dummy/DEBIAN" "$work/dummy/usr/lib/systemd/system"
	echo "[Service]" >"$work/dummy/usr/lib/systemd/system/cri-docker.service"
	printf '%s\n' "Package: cri-dockerd" "Version: 1" "Architecture: all" "Maintainer: none <none@example.invalid>" \
		"Description: stand-in" >"$work/dummy/DEBIAN/control"
	dpkg-deb --build --root-owner-group "$work/dummy" "$1" >/dev/null
}

content() {
	local path
	for path in /usr/bin/cridock{,-runtime} /etc/cridock/cridock.yaml /usr/lib/systemd/system/{cridock,cri-docker}.{service,socket} \
		/usr/share/man/man8/cridock{,-serve,-doctor}.8.gz /usr/share/bash-completion/completions/cridock \
		/usr/share/fish/vendor_completions.d/cridock.fish /usr/share/doc/cridock/copyright \
		/usr/share/doc/cridock/examples/kubelet-10-cridock.conf; do
		exists "$path"
	done
	[ "$(readlink "$root/usr/lib/systemd/system/cri-docker.service")" = cridock.service ] || fail "cri-docker.service is not an alias"
	grep -q '^ExecStart=/usr/bin/cridock ' "$root/usr/lib/systemd/system/cridock.service" || fail "the unit runs another program"
	ok /usr/bin/cridock --version
	says "cridock version v"
}

deb_install() {
	ok dpkg --install /tmp/cridock.deb
	called
	says "systemctl enable --now cridock.service"
	content
	[ "$(chroot "$root" dpkg-query --show --showformat '${Conffiles}' cridock | awk '{print $1}')" = /etc/cridock/cridock.yaml ] ||
		fail "/etc/cridock/cridock.yaml is not a configuration file"
}

deb_upgrade() {
	running cridock.service
	echo "# changed here" >>"$root/etc/cridock/cridock.yaml"
	ok dpkg --install /tmp/later.deb
	called "--no-block try-restart cridock.service"
	grep -q "changed here" "$root/etc/cridock/cridock.yaml" || fail "the configuration was overwritten"
	stopped
	ok dpkg --force-downgrade --install /tmp/cridock.deb # stopped cridock stays stopped
	called
}

deb_keeps_a_registered_runtime() {
	mkdir -p "$root/etc/docker"
	echo '{"runtimes": {"cridock": {"path": "/usr/bin/cridock-runtime"}}}' >"$root/etc/docker/daemon.json"
	running cridock.service
	! in_root dpkg --remove cridock || fail "the package was removed"
	says "cridock runtime remove"
	called
	exists /usr/bin/cridock-runtime
	rm "$root/etc/docker/daemon.json"
	stopped
}

deb_remove() {
	running cridock.service
	use
	ok dpkg --remove cridock
	called "stop cridock.socket cridock.service" "--quiet disable cridock.service cridock.socket"
	says "Running pods keep running"
	exists /etc/cridock/cridock.yaml /var/lib/cridock/seal.key /run/cridock/netns/pod
	gone /usr/bin/cridock /usr/lib/systemd/system/cri-docker.service
	stopped
	forget
}

deb_purge_with_pods() {
	ok dpkg --install /tmp/cridock.deb
	use
	echo 0123456789ab >"$root/run/pods"
	ok dpkg --purge cridock
	says "Docker has pods that use them"
	exists /var/lib/cridock/sandboxes/1/resolv.conf /run/cridock/netns/pod
	gone /etc/cridock /var/lib/cridock/seal.key /var/lib/cridock/containers
	rm "$root/run/pods"
	forget
}

deb_purge_without_docker() {
	ok dpkg --install /tmp/cridock.deb
	use
	touch "$root/run/docker-is-down"
	ok dpkg --purge cridock
	exists /var/lib/cridock/sandboxes/1/resolv.conf /run/cridock/netns/pod
	rm "$root/run/docker-is-down"
	forget
}

deb_purge() {
	ok dpkg --install /tmp/cridock.deb
	use
	ok dpkg --purge cridock
	gone /var/lib/cridock /run/cridock /etc/cridock
	! grep -q "$root/run/cridock" /proc/self/mountinfo || fail "a mount is left"
}

deb_replaces_cri_dockerd() {
	ok dpkg --install /tmp/cri-dockerd.deb
	ok dpkg --auto-deconfigure --install /tmp/cridock.deb
	called
	says "in favour of cridock"
	content
	ok dpkg --purge cridock cri-dockerd
}

deb_beside_cri_dockerd_in_etc() {
	local unit=/etc/systemd/system/cri-docker.service
	echo "[Service]" >"$root$unit"
	running cri-docker.service
	ok dpkg --install /tmp/cridock.deb
	called
	says "cri-dockerd is running"
	[ "$(cat "$root$unit")" = "[Service]" ] || fail "the unit of cri-dockerd changed"
	ok dpkg --purge cridock
	stopped
	rm "$root$unit"
}

deb_refuses_to_overwrite() {
	local unit=/usr/lib/systemd/system/cri-docker.service
	echo "[Service]" >"$root$unit"
	! in_root dpkg --install /tmp/cridock.deb || fail "the package was installed"
	says "was not installed by a package"
	[ "$(cat "$root$unit")" = "[Service]" ] || fail "the unit of cri-dockerd changed"
	gone /usr/bin/cridock
	rm "$root$unit"
	ok dpkg --purge cridock
}

deb_without_systemd() {
	rmdir "$root/run/systemd/system"
	ok dpkg --install /tmp/cridock.deb
	called
	ok dpkg --purge cridock
	called "--quiet disable cridock.service cridock.socket"
	mkdir "$root/run/systemd/system"
}

rpm_install() {
	ok rpm --install --nodeps /tmp/cridock.rpm
	called
	says "systemctl enable --now cridock.service"
	content
	[ "$(chroot "$root" rpm --query --configfiles cridock)" = /etc/cridock/cridock.yaml ] || fail "/etc/cridock/cridock.yaml is not a configuration file"
}

rpm_upgrade() {
	running cridock.service
	echo "# changed here" >>"$root/etc/cridock/cridock.yaml"
	ok rpm --upgrade --nodeps --replacepkgs /tmp/cridock.rpm
	called "--no-block try-restart cridock.service"
	grep -q "changed here" "$root/etc/cridock/cridock.yaml" || fail "the configuration was overwritten"
}

rpm_erase() {
	use
	ok rpm --erase cridock
	called "stop cridock.socket cridock.service" "--quiet disable cridock.service cridock.socket"
	says "Running pods keep running"
	exists /var/lib/cridock/seal.key /run/cridock/netns/pod
	gone /usr/bin/cridock
	stopped
	forget
}

need_root
[ $# = 1 ] || die "usage: hack/packages.sh DIR"
if [ "${CRIDOCK_PACKAGES_NAMESPACE-}" != 1 ]; then
	install_missing rpm
	CRIDOCK_PACKAGES_NAMESPACE=1 exec unshare --mount --propagation private "$0" "$1"
fi
for script in deploy/package/*.sh; do
	sh -n "$script"
done
deb=$(find "$1" -name "cridock_*_$(dpkg --print-architecture).deb")
rpm=$(find "$1" -name "cridock-*.$(uname -m).rpm")
[ -n "$deb" ] && [ -n "$rpm" ] || die "$1 has no packages for this machine"
work=$(mktemp -d /var/tmp/cridock-packages.XXXXXX) root=$work/root
trap 'umount --recursive --lazy "$work"; rmdir "$work"' EXIT
make_root
install -m644 "$deb" "$root/tmp/cridock.deb"
install -m644 "$rpm" "$root/tmp/cridock.rpm"
repack "$deb" "$root/tmp/later.deb"
dummy "$root/tmp/cri-dockerd.deb"

for test in deb_install deb_upgrade deb_keeps_a_registered_runtime deb_remove deb_purge_with_pods deb_purge_without_docker deb_purge \
	deb_replaces_cri_dockerd deb_beside_cri_dockerd_in_etc deb_refuses_to_overwrite deb_without_systemd \
	rpm_install rpm_upgrade rpm_erase; do
	"$test"
	log "$test: ok"
done
