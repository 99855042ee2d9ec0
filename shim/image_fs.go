package shim

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/shim/stats"
	"github.com/cridock/cridock/translate"
)

// systemContainerd is the root of a containerd that Docker did not start itself.
const systemContainerd = "/var/lib/containerd"

// ImageFsInfo says how much the images and the containers' writable layers take
// of their file system, as of the last round of the background walker. Docker
// is not asked: its own sum takes seconds on a full node.
func (s *Service) ImageFsInfo(ctx context.Context, _ *runtimeapi.ImageFsInfoRequest) (*runtimeapi.ImageFsInfoResponse, error) {
	images, err := s.imageUsage(ctx)
	if err != nil {
		return nil, err
	}
	layers, err := s.layerUsage(ctx)
	if err != nil {
		return nil, err
	}
	root := s.layerRoot()
	return &runtimeapi.ImageFsInfoResponse{
		ImageFilesystems:     []*runtimeapi.FilesystemUsage{stats.CRIFilesystemUsage(images, root)},
		ContainerFilesystems: []*runtimeapi.FilesystemUsage{stats.CRIFilesystemUsage(layers, root)},
	}, nil
}

// imageUsage is what the store takes without the containers' own layers. Until
// the first walk is over it is the sum of the images' sizes, in which shared
// layers count more than once.
func (s *Service) imageUsage(ctx context.Context) (stats.DiskUsage, error) {
	images, err := s.index.Images(ctx)
	if err != nil {
		return stats.DiskUsage{}, err
	}
	if u, ok := s.disk.TreeUsage(s.imageTree()); ok {
		return u, nil
	}
	u := stats.DiskUsage{At: time.Now()}
	for _, image := range images {
		u.Bytes += image.Size
	}
	return u, nil
}

// imageTree is the store of all layers but the containers' own.
func (s *Service) imageTree() stats.Tree {
	return stats.Tree{Roots: []string{s.layerRoot()}, Except: s.upperDirs}
}

// imagesChanged makes a pull or a removal visible.
func (s *Service) imagesChanged(ctx context.Context) error {
	s.disk.Changed(s.imageTree())
	return s.index.SyncImages(ctx)
}

// layerUsage is the sum of the writable layers of all containers of pods.
func (s *Service) layerUsage(ctx context.Context) (stats.DiskUsage, error) {
	sum := stats.DiskUsage{At: time.Now()}
	containers, err := s.index.Containers(ctx)
	for _, dir := range s.layers.dirs(containers, stats.UpperDir) {
		if u, ok := s.disk.Usage(dir); ok {
			sum.Bytes += u.Bytes
			sum.Inodes += u.Inodes
		}
	}
	return sum, err
}

// upperDirs are the writable layers of all containers of pods.
func (s *Service) upperDirs() []string {
	containers, err := s.index.Containers(context.Background()) // answers at once: the index has been read before
	if err != nil {
		return nil
	}
	return s.layers.dirs(containers, stats.UpperDir)
}

// layers knows the containers' writable layers. With the containerd image store
// Docker does not tell them: they are learned from the processes, and kept for
// the time after. Of a container that this cridock has never seen running it is
// not known; its layer counts as an image's. The zero value is ready.
type layers struct {
	mu      sync.Mutex
	learned map[string]string // by container ID
}

// dirs are the known directories of all containers that there are; upperDir
// tells a process's.
func (l *layers) dirs(containers []*translate.Container, upperDir func(pid int) (string, error)) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	dirs, learned := make([]string, 0, len(containers)), map[string]string{}
	for _, c := range containers {
		dir := c.UpperDir
		if dir == "" {
			if dir = l.learned[c.ID]; dir == "" && c.Pid > 0 {
				dir, _ = upperDir(c.Pid) // it may have ended meanwhile
			}
			learned[c.ID] = dir
		}
		if dir != "" {
			dirs = append(dirs, dir)
		}
	}
	l.learned = learned
	return dirs
}

// layerRoot is the directory of Docker's layers: of its graph driver, or of the
// snapshotter of the containerd that it uses.
func (s *Service) layerRoot() string {
	caps := s.engine.Capabilities()
	if !caps.ContainerdStore {
		return filepath.Join(caps.RootDir, caps.StorageDriver)
	}
	snapshotter := "io.containerd.snapshotter.v1." + caps.StorageDriver
	own := filepath.Join(caps.RootDir, "containerd", "daemon", snapshotter)
	if _, err := os.Stat(own); err == nil {
		return own
	}
	return filepath.Join(systemContainerd, snapshotter)
}
