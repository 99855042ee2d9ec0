package images

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/translate"
)

// imageFiles are the files of one image; err fails all reads.
type imageFiles struct {
	mu      sync.Mutex
	content map[string]string
	err     error
	looks   int
}

func (f *imageFiles) Look(_ context.Context, image translate.Image, look func(string) error) error {
	f.mu.Lock()
	f.looks++
	f.mu.Unlock()
	return look("probe of " + image.ID)
}

func (f *imageFiles) ContainerFile(_ context.Context, id, path string, limit int64) ([]byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if id != "probe of sha256:1" || limit != maxAccountFile {
		return nil, fmt.Errorf("%w: %s of %s, at most %d bytes", errdefs.ErrInternal, path, id, limit)
	}
	content, ok := f.content[path]
	if !ok {
		return nil, errors.Join(f.err, errdefs.ErrNotFound)
	}
	return []byte(content), f.err
}

func TestAccounts(t *testing.T) {
	image := translate.Image{ID: "sha256:1", User: "app"}
	user := func(a *Accounts) (string, error) {
		u, err := a.User(t.Context(), &runtimeapi.LinuxContainerSecurityContext{}, image)
		return u.Docker, err
	}
	f := &imageFiles{content: map[string]string{"/etc/passwd": "app:x:7:8::/:/bin/sh\n", "/etc/group": ""}}
	a := NewAccounts(f, f)
	var callers sync.WaitGroup
	for range 8 {
		callers.Go(func() {
			if got, err := user(a); got != "7:8" || err != nil {
				t.Errorf("user = %q, %v; want 7:8", got, err)
			}
		})
	}
	callers.Wait()
	if f.looks != 1 {
		t.Errorf("the files were read %d times, want once", f.looks)
	}
	f.content["/etc/passwd"] = "app:x:9:9::/:/bin/sh\n"
	a.Forget("sha256:other")
	if got, err := user(a); got != "7:8" || err != nil {
		t.Errorf("cached: %q, %v; want 7:8", got, err)
	}
	a.Forget("sha256:1")
	if got, err := user(a); got != "9:9" || err != nil {
		t.Errorf("after Forget: %q, %v; want 9:9", got, err)
	}
}

func TestAccountsOfAnImageWithoutFiles(t *testing.T) {
	f := &imageFiles{}
	a := NewAccounts(f, f)
	u, err := a.User(t.Context(), &runtimeapi.LinuxContainerSecurityContext{}, translate.Image{ID: "sha256:1", User: "5:6"})
	if u.Docker != "5:6" || err != nil {
		t.Errorf("user = %q, %v; want 5:6", u.Docker, err)
	}
	if _, err := a.User(t.Context(), &runtimeapi.LinuxContainerSecurityContext{}, translate.Image{ID: "sha256:1", User: "app"}); err == nil {
		t.Error("a name is resolved without a file")
	}
}

// TestAccountsThatCannotBeRead: a file that is too large or that the engine
// does not return is not treated as missing, and is requested again.
func TestAccountsThatCannotBeRead(t *testing.T) {
	image := translate.Image{ID: "sha256:1", User: "5:6"}
	f := &imageFiles{content: map[string]string{"/etc/passwd": "", "/etc/group": ""}, err: errdefs.ErrOutOfRange}
	a := NewAccounts(f, f)
	if _, err := a.User(t.Context(), nil, image); !errdefs.IsOutOfRange(err) {
		t.Errorf("err = %v, want out of range", err)
	}
	f.err = nil
	if u, err := a.User(t.Context(), nil, image); u.Docker != "5:6" || err != nil {
		t.Errorf("user = %q, %v; want 5:6", u.Docker, err)
	}
}
