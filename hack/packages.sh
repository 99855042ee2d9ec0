#!/bin/bash
# Tests the packages of a release: their content, and installation, upgrade, removal
# and purge.
#
#   sudo hack/packages.sh DIR LATER    two directories with packages, as hack/release.sh
#                                      makes them; LATER has those of a later version
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
	rm -f "$root"/usr/{,local/}bin/{systemctl,docker}
	# It answers only the question for all containers of pods, to the default engine.
	cat >"$root/usr/bin/docker" <<-'END'
		#!/bin/sh
		[ ! -e /run/docker-is-down ] || exit 1
		[ "$*" = "--host unix:///var/run/docker.sock ps --all --quiet --filter label=io.kubernetes.pod.uid" ] || exit 1
		[ ! -e /run/pods ] || cat /run/pods
	END
	chmod 0755 "$root/usr/bin/docker"
	cp "$root/usr/bin/docker" "$root/usr/local/bin"
	write_systemctl
}

# write_systemctl puts the stand-in where rpm's scripts find it, which do not search
# /usr/local, and where dpkg's do, which search that first.
write_systemctl() {
	cat >"$root/usr/bin/systemctl" <<-'END'
		#!/bin/sh
		if [ "$1" = is-active ]; then
			[ -e "/run/active/$3" ]
			exit
		fi
		echo "$*" >>/run/calls
		[ ! -e /run/systemctl-fails ]
	END
	chmod 0755 "$root/usr/bin/systemctl"
	cp "$root/usr/bin/systemctl" "$root/usr/local/bin"
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

# dummy makes a cri-dockerd package with units.
dummy() { # NEW.deb
	mkdir -p "$work/dummy/DEBIAN" "$work/dummy/usr/lib/systemd/system"
	echo "[Service]" >"$work/dummy/usr/lib/systemd/system/cri-docker.service"
	echo "[Socket]" >"$work/dummy/usr/lib/systemd/system/cri-docker.socket"
	printf '%s\n' "Package: cri-dockerd" "Version: 1" "Architecture: all" "Maintainer: none <none@example.invalid>" \
		"Description: stand-in" >"$work/dummy/DEBIAN/control"
	dpkg-deb --build --root-owner-group "$work/dummy" "$1" >/dev/null
}

content() {
	local path
	for path in /usr/bin/cridock{,-runtime} /etc/cridock/cridock.yaml /usr/lib/systemd/system/{cridock,cri-docker}.{service,socket} \
		/usr/share/man/man8/cridock{,-serve,-doctor,-migrate}.8.gz /usr/share/bash-completion/completions/cridock \
		/usr/share/fish/vendor_completions.d/cridock.fish /usr/share/doc/cridock/copyright \
		/usr/share/doc/cridock/examples/kubelet-10-cridock.conf; do
		exists "$path"
	done
	[ "$(readlink "$root/usr/lib/systemd/system/cri-docker.service")" = cridock.service ] || fail "cri-docker.service is not an alias"
	grep -q '^ExecStart=/usr/bin/cridock ' "$root/usr/lib/systemd/system/cridock.service" || fail "the unit runs another program"
	ok /usr/bin/cridock --version
	grep -qxE 'cridock v[0-9]+\.[0-9]+\.[0-9]+(-[0-9A-Za-z.-]+)?' "$work/output" || fail "the version is not printed"
	! grep -hoE '\]\([^)]*\)' "$root"/usr/share/doc/cridock/*.md | grep -vE '^\]\((https?://|#)' >"$work/output" ||
		fail "these links of the documents lead to no file of the package"
}

deb_install() {
	ok dpkg --install /tmp/cridock.deb
	called
	says "systemctl enable --now cridock.service"
	says "cridock migrate --from dockershim"
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
	ok /usr/bin/cridock --version
	says "cridock v$later"
	stopped
	ok dpkg --force-downgrade --install /tmp/cridock.deb # stopped cridock stays stopped
	called
}

deb_upgrade_with_a_broken_configuration() {
	running cridock.service
	echo "no-such-setting: 1" >>"$root/etc/cridock/cridock.yaml"
	ok dpkg --install /tmp/later.deb
	called
	says "no-such-setting"
	says "the version before it keeps running"
	sed -i '$d' "$root/etc/cridock/cridock.yaml"
	ok dpkg --force-downgrade --install /tmp/cridock.deb
	called "--no-block try-restart cridock.service"
	stopped
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
	says "Pods keep running"
	exists /etc/cridock/cridock.yaml /var/lib/cridock/seal.key /run/cridock/netns/pod
	gone /usr/bin/cridock /usr/lib/systemd/system/cri-docker.service
	stopped
	forget
}

# kept checks that a purge has kept everything that pods may use.
kept() {
	says "stay: there are pods that use them, or Docker does not answer"
	exists /var/lib/cridock/{seal.key,sandboxes/1/resolv.conf,containers/2} /run/cridock/netns/pod
	gone /etc/cridock
}

deb_purge_with_pods() {
	ok dpkg --install /tmp/cridock.deb
	use
	echo 0123456789ab >"$root/run/pods"
	ok dpkg --purge cridock
	kept
	rm "$root/run/pods"
	forget
}

# A container of an engine that nobody asks is a process with mounts of its own.
deb_purge_with_pods_of_another_engine() {
	local pid
	ok dpkg --install /tmp/cridock.deb
	use
	unshare --mount sh -c 'mount --bind "$1/var/lib/cridock/sandboxes/1/resolv.conf" "$1/tmp/cridock.rpm" && : >"$1/run/mounted" && exec sleep 600' \
		_ "$root" &
	pid=$!
	wait_for 20 test -e "$root/run/mounted" || fail "no mount"
	ok dpkg --purge cridock
	kept
	kill "$pid"
	wait "$pid" || true
	forget
}

deb_purge_without_docker() {
	ok dpkg --install /tmp/cridock.deb
	use
	touch "$root/run/docker-is-down"
	ok dpkg --purge cridock
	kept
	rm "$root/run/docker-is-down"
	forget
}

deb_purge() {
	ok dpkg --install /tmp/cridock.deb
	use
	mkdir "$root/etc/cridock/conf.d"
	echo "v: 3" >"$root/etc/cridock/conf.d/10-node.yaml"
	ok dpkg --purge cridock
	gone /var/lib/cridock /run/cridock /etc/cridock
	! grep -q "$root/run/cridock" /proc/self/mountinfo || fail "a mount is left"
}

# The directory may be a mount: it cannot be removed, and the package can.
deb_purge_of_a_mounted_directory() {
	ok dpkg --install /tmp/cridock.deb
	mkdir -p "$root/var/lib/cridock"
	mount -t tmpfs tmpfs "$root/var/lib/cridock"
	touch "$root/var/lib/cridock/seal.key"
	ok dpkg --purge cridock
	says "Remove what is left of /var/lib/cridock"
	exists /var/lib/cridock
	gone /var/lib/cridock/seal.key
	umount "$root/var/lib/cridock"
	forget
}

# enabled makes the links of enabled units.
enabled() { # DIRECTORY-OF-UNITS
	mkdir -p "$root"/etc/systemd/system/{multi-user,sockets}.target.wants
	ln -s "$1/cri-docker.service" "$root/etc/systemd/system/multi-user.target.wants/cri-docker.service"
	ln -s "$1/cri-docker.socket" "$root/etc/systemd/system/sockets.target.wants/cri-docker.socket"
}

deb_replaces_cri_dockerd() {
	ok dpkg --install /tmp/cri-dockerd.deb
	enabled /lib/systemd/system
	ok dpkg --auto-deconfigure --install /tmp/cridock.deb
	called
	says "in favour of cridock"
	says "cri-dockerd was enabled"
	gone /etc/systemd/system/{multi-user.target.wants/cri-docker.service,sockets.target.wants/cri-docker.socket}
	content
	ok dpkg --purge cridock cri-dockerd
}

deb_beside_cri_dockerd_in_etc() {
	local units=/etc/systemd/system
	echo "[Service]" >"$root$units/cri-docker.service"
	echo "[Socket]" >"$root$units/cri-docker.socket"
	enabled "$units"
	running cri-docker.service
	ok dpkg --install /tmp/cridock.deb
	called
	says "cri-dockerd is running"
	says "cridock migrate --from cri-dockerd"
	[ "$(cat "$root$units/cri-docker.service")" = "[Service]" ] || fail "the unit of cri-dockerd changed"
	exists "$units"/{multi-user.target.wants/cri-docker.service,sockets.target.wants/cri-docker.socket}
	ok dpkg --purge cridock
	stopped
	rm "$root$units"/{,*.wants/}cri-docker.*
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

# In a container that sees the machine's /run there is a systemd, but no systemctl.
deb_without_systemctl() {
	rm "$root"/usr/{,local/}bin/systemctl
	ok dpkg --install /tmp/cridock.deb
	! grep "not found" "$work/output" || fail "systemctl was called"
	ok dpkg --purge cridock
	! grep "not found" "$work/output" || fail "systemctl was called"
	write_systemctl
}

# In a chroot, systemctl may have nobody to talk to.
deb_with_a_failing_systemctl() {
	touch "$root/run/systemctl-fails"
	ok dpkg --install /tmp/cridock.deb
	running cridock.service
	ok dpkg --install /tmp/later.deb
	says "Not restarted"
	ok dpkg --purge cridock
	says "could not stop cridock"
	says "could not disable cridock"
	gone /usr/bin/cridock
	stopped
	rm "$root/run/systemctl-fails"
}

rpm_install() {
	ok rpm --install --nodeps /tmp/cridock.rpm
	called
	says "systemctl enable --now cridock.service"
	says "cridock migrate --from dockershim"
	content
	[ "$(chroot "$root" rpm --query --configfiles cridock)" = /etc/cridock/cridock.yaml ] || fail "/etc/cridock/cridock.yaml is not a configuration file"
}

rpm_upgrade() {
	running cridock.service
	echo "# changed here" >>"$root/etc/cridock/cridock.yaml"
	ok rpm --upgrade --nodeps /tmp/later.rpm
	called "--no-block try-restart cridock.service"
	grep -q "changed here" "$root/etc/cridock/cridock.yaml" || fail "the configuration was overwritten"
	ok /usr/bin/cridock --version
	says "cridock v$later"
	ok rpm --upgrade --oldpackage --nodeps /tmp/cridock.rpm
	called "--no-block try-restart cridock.service"
}

rpm_keeps_a_registered_runtime() {
	mkdir -p "$root/etc/docker"
	echo '{"runtimes": {"cridock": {"path": "/usr/bin/cridock-runtime"}}}' >"$root/etc/docker/daemon.json"
	! in_root rpm --erase cridock || fail "the package was removed"
	says "cridock runtime remove"
	called
	exists /usr/bin/cridock-runtime
	rm "$root/etc/docker/daemon.json"
}

rpm_erase() {
	use
	ok rpm --erase cridock
	called "stop cridock.socket cridock.service" "--quiet disable cridock.service cridock.socket"
	says "Pods keep running"
	exists /var/lib/cridock/seal.key /run/cridock/netns/pod
	exists /etc/cridock/cridock.yaml.rpmsave # it was changed
	gone /usr/bin/cridock /usr/lib/systemd/system/cri-docker.service
	stopped
	forget
}

rpm_refuses_to_overwrite() {
	local unit=/usr/lib/systemd/system/cri-docker.service
	echo "[Service]" >"$root$unit"
	! in_root rpm --install --nodeps /tmp/cridock.rpm || fail "the package was installed"
	says "was not installed by a package"
	[ "$(cat "$root$unit")" = "[Service]" ] || fail "the unit of cri-dockerd changed"
	gone /usr/bin/cridock
	rm "$root$unit"
}

# package prints the one package of this machine's architecture in a directory.
package() { # DIR PATTERN
	local found
	mapfile -t found < <(find "$1" -maxdepth 1 -name "$2")
	[ ${#found[@]} = 1 ] || die "$1 has ${#found[@]} files $2, want one: packages for this machine"
	echo "${found[0]}"
}

need_root
[ $# = 2 ] || die "usage: hack/packages.sh DIR LATER"
if [ "${CRIDOCK_PACKAGES_NAMESPACE-}" != 1 ]; then
	install_missing rpm
	# A PID namespace too: the scripts look at all processes that they see.
	CRIDOCK_PACKAGES_NAMESPACE=1 exec unshare --mount --pid --fork --mount-proc --propagation private "$0" "$@"
fi
for script in deploy/package/*.sh; do
	sh -n "$script"
done
declare -A patterns=([deb]="cridock_*_$(dpkg --print-architecture).deb" [rpm]="cridock-*.$(uname -m).rpm")
work=$(mktemp -d /var/tmp/cridock-packages.XXXXXX) root=$work/root
trap 'umount --recursive --lazy "$work"; rmdir "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
make_root
for format in deb rpm; do
	file=$(package "$1" "${patterns[$format]}")
	install -m644 "$file" "$root/tmp/cridock.$format"
	file=$(package "$2" "${patterns[$format]}")
	install -m644 "$file" "$root/tmp/later.$format"
done
later=$(dpkg-deb --field "$root/tmp/later.deb" Version)
later=${later%-1}
dummy "$root/tmp/cri-dockerd.deb"

for test in deb_install deb_upgrade deb_upgrade_with_a_broken_configuration deb_keeps_a_registered_runtime deb_remove \
	deb_purge_with_pods deb_purge_with_pods_of_another_engine deb_purge_without_docker deb_purge deb_purge_of_a_mounted_directory \
	deb_replaces_cri_dockerd deb_beside_cri_dockerd_in_etc deb_refuses_to_overwrite \
	deb_without_systemd deb_without_systemctl deb_with_a_failing_systemctl \
	rpm_install rpm_upgrade rpm_keeps_a_registered_runtime rpm_erase rpm_refuses_to_overwrite; do
	"$test"
	log "$test: ok"
done
