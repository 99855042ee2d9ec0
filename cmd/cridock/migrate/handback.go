package migrate

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"

	"github.com/cridock/cridock/translate"
)

// serve starts cridock. A migration that was killed on its way back may have left it
// with links for logs.
func (m *migration) serve(ctx context.Context, s step) error {
	if s.Edit != nil {
		linking := m.Root.Exists(s.Edit.Path)
		if err := m.revert(s.Edit); err != nil {
			return err
		}
		if linking {
			return m.systemctl(ctx, "restart", cridockService)
		}
	}
	return m.systemctl(ctx, startUnit, cridockService)
}

// handBack stops cridock, and leaves to the old adapter what it can use: logs that are
// links to Docker's, and no pins of network namespaces. The step's edit is the setting
// that makes cridock link logs.
func (m *migration) handBack(ctx context.Context, s step) error {
	if err := m.linkLogs(ctx, s); err != nil {
		if !m.lenient {
			return err
		}
		m.note("logs of running containers may be unreadable for the old adapter until these restart: %v", err)
	}
	if m.lenient {
		m.noteHostPorts(ctx)
	}
	if err := m.systemctl(ctx, stopUnit, cridockService); err != nil {
		return err
	}
	if s.Edit != nil {
		if err := m.revert(s.Edit); err != nil {
			return err
		}
	}
	return m.removePins()
}

// linkLogs restarts cridock with links for logs, if there are other logs, and waits
// until they are links.
func (m *migration) linkLogs(ctx context.Context, s step) error {
	paths, err := m.ownLogs(ctx)
	if err != nil || len(paths) == 0 {
		return err
	}
	if s.Edit == nil {
		return errors.New("cridock.service reads no directory of settings (config-dir): set container-log-mode to symlink, restart cridock, and run migrate --back again")
	}
	if err := m.apply(s.Edit); err != nil {
		return err
	}
	if err := m.systemctl(ctx, "restart", cridockService); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, m.Patience)
	defer cancel()
	for {
		if paths = slices.DeleteFunc(paths, func(path string) bool { return !m.isFile(path) }); len(paths) == 0 {
			return nil
		}
		if err := m.pause(ctx); err != nil {
			return fmt.Errorf("cridock has not linked %d logs, such as %s: %w", len(paths), paths[0], err)
		}
	}
}

// ownLogs returns the logs of running containers that are files, but could be links to
// Docker's.
func (m *migration) ownLogs(ctx context.Context) ([]string, error) {
	list, err := m.docker.ContainerList(ctx, filters.NewArgs(filters.Arg("label", translate.LabelType)))
	if err != nil {
		return nil, fmt.Errorf("list of Docker's containers: %w", err)
	}
	below := strings.TrimSuffix(m.settings.PodLogsDir, "/") + "/"
	var paths []string
	for _, c := range list {
		path := c.Labels[translate.LabelLogPath]
		if c.State != "running" || !strings.HasPrefix(path, below) || path != filepath.Clean(path) || !m.isFile(path) {
			continue
		}
		full, err := m.docker.ContainerInspect(ctx, c.ID)
		if err != nil {
			return nil, err
		}
		if full.ContainerJSONBase != nil && full.HostConfig != nil && full.HostConfig.LogConfig.Type == "json-file" {
			paths = append(paths, path)
		}
	}
	return paths, nil
}

// isFile only looks: a pod may have changed the directory.
func (m *migration) isFile(path string) bool {
	info, err := os.Lstat(m.Root.Path(path))
	return err == nil && info.Mode().IsRegular()
}

// removePins removes the pins of network namespaces. Docker keeps the namespaces, and
// cridock pins them again when it starts.
func (m *migration) removePins() error {
	dir := m.Root.Path(m.settings.RuntimeDir, "netns")
	pins, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, pin := range pins {
		path := filepath.Join(dir, pin.Name())
		if e := m.Unmount(path); e != nil {
			err = errors.Join(err, fmt.Errorf("unmount %s: %w", path, e))
			continue
		}
		err = errors.Join(err, os.Remove(path))
	}
	return err
}

// unreleasable returns the running sandboxes whose host ports an old adapter would not
// release: cridock has made them on CNI's network.
func (m *migration) unreleasable(ctx context.Context) ([]container.Summary, error) {
	list, err := m.docker.ContainerList(ctx, filters.NewArgs(filters.Arg("label", translate.LabelType+"=podsandbox")))
	if err != nil {
		return nil, fmt.Errorf("list of Docker's containers: %w", err)
	}
	return slices.DeleteFunc(list, func(c container.Summary) bool {
		return len(c.Names) == 0 || c.State != "running" || c.HostConfig.NetworkMode != "none" || !strings.Contains(c.Labels[translate.LabelConfig], `"hostPort":`)
	}), nil
}

// refuseHostPorts refuses to go back while there are such pods. Stopping them is the
// user's decision.
func (m *migration) refuseHostPorts(ctx context.Context) error {
	list, err := m.unreleasable(ctx)
	if err != nil || len(list) == 0 {
		return err
	}
	return fmt.Errorf("the old adapter would not release the host ports of pods that cridock has made: %s. Stop them, and go back before the kubelet makes new ones:\n"+
		"  systemctl stop kubelet\n  crictl --runtime-endpoint %s stopp %s\n  cridock migrate --back\n  systemctl start kubelet\nNothing was changed",
		podNames(list), m.settings.Endpoint, ids(list))
}

// noteHostPorts names such pods where a migration that has failed is undone: they keep
// running, and nobody can be asked to stop them.
func (m *migration) noteHostPorts(ctx context.Context) {
	list, err := m.unreleasable(ctx)
	switch {
	case err != nil:
		m.note("the old adapter may not release the host ports of pods that cridock has made; which pods these are is unknown: %v", err)
	case len(list) > 0:
		m.note("the old adapter does not release the host ports of these pods, which cridock has made and which keep running: %s (sandboxes %s). cridock does: migrate again before they are removed", podNames(list), ids(list))
	}
}

// podNames lists the pods of sandboxes.
func podNames(sandboxes []container.Summary) string {
	var names []string
	for _, c := range sandboxes {
		if name, err := translate.ParseName(c.Names[0]); err == nil {
			names = append(names, name.Namespace+"/"+name.Pod)
		}
	}
	return strings.Join(names, ", ")
}

func ids(sandboxes []container.Summary) string {
	var all []string
	for _, c := range sandboxes {
		all = append(all, c.ID)
	}
	return strings.Join(all, " ")
}
