package pause

import (
	"archive/tar"
	"bytes"
	"debug/elf"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
)

// wants are what the image of each architecture must have.
var wants = map[string]struct {
	machine elf.Machine
	id      string
}{
	// The IDs only change with pause.c, its compiler and the image configuration,
	// not with the Go release that encodes them.
	"amd64":   {elf.EM_X86_64, "sha256:373bfe422d139918e41b7503e967c4c2f6026bcfcba5901dfd0dd7c0296b7c86"},
	"arm64":   {elf.EM_AARCH64, "sha256:f66fe14564d3bf14cf14d9d7d648429a9163900f0bdc38ac6b429350be6936c7"},
	"arm":     {elf.EM_ARM, "sha256:57a058ec468b588eda211be97fef0052d2afee8bfc80c15e85fde8ffa3c7b252"},
	"ppc64le": {elf.EM_PPC64, "sha256:227ad996f30660ece1fb5027680b5ce4110ec48029a3dbe3489d1d9641156582"},
	"s390x":   {elf.EM_S390, "sha256:8820a0bc5b37d55166d25523058ec451f055568dfdd0783331819bbf66d7f29a"},
	"riscv64": {elf.EM_RISCV, "sha256:44665e5b302aaa6660eac274821631d4ecb4843647a5b65e80da184e4416231a"},
}

func binary(t *testing.T, arch string) []byte {
	t.Helper()
	data, err := binaries.ReadFile("pause_linux_" + arch)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// TestArchitectures: every architecture with a binary is offered and tested.
func TestArchitectures(t *testing.T) {
	want := slices.Sorted(maps.Keys(wants))
	if diff := cmp.Diff(want, slices.Sorted(slices.Values(architectures))); diff != "" {
		t.Errorf("architectures (-tested +offered):\n%s", diff)
	}
	entries, err := binaries.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	var embedded []string
	for _, e := range entries {
		embedded = append(embedded, strings.TrimPrefix(e.Name(), "pause_linux_"))
	}
	if diff := cmp.Diff(want, slices.Sorted(slices.Values(embedded))); diff != "" {
		t.Errorf("binaries (-tested +embedded):\n%s", diff)
	}
}

func TestArchive(t *testing.T) {
	for arch, want := range wants {
		t.Run(arch, func(t *testing.T) {
			archive, err := Archive(arch)
			if err != nil {
				t.Fatal(err)
			}
			files := untar(t, archive)

			var manifest []manifestEntry
			unmarshal(t, files["manifest.json"], &manifest)
			if len(manifest) != 1 || len(manifest[0].Layers) != 1 {
				t.Fatalf("manifest %+v: want one image with one layer", manifest)
			}
			if diff := cmp.Diff([]string{Name()}, manifest[0].RepoTags); diff != "" {
				t.Errorf("tags (-want +got):\n%s", diff)
			}

			config := files[manifest[0].Config]
			if id := "sha256:" + hexDigest(config); id != want.id {
				t.Errorf("image ID is %s, want %s", id, want.id)
			}
			if id, err := ID(arch); err != nil || id != want.id {
				t.Errorf("ID() = %s, %v, want %s", id, err, want.id)
			}
			layer := files[manifest[0].Layers[0]]
			checkConfig(t, arch, config, "sha256:"+hexDigest(layer))
			if diff := cmp.Diff(map[string][]byte{"pause": binary(t, arch)}, untar(t, layer)); diff != "" {
				t.Errorf("layer (-want +got):\n%s", diff)
			}
		})
	}
}

func checkConfig(t *testing.T, arch string, data []byte, diffID string) {
	t.Helper()
	var got map[string]any
	unmarshal(t, data, &got)
	const created = "1970-01-01T00:00:00Z"
	want := map[string]any{
		"architecture": arch,
		"os":           "linux",
		"author":       "cridock",
		"created":      created,
		"config": map[string]any{
			"User":       "65535:65535",
			"Env":        []any{"PATH=/"},
			"Entrypoint": []any{"/pause"},
			"WorkingDir": "/",
			"StopSignal": "SIGTERM",
		},
		"rootfs":  map[string]any{"type": "layers", "diff_ids": []any{diffID}},
		"history": []any{map[string]any{"created": created, "created_by": "cridock: add /pause"}},
	}
	if arch == "arm" {
		want["variant"] = "v7"
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("image configuration (-want +got):\n%s", diff)
	}
}

func TestArchiveArchitectureNames(t *testing.T) {
	for name, same := range map[string]string{"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "armv8l": "arm"} {
		got, err := Archive(name)
		if err != nil {
			t.Fatal(err)
		}
		want, err := Archive(same)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("Archive(%q) differs from Archive(%q)", name, same)
		}
	}
	for _, name := range []string{"", "AMD64", "armv6l", "386", "ppc64", "loong64"} {
		if _, err := Archive(name); !errdefs.IsNotImplemented(err) {
			t.Errorf("Archive(%q): error %v, want ErrNotImplemented", name, err)
		}
		if _, err := ID(name); !errdefs.IsNotImplemented(err) {
			t.Errorf("ID(%q): error %v, want ErrNotImplemented", name, err)
		}
	}
}

func TestName(t *testing.T) {
	if got := Name(); !regexp.MustCompile(`^cridock\.internal/pause:[0-9a-f]{12}$`).MatchString(got) {
		t.Errorf("Name() = %q", got)
	}
}

// TestBinaries checks what every kernel of the architecture needs to run them.
func TestBinaries(t *testing.T) {
	for arch, want := range wants {
		data := binary(t, arch)
		file, err := elf.NewFile(bytes.NewReader(data))
		if err != nil {
			t.Fatalf("%s: %v", arch, err)
		}
		if file.Machine != want.machine || file.Type != elf.ET_EXEC {
			t.Errorf("%s: %v %v, want %v %v", arch, file.Machine, file.Type, want.machine, elf.ET_EXEC)
		}
		if len(data) > 4096 {
			t.Errorf("%s: %d bytes, want at most 4096", arch, len(data))
		}
		for _, p := range file.Progs {
			switch {
			case p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC:
				t.Errorf("%s is not static: %v", arch, p.Type)
			case p.Type == elf.PT_LOAD && p.Flags&elf.PF_W != 0 && p.Flags&elf.PF_X != 0:
				t.Errorf("%s has a writable and executable segment", arch)
			case p.Type == elf.PT_GNU_STACK && p.Flags&elf.PF_X != 0:
				t.Errorf("%s has an executable stack", arch)
			}
		}
	}
}

// TestBinariesAreWhatTheSourceBuilds runs build.sh --check; see there for what
// that proves if the compiler is not the recorded one. It needs all compilers.
// Without them it is skipped, except with CRIDOCK_CI=1.
func TestBinariesAreWhatTheSourceBuilds(t *testing.T) {
	const compilerMissing = 3
	out, err := exec.CommandContext(t.Context(), "./build.sh", "--check").CombinedOutput()
	var exit *exec.ExitError
	switch {
	case err == nil:
		t.Logf("%s", out)
	case errors.As(err, &exit) && exit.ExitCode() == compilerMissing && os.Getenv("CRIDOCK_CI") != "1":
		t.Skipf("%s", out)
	default:
		t.Fatalf("build.sh --check: %v\n%s", err, out)
	}
}

func untar(t *testing.T, data []byte) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	r := tar.NewReader(bytes.NewReader(data))
	for {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		if header.Uid != 0 || header.Gid != 0 || header.ModTime.Unix() != 0 || header.Mode&0o777 == 0 {
			t.Errorf("%s: header %+v: want root, 1970 and a mode", header.Name, header)
		}
		if header.Typeflag != tar.TypeReg {
			continue
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		files[header.Name] = content
	}
}

func unmarshal(t *testing.T, data []byte, v any) {
	t.Helper()
	if err := json.Unmarshal(data, v); err != nil {
		t.Fatalf("%v in %q", err, data)
	}
}
