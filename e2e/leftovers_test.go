package e2e

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"testing"
)

// leftovers returns everything that pods have left on a node, once there are
// none.
func (c *cridock) leftovers() error {
	var left []string
	for kind, find := range map[string]func() ([]string, error){
		"container":             func() ([]string, error) { return c.docker.withLabel("io.kubernetes.pod.uid") },
		"helper container":      func() ([]string, error) { return c.docker.named("cridock_") },
		"network namespace pin": func() ([]string, error) { return filesBelow(c.netns()) },
		"mount":                 c.ownMounts,
		"address of host-local": func() ([]string, error) { return leases(c.ipamDir()) },
		"result or note of CNI": func() ([]string, error) {
			files, err := filesBelow(c.cacheDir())
			return containing(files, "-eth0"), err
		},
		"file of a sandbox":          func() ([]string, error) { return entries(filepath.Join(c.root(), "sandboxes")) },
		"file of a container":        func() ([]string, error) { return entries(filepath.Join(c.root(), "containers")) },
		"interface on CNI's bridge":  c.bridgePorts,
		"iptables rule of a pod":     func() ([]string, error) { return c.rules("10.77.") },
		"port mapping of portmap":    func() ([]string, error) { return c.rules("CNI-DN-") },
		"port publishing of Docker":  func() ([]string, error) { return c.rules("-A DOCKER ! -i") },
		"record for cridock-runtime": func() ([]string, error) { return entries(filepath.Join(c.runDir, "oci")) },
		"unfinished file of cridock": func() ([]string, error) {
			return globs(c.root()+"/*.tmp", c.root()+"/*/*.tmp", c.root()+"/*/*/*.tmp", c.root()+"/*/*/*/*.tmp")
		},
	} {
		found, err := find()
		if err != nil {
			return fmt.Errorf("look for a %s: %w", kind, err)
		}
		for _, f := range found {
			left = append(left, kind+": "+f)
		}
	}
	if len(left) > 0 {
		return fmt.Errorf("left behind on the node:\n%s", strings.Join(left, "\n"))
	}
	return nil
}

// TestLeftoverHelpers: containers that cridock makes for itself count as left over.
func TestLeftoverHelpers(t *testing.T) {
	t.Parallel()
	c := newCridock(t, newNode(t), "docker")
	if err := c.leftovers(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"cridock_probe_0123_ABC", "cridock_image-volume_0123_4567"} {
		c.docker.must(t, http.MethodPost, "/containers/create?name="+name, map[string]string{"Image": c.image}, nil)
		if err := c.leftovers(); err == nil || !strings.Contains(err.Error(), "helper container: /"+name) {
			t.Errorf("with a container %s: %v", name, err)
		}
		c.docker.must(t, http.MethodDelete, "/containers/"+name, nil, nil)
	}
}

// checkGone checks that one pod has left nothing, while others are there.
func (c *cridock) checkGone(t testing.TB, uid, id string) {
	t.Helper()
	var left []string
	add := func(kind string, found []string, err error) {
		if err != nil {
			t.Errorf("look for a %s: %v", kind, err)
		}
		for _, f := range found {
			left = append(left, kind+": "+f)
		}
	}
	containers, err := c.docker.withLabel("io.kubernetes.pod.uid=" + uid)
	add("container", containers, err)
	if id != "" {
		mounts, err := c.mounts()
		add("mount", containing(mounts, id), err)
		pins, err := filesBelow(c.netns())
		add("network namespace pin", containing(pins, id), err)
		results, err := filesBelow(c.cacheDir())
		add("result of CNI", containing(results, id), err)
		rules, err := c.rules(id)
		add("iptables rule", rules, err)
		addresses, err := c.addresses(id)
		add("address", addresses, err)
	}
	if len(left) > 0 {
		t.Errorf("left behind by pod %s, sandbox %s:\n%s", uid, id, strings.Join(left, "\n"))
	}
}

// ownMounts returns the mounts below cridock's directories, except the file
// system of image volumes, which stays for later ones.
func (c *cridock) ownMounts() ([]string, error) {
	mounts, err := c.mounts()
	var own []string
	for _, m := range mounts {
		if strings.HasPrefix(m, c.dir+"/") && m != c.imageVolumes() {
			own = append(own, m)
		}
	}
	return own, err
}

// rules returns the NAT rules, of both IP versions, that contain a text.
func (c *cridock) rules(text string) ([]string, error) {
	var found []string
	for _, save := range []string{"iptables-save", "ip6tables-save"} {
		out, err := c.command(save, "-t", "nat").Output()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", save, err)
		}
		found = append(found, containing(strings.Split(string(out), "\n"), text)...)
	}
	return found, nil
}

// bridgePorts returns the host's ends of pods' interfaces.
func (c *cridock) bridgePorts() ([]string, error) {
	out, err := c.command("sh", "-c", "ip -o link show type veth").Output()
	var ports []string
	for line := range strings.Lines(string(out)) {
		ports = append(ports, strings.TrimSpace(line))
	}
	return ports, err
}

// addresses returns the addresses that host-local has reserved for a sandbox.
func (c *cridock) addresses(sandboxID string) ([]string, error) {
	all, err := leases(c.ipamDir())
	if err != nil {
		return nil, err
	}
	var own []string
	for _, ip := range all {
		b, err := os.ReadFile(filepath.Join(c.ipamDir(), "e2e", ip))
		if errors.Is(err, fs.ErrNotExist) {
			continue // another pod's, released just now
		}
		if err != nil {
			return nil, err
		}
		if strings.Contains(string(b), sandboxID) {
			own = append(own, ip)
		}
	}
	return own, nil
}

// leases returns the addresses that host-local has reserved.
func leases(dir string) ([]string, error) {
	files, err := entries(filepath.Join(dir, "e2e"))
	var ips []string
	for _, f := range files {
		if base := filepath.Base(f); base != "lock" && !strings.HasPrefix(base, "last_reserved_ip") {
			ips = append(ips, base)
		}
	}
	return ips, err
}

func containing(lines []string, text string) []string {
	var found []string
	for _, line := range lines {
		if strings.Contains(line, text) {
			found = append(found, line)
		}
	}
	return found
}

// entries lists a directory; a missing directory is empty.
func entries(dir string) ([]string, error) {
	list, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var paths []string
	for _, e := range list {
		paths = append(paths, filepath.Join(dir, e.Name()))
	}
	return paths, err
}

// filesBelow lists all files of a tree that may be changing.
func filesBelow(dir string) ([]string, error) {
	var files []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil && !d.IsDir() {
			files = append(files, path)
		}
		return err
	})
	return files, err
}

func globs(patterns ...string) ([]string, error) {
	var files []string
	for _, p := range patterns {
		found, err := filepath.Glob(p)
		if err != nil {
			return nil, err
		}
		files = append(files, found...)
	}
	return files, nil
}
