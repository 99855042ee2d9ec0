#!/bin/bash
# A private Docker Engine for tests and experiments, apart from the machine's own.
#
#   hack/engine.sh start DIR [dockerd flags]   start it, print its socket
#   hack/engine.sh exec DIR COMMAND...         run a command in its namespaces
#   hack/engine.sh busybox DIR [NAME:TAG]      import a busybox image, print its name
#   hack/engine.sh go-base DIR [NAME:TAG]      import a base with Go for the Dockerfile's build, print its name
#   hack/engine.sh registry DIR [PORT]         run a registry on its loopback, print the address
#   hack/engine.sh stop DIR                    stop it and keep images and logs
#   hack/engine.sh remove DIR                  stop it and remove DIR
#
# It has its own network, mount and PID namespaces: its bridge and iptables rules
# are separate from the machine's, and it can reach no network but loopback. A
# process that uses its containers' PIDs or namespaces, as cridock does, must run
# inside: use exec.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

[ $# -ge 2 ] || {
	sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0" >&2
	exit 2
}
command=$1 dir=$2
shift 2
need_root
case $command in
start)
	install_missing docker.io iptables iproute2 mount curl jq
	engine_start "$dir" "$@"
	;;
exec) engine_exec "$dir" "$@" ;;
busybox)
	install_missing busybox-static curl jq
	import_busybox "$(engine_socket "$dir")" "$@"
	;;
go-base)
	install_missing busybox-static curl jq
	find_go
	import_go_base "$(engine_socket "$dir")" "$@"
	;;
registry)
	install_missing docker-registry curl
	registry_start "$dir" "$@"
	;;
stop) engine_stop "$dir" ;;
remove) engine_remove "$dir" ;;
*) die "unknown command $command" ;;
esac
