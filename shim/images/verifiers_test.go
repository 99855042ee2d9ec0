package images

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// verifiers returns a directory of scripts, by name.
func verifiers(t *testing.T, scripts map[string]string) Verifiers {
	t.Helper()
	dir := t.TempDir()
	for name, text := range scripts {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return Verifiers(dir)
}

// TestVerifierCall: arguments and input are containerd's.
func TestVerifierCall(t *testing.T) {
	out := t.TempDir()
	v := verifiers(t, map[string]string{"a": "printf '%s\\n' \"$@\" >" + out + "/args; cat >" + out + "/stdin; echo fine"})
	image := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageIndex, Digest: testDigest, Size: 5}
	if err := v.Verify(t.Context(), "registry.test/app:1", image); err != nil {
		t.Fatal(err)
	}
	args, _ := os.ReadFile(filepath.Join(out, "args"))
	if want := "-name\nregistry.test/app:1\n-digest\n" + testDigest + "\n-stdin-media-type\napplication/vnd.oci.descriptor.v1+json\n"; string(args) != want {
		t.Errorf("arguments %q, want %q", args, want)
	}
	stdin, _ := os.ReadFile(filepath.Join(out, "stdin"))
	var got ocispec.Descriptor
	if err := json.Unmarshal(stdin, &got); err != nil || !cmp.Equal(image, got) {
		t.Errorf("input %q, %v", stdin, err)
	}
}

func TestVerifiers(t *testing.T) {
	for name, tc := range map[string]struct {
		scripts map[string]string
		want    string // in the error; "" for none
	}{
		"an empty directory":      {nil, ""},
		"all accept":              {map[string]string{"a": "exit 0", "b": "exit 0"}, ""},
		"the last refuses":        {map[string]string{"a": "exit 0", "b": "echo no signature; echo of ours; exit 3"}, "image verifier b: exit status 3: no signature of ours"},
		"it reads nothing":        {map[string]string{"a": "exec 0<&-; exit 0"}, ""},
		"much output, accepted":   {map[string]string{"a": "head -c 1000000 /dev/zero; exit 0"}, ""},
		"much output, refused":    {map[string]string{"a": "head -c 1000000 /dev/zero | tr '\\0' x; exit 1"}, "image verifier a: exit status 1: xxx"},
		"output that is not text": {map[string]string{"a": "printf '\\377\\376'; exit 1"}, "image verifier a: exit status 1: ?"},
		"too many":                {map[string]string{"a": "", "b": "", "c": "", "d": "", "e": "", "f": "", "g": "", "h": "", "i": "", "j": "", "k": ""}, "11 files"},
	} {
		t.Run(name, func(t *testing.T) {
			err := verifiers(t, tc.scripts).Verify(t.Context(), "registry.test/app:1", ocispec.Descriptor{Digest: testDigest})
			if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want %q", err, tc.want)
			}
			if err != nil && len(err.Error()) > 2*maxReason {
				t.Errorf("an error of %d bytes", len(err.Error()))
			}
		})
	}
	if err := (Verifiers("")).Verify(t.Context(), "a", ocispec.Descriptor{}); err != nil {
		t.Error(err)
	}
	if err := (Verifiers("/nowhere")).Verify(t.Context(), "a", ocispec.Descriptor{}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("a missing directory: %v", err)
	}
	v := verifiers(t, map[string]string{"a": "exit 0"})
	if err := os.Chmod(filepath.Join(string(v), "a"), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := v.Verify(t.Context(), "a", ocispec.Descriptor{}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("a program that others can change: %v", err)
	}
	if err := os.Chmod(filepath.Join(string(v), "a"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := v.Verify(t.Context(), "a", ocispec.Descriptor{}); err == nil {
		t.Error("a file that cannot be run accepts images")
	}
}

// gone waits until the process whose ID is in a file has ended.
func gone(t *testing.T, file string) {
	t.Helper()
	text, err := os.ReadFile(file)
	pid, bad := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || bad != nil {
		t.Fatalf("the child's ID is %q, %v", text, err)
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil || strings.Contains(string(stat), ") Z ") { // a zombie is its new parent's to reap
			return
		}
		if time.Now().After(deadline) {
			_ = syscall.Kill(pid, syscall.SIGKILL)
			t.Fatal("the verifier's child runs")
		}
	}
}

// TestVerifierLeavesNothing: a child that holds the output changes nothing, and ends.
func TestVerifierLeavesNothing(t *testing.T) {
	file := filepath.Join(t.TempDir(), "pid")
	v := verifiers(t, map[string]string{"a": "sleep 1000 & echo $! >" + file + "; exit 0"})
	if err := v.Verify(t.Context(), "a", ocispec.Descriptor{}); err != nil {
		t.Error(err)
	}
	gone(t, file)
}

// TestVerifierHangs: a verifier is killed with its children.
func TestVerifierHangs(t *testing.T) {
	file := filepath.Join(t.TempDir(), "pid")
	v := verifiers(t, map[string]string{"a": "sleep 1000 & echo $! >" + file + "; wait"})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		for ctx.Err() == nil {
			if text, _ := os.ReadFile(file); strings.HasSuffix(string(text), "\n") {
				cancel()
			}
			time.Sleep(10 * time.Millisecond)
		}
	}()
	start := time.Now()
	err := v.Verify(ctx, "a", ocispec.Descriptor{})
	if err == nil || errors.Is(err, context.Canceled) {
		t.Errorf("error %v; want one that is not the caller's", err)
	} else if !strings.Contains(err.Error(), context.Canceled.Error()) {
		t.Errorf("error %v; want one that the caller caused", err)
	}
	if took := time.Since(start); took > time.Minute {
		t.Errorf("it took %v", took)
	}
	gone(t, file)
}
