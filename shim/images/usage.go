package images

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"k8s.io/klog/v2"

	"github.com/cridock/cridock/shim/engine"
	"github.com/cridock/cridock/shim/stats"
	"github.com/cridock/cridock/translate"
)

// systemContainerd is the root of a containerd that Docker did not start itself.
const systemContainerd = "/var/lib/containerd"

// UsageEngine is what [Usage] needs of the engine; see engine.System.
type UsageEngine interface {
	Capabilities() *engine.Capabilities
}

// UsageIndex lists images and the containers of pods; see index.Index.
type UsageIndex interface {
	ContainerIndex
	Images(ctx context.Context) ([]translate.Image, error)
}

// Disk measures directories in the background; see stats.Disk.
type Disk interface {
	Usage(layer string) (stats.DiskUsage, bool)
	TreeUsage(t stats.Tree) (stats.DiskUsage, bool)
	Changed(t stats.Tree)
}

// Usage reports the disk usage of the images and of the containers' writable layers,
// as of the last round of the background walker. It does not ask Docker, whose own
// sum takes seconds on a full node. Its methods are safe for concurrent use once the
// engine's capabilities are known.
type Usage struct {
	engine   UsageEngine
	index    UsageIndex
	disk     Disk
	layers   layers
	upperDir func(id string, pid int) (string, error)
	where    atomic.Pointer[where]
}

// NewUsage returns a Usage.
func NewUsage(e UsageEngine, ix UsageIndex, d Disk) *Usage {
	u := &Usage{engine: e, index: ix, disk: d}
	u.upperDir = func(id string, pid int) (string, error) {
		dir, _, err := u.WhereLayers().UpperDir(id, pid)
		return dir, err
	}
	return u
}

// Images returns the disk usage of the store without the containers' own layers.
// Until the first walk is complete it is the sum of the images' sizes, which counts
// shared layers more than once.
func (u *Usage) Images(ctx context.Context) (stats.DiskUsage, error) {
	images, err := u.index.Images(ctx)
	if err != nil {
		return stats.DiskUsage{}, err
	}
	if usage, ok := u.disk.TreeUsage(u.tree()); ok {
		return usage, nil
	}
	usage := stats.DiskUsage{At: time.Now()}
	for _, image := range images {
		usage.Bytes += image.Size
	}
	return usage, nil
}

// Layers returns the total disk usage of the writable layers of all containers of
// pods.
func (u *Usage) Layers(ctx context.Context) (stats.DiskUsage, error) {
	sum := stats.DiskUsage{At: time.Now()}
	containers, err := u.index.Containers(ctx)
	for _, dir := range u.layers.dirs(containers, u.upperDir) {
		if usage, ok := u.disk.Usage(dir); ok {
			sum.Bytes += usage.Bytes
			sum.Inodes += usage.Inodes
		}
	}
	return sum, err
}

// Changed has the images measured again soon, after a pull or a removal.
func (u *Usage) Changed() { u.disk.Changed(u.tree()) }

// WhereLayers returns the directory of Docker's layers, that of its graph driver or of the
// snapshotter of its containerd, and where it mounts those of the latter.
func (u *Usage) WhereLayers() stats.Layers {
	caps := u.engine.Capabilities()
	if found := u.where.Load(); found != nil && found.caps == caps {
		return found.Layers
	}
	layers := stats.Layers{Root: layerRoot(caps), Mounts: filepath.Join(caps.RootDir, "rootfs", caps.StorageDriver)}
	u.where.Store(&where{caps, layers})
	return layers
}

// Root is that of [Usage.WhereLayers].
func (u *Usage) Root() string { return u.WhereLayers().Root }

// where are the layers of an engine with these capabilities.
type where struct {
	caps *engine.Capabilities
	stats.Layers
}

// layerRoot returns the directory of an engine's layers. Where the containerd cannot be
// asked, it assumes the one that Docker starts itself, and last the default of all others.
func layerRoot(caps *engine.Capabilities) string {
	if !caps.ContainerdStore {
		return filepath.Join(caps.RootDir, caps.StorageDriver)
	}
	snapshotter := "io.containerd.snapshotter.v1." + caps.StorageDriver
	if caps.ContainerdAddress != "" {
		dir, err := containerdRoot(strings.TrimPrefix(caps.ContainerdAddress, "unix://"))
		if err == nil {
			return filepath.Join(dir, snapshotter)
		}
		klog.Background().Error(err, "Failed to find the root directory of Docker's containerd; disk usage and checkpoints assume the default", "address", caps.ContainerdAddress)
	}
	own := filepath.Join(caps.RootDir, "containerd", "daemon", snapshotter)
	if _, err := os.Stat(own); err == nil {
		return own
	}
	return filepath.Join(systemContainerd, snapshotter)
}

// tree is the store of all layers except the containers' own.
func (u *Usage) tree() stats.Tree {
	return stats.Tree{Roots: []string{u.Root()}, Except: u.upperDirs}
}

// upperDirs returns the directories of the writable layers of all containers of
// pods.
func (u *Usage) upperDirs() []string {
	containers, err := u.index.Containers(context.Background()) // returns at once: the index has been read before
	if err != nil {
		return nil
	}
	return u.layers.dirs(containers, u.upperDir)
}
