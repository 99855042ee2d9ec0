package mounts

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/translate"
)

// expandDevices returns Docker's device mappings for the devices of a request: the
// device itself, or every device node below a directory.
func expandDevices(devices []*runtimeapi.Device) ([]container.DeviceMapping, error) {
	var mappings []container.DeviceMapping
	for i, d := range devices {
		field := fmt.Sprintf("devices[%d]", i)
		mapping, err := translate.DockerDevice(field, d)
		if err != nil {
			return nil, err
		}
		nodes, err := deviceNodes(mapping.PathOnHost)
		if err != nil {
			return nil, fmt.Errorf("%s.host_path %q: %w", field, mapping.PathOnHost, err)
		}
		for _, node := range nodes {
			mappings = append(mappings, container.DeviceMapping{
				PathOnHost:        node,
				PathInContainer:   mapping.PathInContainer + strings.TrimPrefix(node, mapping.PathOnHost),
				CgroupPermissions: mapping.CgroupPermissions,
			})
		}
	}
	return mappings, nil
}

// deviceNodes lists the device nodes at or below a path. It finds a missing device
// now; Docker would only at the container's start.
func deviceNodes(root string) ([]string, error) {
	info, err := os.Stat(root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: no such device on the node", errdefs.ErrFailedPrecondition)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errdefs.ErrFailedPrecondition, err)
	}
	if info.Mode()&fs.ModeDevice != 0 {
		return []string{root}, nil
	}
	if !info.IsDir() {
		return nil, fmt.Errorf("%w: neither a device nor a directory", errdefs.ErrInvalidArgument)
	}
	var nodes []string
	err = filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.Type()&fs.ModeDevice != 0 {
			nodes = append(nodes, path)
		}
		return err
	})
	return nodes, err
}
