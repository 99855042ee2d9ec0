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

// ImageFsInfo reports the disk usage of the images and of the containers' writable
// layers, as of the last round of the background walker. It does not ask Docker,
// whose own sum takes seconds on a full node.
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

// imageUsage returns the disk usage of the store without the containers' own
// layers. Until the first walk is complete it is the sum of the images' sizes,
// which counts shared layers more than once.
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

// imageTree is the store of all layers except the containers' own.
func (s *Service) imageTree() stats.Tree {
	return stats.Tree{Roots: []string{s.layerRoot()}, Except: s.upperDirs}
}

// imagesChanged makes a pull or a removal visible.
func (s *Service) imagesChanged(ctx context.Context) error {
	s.disk.Changed(s.imageTree())
	return s.index.SyncImages(ctx)
}

// layerUsage returns the total disk usage of the writable layers of all containers
// of pods.
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

// upperDirs returns the directories of the writable layers of all containers of
// pods.
func (s *Service) upperDirs() []string {
	containers, err := s.index.Containers(context.Background()) // returns at once: the index has been read before
	if err != nil {
		return nil
	}
	return s.layers.dirs(containers, stats.UpperDir)
}

// layers knows the directories of the containers' writable layers. With the
// containerd image store Docker does not report them: they are learned from the
// containers' processes and remembered after the exit. The layer of a container
// that this process has never seen running is unknown and counts as an image's.
// The zero value is ready.
type layers struct {
	mu      sync.Mutex
	learned map[string]string // by container ID
}

// dirs returns the known directories of containers and forgets all others;
// upperDir finds that of a process.
func (l *layers) dirs(containers []*translate.Container, upperDir func(pid int) (string, error)) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	dirs, learned := make([]string, 0, len(containers)), map[string]string{}
	for _, c := range containers {
		dir := c.UpperDir
		if dir == "" {
			if dir = l.learned[c.ID]; dir == "" && c.Pid > 0 {
				dir, _ = upperDir(c.Pid) // it may have exited by now
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

// layerRoot returns the directory of Docker's layers: that of its graph driver, or
// of the snapshotter of its containerd.
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
