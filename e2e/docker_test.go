package e2e

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// docker gives the tests direct access to an engine, without cridock.
type docker struct{ client *http.Client }

func newDocker(socket string) *docker {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}
	return &docker{&http.Client{Timeout: 90 * time.Minute, Transport: &http.Transport{DialContext: dial}}}
}

// call makes one request and returns the body of the response.
func (d *docker) call(method, path string, header http.Header, body io.Reader) ([]byte, error) {
	req, err := http.NewRequest(method, "http://docker"+path, body)
	if err != nil {
		return nil, err
	}
	req.Header = header
	resp, err := d.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	out, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode >= http.StatusBadRequest {
		err = fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, out)
	}
	return out, err
}

// must is call for JSON responses; a nil out ignores the response.
func (d *docker) must(t testing.TB, method, path string, in, out any) {
	t.Helper()
	var body io.Reader
	header := http.Header{}
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			t.Fatal(err)
		}
		body = bytes.NewReader(b)
		header.Set("Content-Type", "application/json")
	}
	b, err := d.call(method, path, header, body)
	if err == nil && out != nil {
		err = json.Unmarshal(b, out)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// actions collects Docker's own events from now on: those that create, start,
// end and remove a container, by its ID.
func (d *docker) actions(t testing.TB) (of func(id string) []string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, `http://docker/events?filters={"type":["container"],"event":["create","start","die","destroy"]}`, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := d.client.Do(req) //nolint:bodyclose // the goroutine below closes it
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	seen := map[string][]string{}
	go func() {
		defer func() { _ = resp.Body.Close() }() // the test's end ends the stream
		for messages := json.NewDecoder(resp.Body); ; {
			var m struct {
				Action string
				Actor  struct{ ID string }
			}
			if messages.Decode(&m) != nil {
				return
			}
			mu.Lock()
			seen[m.Actor.ID] = append(seen[m.Actor.ID], m.Action)
			mu.Unlock()
		}
	}()
	return func(id string) []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(seen[id])
	}
}

// apiMinor returns n of the engine's API version 1.n.
func (d *docker) apiMinor(t testing.TB) int {
	t.Helper()
	var v struct{ APIVersion string }
	d.must(t, http.MethodGet, "/version", nil, &v)
	_, minor, _ := strings.Cut(v.APIVersion, ".")
	n, err := strconv.Atoi(minor)
	if err != nil {
		t.Fatalf("API version %q: %v", v.APIVersion, err)
	}
	return n
}

// dockerContainer is the part of a container that the tests inspect.
type dockerContainer struct {
	ID    string `json:"Id"`
	Name  string
	State struct {
		Pid       int
		StartedAt string
	}
	LogPath        string
	ResolvConfPath string
	HostConfig     struct {
		OomScoreAdj  int
		CgroupParent string
	}
}

func (d *docker) inspect(t testing.TB, id string) (c dockerContainer) {
	t.Helper()
	d.must(t, http.MethodGet, "/containers/"+id+"/json", nil, &c)
	return c
}

// withLabel lists containers, including those that do not run.
func (d *docker) withLabel(label string) (names []string, err error) {
	return d.list("label", label)
}

// named lists containers whose names begin with a prefix, including those that do not
// run.
func (d *docker) named(prefix string) (names []string, err error) {
	return d.list("name", "^/"+prefix)
}

// list lists containers by one of Docker's filters.
func (d *docker) list(filter, value string) (names []string, err error) {
	query := url.QueryEscape(fmt.Sprintf(`{%q:[%q]}`, filter, value))
	b, err := d.call(http.MethodGet, "/containers/json?all=1&filters="+query, nil, nil)
	if err != nil {
		return nil, err
	}
	var list []struct{ Names []string }
	if err := json.Unmarshal(b, &list); err != nil {
		return nil, err
	}
	for _, c := range list {
		names = append(names, strings.Join(c.Names, ","))
	}
	return names, nil
}

// build builds an image with the classic builder; its name is name:tag. The builder
// fails if another test removes an image that it considers for its cache.
func (d *docker) build(t testing.TB, name, dockerfile string) {
	t.Helper()
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	if err := w.WriteHeader(&tar.Header{Name: "Dockerfile", Mode: 0o644, Size: int64(len(dockerfile))}); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, dockerfile); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	d.stream(t, "/build?nocache=1&networkmode=none&t="+url.QueryEscape(name), http.Header{"Content-Type": {"application/x-tar"}}, &archive)
}

// stream makes a request whose response is progress messages.
func (d *docker) stream(t testing.TB, path string, header http.Header, body io.Reader) {
	t.Helper()
	out, err := d.call(http.MethodPost, path, header, body)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(out, []byte(`"errorDetail"`)) {
		t.Fatalf("%s: %s", path, out)
	}
}

func (d *docker) tag(t testing.TB, image, repo, tag string) {
	t.Helper()
	d.must(t, http.MethodPost, "/images/"+image+"/tag?repo="+url.QueryEscape(repo)+"&tag="+tag, nil, nil)
}

// push pushes repo:tag; auth is JSON, empty for none.
func (d *docker) push(t testing.TB, repo, tag, auth string) {
	t.Helper()
	header := http.Header{"X-Registry-Auth": {base64.URLEncoding.EncodeToString([]byte("{" + auth + "}"))}}
	d.stream(t, "/images/"+repo+"/push?tag="+tag, header, nil)
}

// removeImage removes a reference, or an image with all its references.
func (d *docker) removeImage(t testing.TB, ref string) {
	t.Helper()
	d.must(t, http.MethodDelete, "/images/"+ref+"?force=1", nil, nil)
}

// digestOf returns the digest under which an image was pushed to or pulled from
// repo.
func (d *docker) digestOf(t testing.TB, image, repo string) string {
	t.Helper()
	var i struct{ RepoDigests []string }
	d.must(t, http.MethodGet, "/images/"+image+"/json", nil, &i)
	for _, r := range i.RepoDigests {
		if digest, ok := strings.CutPrefix(r, repo+"@"); ok {
			return digest
		}
	}
	t.Fatalf("image %s has no digest of %s: %v", image, repo, i.RepoDigests)
	return ""
}
