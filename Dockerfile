# cridock as a container image.
#
# Build (classic builder of Docker 20.10 and BuildKit alike):
#
#   docker build -t cridock --build-arg VERSION=v1.2.3 .
#
# Without a registry, name base images that the engine already has; without
# the internet, vendor the modules first ("go mod vendor": a vendor directory is
# used if it is there), or serve them by a module proxy on loopback:
#
#   docker build -t cridock --network host \
#     --build-arg BUILD_IMAGE=local/go --build-arg RUN_IMAGE=local/base --build-arg RUN_PACKAGES= \
#     --build-arg GOPROXY=http://127.0.0.1:8081 .
#
# A tag can come to name another image. For a build that can be repeated, pin both
# base images by digest; classic builder and BuildKit take NAME@sha256:... alike:
#
#   docker pull golang:1.26-bookworm
#   docker image inspect --format '{{index .RepoDigests 0}}' golang:1.26-bookworm
#   docker build -t cridock \
#     --build-arg BUILD_IMAGE=golang@sha256:... --build-arg RUN_IMAGE=debian@sha256:... .
#
# Run, on a machine that keeps Docker's data in the usual place:
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
# Why so much: cridock and the CNI plug-ins that it runs work on the machine,
# and Docker resolves every path they exchange on the machine. So each directory
# has the same path inside and outside, and:
#   --pid=host        the pods' namespaces are found by PID under /proc
#   --network=host    plug-ins make interfaces and rules on the machine
#   /run, rshared     pods' network namespaces are pinned by bind mounts in
#                     /run/cridock/netns; only a shared mount shows them to the
#                     machine and to the next cridock container. /run must be a
#                     shared mount on the machine, as under systemd it is (else:
#                     mount --make-rshared /run). It also brings docker.sock as
#                     it is now, not as it was before Docker's last restart, and
#                     the xtables lock.
#   /sys/fs/cgroup    a container's own view on cgroup v1 hides the pods' files
#   /lib/modules      iptables, run by plug-ins, loads modules
#   /var/lib/docker   container logs are read from Docker's files, disk usage
#                     from its data root; with the containerd image store mount
#                     /var/lib/containerd likewise, and add Docker's data-root if
#                     it is elsewhere
#   /opt/cni/bin      where plug-ins live; with Debian's package mount
#                     /usr/lib/cni too
# Where the machine itself lacks CAP_SYS_RESOURCE (an engine inside a container),
# Docker cannot start a privileged container. Instead of --privileged take
#   --cap-add=ALL --cap-drop=SYS_RESOURCE --security-opt=seccomp=unconfined
#   --security-opt=apparmor=unconfined --security-opt=systempaths=unconfined
#
# Plug-ins run inside this image, so what they call has to be in it: iptables.

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
# Space-separated; empty if the base image has what the CNI plug-ins call.
ARG RUN_PACKAGES=iptables
RUN [ -z "${RUN_PACKAGES}" ] || { apt-get update && \
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends ${RUN_PACKAGES} && \
    rm -rf /var/lib/apt/lists/*; }
COPY --from=build /out/cridock /usr/local/bin/cridock
COPY LICENSE /usr/share/doc/cridock/LICENSE
ENTRYPOINT ["/usr/local/bin/cridock"]
CMD ["serve"]
