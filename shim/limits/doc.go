// Package limits sets the resources of containers and keeps them in force. Docker
// and systemd have no setting for some of them (most of unified, hugepages,
// oom_score_adj after the start): these are written to the container's cgroup and
// its processes after each start and update, and again when systemd has overwritten
// them. What an update has set and Docker cannot remember is stored, so that the
// status is right and the limits survive a restart of cridock.
//
// It also records the resources of pods that the kubelet reports, and never sets
// these: the kubelet owns the pod's cgroup.
//
// It writes only to files that exist in the container's cgroup, whose names are
// validated before they are used, wherever they come from. It creates, starts and
// stops no container.
package limits
