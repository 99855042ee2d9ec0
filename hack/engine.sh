#!/bin/bash
# A private Docker Engine for tests and trials; the machine's own is not touched.
#
#   hack/engine.sh start DIR [dockerd flags]   start it, print its socket
#   hack/engine.sh exec DIR COMMAND...         run a command in its namespaces
#   hack/engine.sh busybox DIR [NAME:TAG]      import a busybox image, print its name
#   hack/engine.sh go-base DIR [NAME:TAG]      import a base with Go for the Dockerfile's build, print its name
#   hack/engine.sh registry DIR [PORT]         run a registry on its loopback, print the address
#   hack/engine.sh stop DIR                    stop it, keep images and logs
#   hack/engine.sh remove DIR                  stop it and remove DIR
#
# It has its own network, mount and PID namespace: its bridge and iptables
# rules are not the machine's, and no network but loopback is reachable. A
# process that works on its containers' PIDs or namespaces, as cridock does,
# has to run in there: use exec.
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
	install_missing busybox-static curl
	import_busybox "$(engine_socket "$dir")" "$@"
	;;
go-base)
	install_missing busybox-static curl
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
