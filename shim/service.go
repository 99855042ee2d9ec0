package shim

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/docker/docker/api/types/container"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/internal/keylock"
	"github.com/cridock/cridock/shim/engine"
	"github.com/cridock/cridock/shim/index"
	"github.com/cridock/cridock/shim/limits"
	"github.com/cridock/cridock/shim/mounts"
	"github.com/cridock/cridock/shim/nri"
	"github.com/cridock/cridock/shim/oom"
	"github.com/cridock/cridock/shim/podlogs"
	"github.com/cridock/cridock/shim/podnet"
	"github.com/cridock/cridock/shim/process"
	"github.com/cridock/cridock/shim/state"
	"github.com/cridock/cridock/shim/stats"
	"github.com/cridock/cridock/streaming"
	"github.com/cridock/cridock/translate"
)

// Engine is the part of Docker that the service uses.
type Engine interface {
	engine.Containers
	engine.Execs
	engine.Images
	engine.Events
	engine.System
}

// Config holds the service's settings.
type Config struct {
	// Version is cridock's own, for the verbose status.
	Version string
	// RootDir holds what must survive a reboot: resolv.conf files, log positions.
	RootDir string
	// PodLogsDir is the kubelet's directory of all pods' logs; empty for
	// /var/log/pods. No link below it is followed. Another adapter's container gets a
	// log only there. A sandbox created here may have its log_directory elsewhere; no
	// link below that is followed either.
	PodLogsDir string
	// Seal distinguishes the containers that cridock created from all others.
	// Required.
	Seal *translate.Seal
	// NetNSDir holds the pins of the pods' network namespaces.
	NetNSDir string
	// SeamDir is cridock's runtime directory, in which cridock-runtime finds its
	// records; empty for no user namespaces.
	SeamDir string
	// ImageVolumeDir is where images are mounted that containers use as volumes, for
	// engines before Docker 28.0. The engine must see these mounts.
	ImageVolumeDir string
	// CDISpecDirs are searched for CDI devices if Docker does not support CDI; later
	// ones take precedence.
	CDISpecDirs []string
	// SeccompDefaultProfile is a file with the profile for RuntimeDefault; empty for
	// the engine's. It is read for each sandbox and container.
	SeccompDefaultProfile string
	// AbsentMountSourcesToReject are host paths at and below which no directory is
	// created for a mount whose source is missing: such a mount is an error.
	AbsentMountSourcesToReject []string
	// PodAnnotations, ContainerAnnotations and CRIAnnotations are as in
	// [translate.Host].
	PodAnnotations, ContainerAnnotations []translate.AnnotationPattern
	CRIAnnotations                       []string
	// BlockIOClasses are as in [translate.Host].
	BlockIOClasses map[string]*translate.BlockIOClass
	// Base is what the operator adds to all containers; nil for nothing.
	Base *translate.BaseSpec
	// DeclaredVolumes says what becomes of the volumes that images declare.
	DeclaredVolumes translate.DeclaredVolumes
	// Settings are those that need cridock-runtime.
	Settings translate.SeamSettings
	// PauseImage is the sandbox image; empty for the one cridock ships.
	PauseImage string
	// DockerConfig is the path of Docker's config.json, with credentials for pull
	// requests without any; empty for none. It need not exist.
	DockerConfig string
	// NamespacedAuthDir has registry credentials for the pods of a Kubernetes namespace,
	// as in CRI-O; empty for none.
	NamespacedAuthDir string
	// RegistryConfigDir has a hosts.toml for each registry with mirrors, as in
	// containerd; empty for none. It need not exist, and is read for each pull.
	RegistryConfigDir string
	// ImageVerifierDir has the programs that are asked before an image is pulled, as in
	// containerd; empty for none.
	ImageVerifierDir string
	// MaxArtifacts bounds, in bytes, the OCI artifacts that are kept below RootDir for
	// image volumes; zero for none.
	MaxArtifacts int64
	// PinnedImages are patterns of images that the kubelet must keep.
	PinnedImages []string
	// CheckpointImages are patterns of images, and of paths of archives, that are
	// checkpoints: their containers are restored. Whoever made one decides what their
	// processes are.
	CheckpointImages []string
	// DockerNetwork is the Docker network to connect pods to instead of using CNI.
	DockerNetwork string
	// EarlyNetwork has cridock-runtime take care of the sandboxes' network namespaces,
	// if the engine has it: they are connected while Docker starts the sandbox.
	EarlyNetwork bool
	// PauseRuntime is as in [translate.Host].
	PauseRuntime string
	// MinOOMScoreAdj is the lowest oom_score_adj that the node allows.
	MinOOMScoreAdj int
	// Ulimits are the resource limits of the processes of all containers; the engine's
	// defaults have those that are not listed.
	Ulimits []*container.Ulimit
	// LogMaxSize and LogMaxFile bound Docker's own log of each container, in the
	// format of its json-file driver ("100m", 3).
	LogMaxSize string
	LogMaxFile int
	// SymlinkLogs links the CRI log path to Docker's file instead of writing
	// the CRI format.
	SymlinkLogs bool
	// ShimGrouping runs the containers of a pod in one containerd shim, if engine and
	// runtime support it.
	ShimGrouping bool
	// CgroupRoot is where cgroups are mounted; empty for /sys/fs/cgroup.
	CgroupRoot string
	// LimitsInterval is the time between checks of limits that systemd may have
	// overwritten; zero for ten seconds.
	LimitsInterval time.Duration
	// DrainTimeout is how long an exit, or a removal, may wait until the container's log
	// is complete; zero for ten seconds.
	DrainTimeout time.Duration
	// StopGrace is how long running requests may take to finish at shutdown; zero for
	// ten seconds.
	StopGrace time.Duration
	// PullProgressTimeout cancels a pull without progress in any phase for this long;
	// zero for never.
	PullProgressTimeout time.Duration
	// ClaimEngine, if not nil, is called at every connect with the engine's data
	// directory, before anything is read or changed. An error ends the attempt.
	ClaimEngine func(ctx context.Context, dataDir string) error
	// NRI has the settings of NRI plugins; nil for none.
	NRI *nri.Config
	// Tracing records spans of CRI calls. Without it calls are a sixth cheaper.
	Tracing   bool
	Streaming streaming.Config
}

// Service implements the CRI's RuntimeService and ImageService.
type Service struct {
	runtimeapi.UnimplementedRuntimeServiceServer
	runtimeapi.UnimplementedImageServiceServer

	cfg         Config
	engine      Engine
	index       *index.Index
	logs        *podlogs.Logs
	stats       *stats.Collector
	disk        *stats.Disk
	metrics     *Metrics
	process     *process.Runner
	streams     *streaming.Server
	images      imageParts
	usage       *usage
	names       *names
	stops       *stopper
	checkpoints *checkpointer
	restores    *restorer
	mounts      *mounts.Preparer
	networks    *podnet.Networks
	limits      *limits.Keeper
	podLimits   *limits.Pods
	state       *state.Store
	oom         *oom.Watcher
	userns      *userNamespaces
	plugins     *pluginHost

	host      atomic.Pointer[translate.Host]
	locks     keylock.Lock
	processID string        // random, unique to this process
	ready     chan struct{} // closed after the first sync
	ending    chan struct{} // closed when shutdown begins
	work      operations
	sessions  sessions
	created   time.Time
}

// Health returns nil while cridock is connected to Docker and in sync with it,
// otherwise an error that says why not.
func (s *Service) Health() error { return s.index.Health() }

// Host returns what translations depend on, as of the last connect to Docker.
func (s *Service) Host() translate.Host { return *s.host.Load() }

// Ready returns a channel that is closed after the first sync with Docker and the
// cleanup that follows it.
func (s *Service) Ready() <-chan struct{} { return s.ready }

// podKey returns the key of a pod's lock.
func podKey(m *runtimeapi.PodSandboxMetadata) string {
	return m.GetNamespace() + "/" + m.GetName() + "/" + m.GetUid()
}

// containerKey returns the key of the lock of a container's pod. For a container
// that has outlived its sandbox it derives from the sandbox's ID.
func (s *Service) containerKey(ctx context.Context, c *translate.Container) string {
	if sb, err := s.index.Sandbox(ctx, c.SandboxID); err == nil {
		return podKey(sb.Metadata)
	}
	return "sandbox/" + c.SandboxID
}

// sandboxDir returns the directory of a sandbox's files. Its name derives from the
// sandbox's metadata, as it must exist before Docker has assigned an ID.
func (s *Service) sandboxDir(m *runtimeapi.PodSandboxMetadata) state.Dir {
	return s.state.Sandbox(translate.SandboxName(m))
}
