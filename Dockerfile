# cridock as a container image.
#
# Build (with the classic builder of Docker 20.10, or BuildKit):
#
#   docker build -t cridock --build-arg VERSION=v1.2.3 .
#
# Without a registry, name base images that the engine already has. Without
# internet access, vendor the modules first ("go mod vendor"; a vendor directory is
# used if it exists), or serve them from a module proxy on loopback:
#
#   docker build -t cridock --network host \
#     --build-arg BUILD_IMAGE=local/go --build-arg RUN_IMAGE=local/base --build-arg RUN_PACKAGES= \
#     --build-arg GOPROXY=http://127.0.0.1:8081 .
#
# Tags can move. For a reproducible build, pin both base images by digest; both
# builders accept NAME@sha256:...:
#
#   docker pull golang:1.26-bookworm
#   docker image inspect --format '{{index .RepoDigests 0}}' golang:1.26-bookworm
#   docker build -t cridock \
#     --build-arg BUILD_IMAGE=golang@sha256:... --build-arg RUN_IMAGE=debian@sha256:... .
#
# Run, on a machine with Docker's data in the default location:
#
#   docker run -d --name cridock --restart always \
#     --privileged --pid=host --network=host --cgroupns=host --oom-score-adj=-999 \
#     -v /run:/run:rshared \
#     -v /sys/fs/cgroup:/sys/fs/cgroup \
#     -v /lib/modules:/lib/modules:ro \
#     -v /var/lib/docker:/var/lib/docker:rslave \
#     -v /var/lib/cridock:/var/lib/cridock \
#     -v /var/lib/kubelet:/var/lib/kubelet:rslave \
#     -v /var/log/pods:/var/log/pods \
#     -v /var/lib/cni:/var/lib/cni \
#     -v /etc/cni/net.d:/etc/cni/net.d:ro \
#     -v /opt/cni/bin:/opt/cni/bin:ro \
#     -v /etc/cridock:/etc/cridock:ro \
#     cridock serve --config /etc/cridock/cridock.yaml
#
# Why all these options: cridock and the CNI plugins that it runs act on the
# machine, and Docker resolves every path it gets from them on the machine. So each
# directory has the same path inside and outside, and:
#   --pid=host        cridock finds the pods' namespaces by PID under /proc
#   --network=host    plugins make interfaces and rules on the machine
#   /run, rshared     cridock pins pods' network namespaces by bind mounts in
#                     /run/cridock/netns; only a shared mount shows them to the
#                     machine and to the next cridock container. /run must be a
#                     shared mount on the machine, as it is under systemd
#                     (otherwise: mount --make-rshared /run). It also has the
#                     current docker.sock, even after a restart of Docker, and
#                     the xtables lock.
#   /sys/fs/cgroup    on cgroup v1, a container's own view hides the pods' files
#   /lib/modules      plugins run iptables, which loads modules
#   /var/lib/docker   cridock reads container logs from Docker's files and disk
#                     usage from its data root; with the containerd image store
#                     also mount /var/lib/containerd the same way, and add
#                     Docker's data-root if it is elsewhere
#   /opt/cni/bin      the plugins; with Debian's package also mount
#                     /usr/lib/cni
# If the machine itself lacks CAP_SYS_RESOURCE (an engine inside a container),
# Docker cannot start a privileged container. Replace --privileged with
#   --cap-add=ALL --cap-drop=SYS_RESOURCE --security-opt=seccomp=unconfined
#   --security-opt=apparmor=unconfined --security-opt=systempaths=unconfined
#
# Plugins run inside this image, so it must have the programs that they call:
# iptables.

ARG BUILD_IMAGE=golang:1.26-bookworm
ARG RUN_IMAGE=debian:bookworm-slim

FROM ${BUILD_IMAGE} AS build
ARG VERSION=dev
ARG GOPROXY
ARG GOFLAGS
WORKDIR /src
COPY . .
RUN CGO_ENABLED=0 GOTOOLCHAIN=local go build -trimpath -buildvcs=false \
    -ldflags "-s -w -X main.version=${VERSION}" -o /out/cridock ./cmd/cridock

FROM ${RUN_IMAGE}
# Space-separated; empty if the base image has the programs that CNI plugins call.
ARG RUN_PACKAGES=iptables
RUN [ -z "${RUN_PACKAGES}" ] || { apt-get update && \
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends ${RUN_PACKAGES} && \
    rm -rf /var/lib/apt/lists/*; }
COPY --from=build /out/cridock /usr/local/bin/cridock
COPY LICENSE /usr/share/doc/cridock/LICENSE
ENTRYPOINT ["/usr/local/bin/cridock"]
CMD ["serve"]
