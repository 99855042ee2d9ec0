package e2e

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// identityCase is an image's accounts and the identity requested for its
// container.
type identityCase struct {
	user          string // the image's USER
	passwd, group string // the image's files
	links         map[string]string
	// kubelet requests the user that ImageStatus has reported, as a kubelet does.
	kubelet bool
	ask     *runtimeapi.LinuxContainerSecurityContext
	// refused is whether CreateContainer must refuse it; nil if unknown.
	refused *bool
}

const (
	strict = runtimeapi.SupplementalGroupsPolicy_Strict
	// longestLine is more than Docker reads of a line of /etc/passwd. It starts no
	// container with such a line.
	longestLine = 64 << 10
	// beyond64 is a number that no integer holds. Docker takes such a gid for the largest,
	// which the kernel refuses: a container whose user is in that group does not start.
	beyond64 = "99999999999999999999"
)

// TestIdentity builds images whose accounts are hostile. Their containers
// either are refused, or run with the uid, gid and groups that their status
// reports and that were requested; and if no user is requested, as the user
// that ImageStatus reports.
//
// The named cases come first, then random ones: 14, or CRIDOCK_E2E_IDENTITIES;
// CRIDOCK_E2E_SEED repeats them.
func TestIdentity(t *testing.T) {
	t.Parallel()
	p := sharedCridock(t, "docker").runPod(t)
	for name, tc := range namedIdentities() {
		t.Run(name, func(t *testing.T) { p.in(t).checkIdentity(tc) })
	}
	count, seed := envNumber(t, "CRIDOCK_E2E_IDENTITIES", 14), envNumber(t, "CRIDOCK_E2E_SEED", uint64(time.Now().UnixNano()))
	t.Logf("CRIDOCK_E2E_SEED=%d", seed)
	ran := 0
	for i := range count {
		r := &identities{rand.New(rand.NewPCG(seed, i))}
		t.Run(fmt.Sprintf("random-%d", i), func(t *testing.T) {
			if p.in(t).checkIdentity(r.identity()) {
				ran++
			}
		})
	}
	if count >= 10 && uint64(ran) < count/5 {
		t.Errorf("only %d of %d random cases were not refused", ran, count)
	}
}

func envNumber(t *testing.T, name string, otherwise uint64) uint64 {
	t.Helper()
	v := os.Getenv(name)
	if v == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(v, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

func number(n int64) *runtimeapi.Int64Value { return &runtimeapi.Int64Value{Value: n} }

func namedIdentities() map[string]identityCase {
	const passwd, group = "root:x:0:0::/:/bin/sh\n1000:x:0:0::/:/bin/sh\n", "root:x:0:1000\n3000:x:0:\n400:x:400:\n"
	type ask = runtimeapi.LinuxContainerSecurityContext
	yes, no := new(bool), new(bool)
	*yes = true
	return map[string]identityCase{
		"run_as_user with an account of that name, Merge":  {passwd: passwd, group: group, ask: &ask{RunAsUser: number(1000)}, refused: no},
		"run_as_user with an account of that name, Strict": {passwd: passwd, group: group, ask: &ask{RunAsUser: number(1000), SupplementalGroupsPolicy: strict}, refused: no},
		"USER with an account of that name":                {user: "1000", passwd: passwd, group: group, ask: &ask{}, refused: no},
		"USER and group with such an account":              {user: "1000:400", passwd: passwd, group: group, ask: &ask{}, refused: no},
		"run_as_username of digits":                        {user: "1000", passwd: passwd, group: group, ask: &ask{RunAsUsername: "1000", RunAsGroup: number(400)}, refused: no},
		"USER beyond 32 bits, by the kubelet":              {user: "4294967296", passwd: "4294967296:x:0:0::/:\n", kubelet: true, ask: &ask{}, refused: yes},
		"USER beyond 64 bits":                              {user: beyond64, passwd: "99999999999999999999:x:0:0::/:\n", ask: &ask{}, refused: yes},
		"USER +0":                                          {user: "+0", passwd: "a:x:5:5::/:\n+0:x:5:5::/:\n", kubelet: true, ask: &ask{}, refused: no},
		"group of another's name, primary":                 {passwd: passwd, group: group, ask: &ask{RunAsUser: number(7), RunAsGroup: number(3000)}, refused: yes},
		"group of another's name, Strict": {passwd: passwd, group: group, refused: yes,
			ask: &ask{RunAsUser: number(7), RunAsGroup: number(8), SupplementalGroups: []int64{3000}, SupplementalGroupsPolicy: strict}},
		"group of another's name, behind links": {passwd: passwd, refused: yes, ask: &ask{RunAsUser: number(7), RunAsGroup: number(3000)},
			links: map[string]string{"x": "a/b", "a/b/group": "../evil", "etc/group": "../x/group", "a/evil": "file:" + group, "evil": "file:\n"}},
		"groups are known when the container runs": {passwd: passwd, refused: yes, ask: &ask{RunAsUser: number(7)},
			links: map[string]string{"etc/group": "/proc/self/cgroup"}},
	}
}

// identities generates random cases.
type identities struct{ *rand.Rand }

func (r *identities) of(texts ...string) string { return texts[r.IntN(len(texts))] }

func (r *identities) name() string {
	return r.of("root", "app", "app", "web", "web", "0", "5", "1000", "2000", "007", "+5", "-x", "0x10", "4294967296", beyond64, "", "a b", "n\x00l", "#c")
}

func (r *identities) id() string {
	if r.IntN(12) == 0 {
		return r.of("", "zz", "-1", "0x10", " 5", "4294967296", "2147483648", beyond64)
	}
	return r.of("0", "0", "5", "1000", "1000", "2000", "3000", "007", "+5", "2147483647")
}

// file returns lines of fields, some of them malformed.
func (r *identities) file(fields ...func() string) string {
	var b strings.Builder
	end := r.of("\n", "\n", "\r\n")
	for range r.IntN(12) {
		n := len(fields)
		if r.IntN(10) == 0 {
			n = 1 + r.IntN(n)
		}
		if r.IntN(20) == 0 {
			b.WriteString(r.of(" ", "#", "+", "-", "\t", ":", "+@nis::::"))
		}
		for i, field := range fields[:n] {
			if i > 0 {
				b.WriteByte(':')
			}
			b.WriteString(field())
		}
		b.WriteString(end)
	}
	return b.String()
}

func (r *identities) passwd() string {
	if r.IntN(20) == 0 {
		return ""
	}
	password := func() string { return "x" }
	file := r.file(r.name, password, r.id, r.id, func() string { return r.of("::", ":/", "::/bin/sh") })
	if r.IntN(30) == 0 {
		file += "long:x:5:5:" + strings.Repeat("x", longestLine) + "\n"
	}
	return file
}

func (r *identities) group() string {
	password := func() string { return "x" }
	return r.file(r.name, password, r.id, func() string {
		return r.of("", r.name(), r.name()+","+r.name(), r.name()+","+r.name()+","+r.name()+",,"+r.name(), strings.Repeat("m,", 9000)+r.name())
	})
}

func (r *identities) identity() identityCase {
	tc := identityCase{passwd: r.passwd(), group: r.group(), ask: &runtimeapi.LinuxContainerSecurityContext{}}
	switch r.IntN(4) {
	case 0:
		tc.user = r.name()
	case 1:
		tc.user = r.id()
	case 2:
		tc.user = r.of(r.name(), r.id()) + ":" + r.of(r.name(), r.id())
	}
	switch r.IntN(5) {
	case 0, 1:
		tc.ask.RunAsUser = number(int64(r.IntN(3) * 1000))
	case 2:
		tc.ask.RunAsUsername = r.of(r.name(), r.id())
	case 3:
		tc.kubelet = true
	}
	if (tc.ask.RunAsUser != nil || tc.ask.RunAsUsername != "") && r.IntN(2) == 0 {
		tc.ask.RunAsGroup = number(int64(r.IntN(4) * 1000))
	}
	for range r.IntN(3) {
		tc.ask.SupplementalGroups = append(tc.ask.SupplementalGroups, []int64{0, 5, 7, 1000, 2000, 3000}[r.IntN(6)])
	}
	if r.IntN(2) == 0 {
		tc.ask.SupplementalGroupsPolicy = strict
	}
	return tc
}

// checkIdentity runs a case; it returns false if the container was refused.
func (p *pod) checkIdentity(tc identityCase) bool {
	p.t.Helper()
	image := p.identityImage(tc)
	reported := p.imageStatus(p.t, image)
	if tc.kubelet {
		tc.ask.RunAsUser, tc.ask.RunAsUsername = reported.Uid, reported.Username
		if reported.Uid == nil && reported.Username == "" {
			tc.ask.RunAsUser = number(0)
		}
	}
	p.t.Cleanup(func() {
		if p.t.Failed() {
			p.t.Logf("USER %q reported as uid %v, name %q; asked for %v\n/etc/passwd: %.2000q\n/etc/group: %.2000q", tc.user, reported.Uid, reported.Username, tc.ask, tc.passwd, tc.group)
		}
	})
	cfg := p.ctrConfig("identity", "exec sleep 600", func(cfg *runtimeapi.ContainerConfig) { cfg.Image.Image = image })
	tc.ask.NamespaceOptions, cfg.Linux.SecurityContext = cfg.Linux.SecurityContext.NamespaceOptions, tc.ask
	id, err := p.tryCreate(cfg)
	if tc.refused != nil && *tc.refused != (err != nil) {
		p.t.Errorf("CreateContainer: %v; want an error: %v", err, *tc.refused)
	}
	if err != nil {
		if status.Code(err) != codes.InvalidArgument {
			p.t.Errorf("CreateContainer: %v, want InvalidArgument", err)
		}
		return false
	}
	c := &ctr{pod: p, cfg: cfg, id: id}
	defer func() {
		rpc(p.t, p.runtime.RemoveContainer, &runtimeapi.RemoveContainerRequest{ContainerId: id})
	}()
	_, err = try(p.runtime.StartContainer, &runtimeapi.StartContainerRequest{ContainerId: id})
	if err != nil {
		if len(tc.passwd) < longestLine && !strings.Contains(tc.group, beyond64) {
			p.t.Errorf("StartContainer: %v", err)
		}
		return false
	}
	c.compareIdentity(tc, reported)
	return true
}

// identity is the user and groups that a process runs as.
type identity struct {
	UID, GID int64
	Groups   []int64
}

// compareIdentity compares what runs with the container's status, with the
// request, and with what was reported of the image.
func (c *ctr) compareIdentity(tc identityCase, reported *runtimeapi.Image) {
	c.t.Helper()
	got := parseIdentity(c.t, c.run(c.t, "cat", fmt.Sprintf("/proc/%d/status", c.docker.inspect(c.t, c.id).State.Pid)))
	told := c.status().GetUser().GetLinux()
	if diff := cmp.Diff(identity{told.GetUid(), told.GetGid(), told.GetSupplementalGroups()}, got); diff != "" {
		c.t.Errorf("what runs is not what ContainerStatus tells (-told +runs):\n%s", diff)
	}
	r, err := c.exec(longTimeout, "cat", "/proc/self/status")
	if err != nil {
		c.t.Errorf("ExecSync: %v", err)
	} else if diff := cmp.Diff(got, parseIdentity(c.t, string(r.Stdout))); diff != "" {
		c.t.Errorf("an exec is someone else (-container +exec):\n%s", diff)
	}
	wantUID, wantGID, known := tc.wanted(reported)
	if known && got.UID != wantUID || wantGID != nil && got.GID != wantGID.Value {
		c.t.Errorf("runs as %d:%d, want %d:%v", got.UID, got.GID, wantUID, wantGID)
	}
	asked := append([]int64{got.GID}, tc.ask.SupplementalGroups...)
	slices.Sort(asked)
	asked = slices.Compact(asked)
	if tc.ask.SupplementalGroupsPolicy == strict && !slices.Equal(asked, got.Groups) {
		c.t.Errorf("groups %v, want %v", got.Groups, asked)
	}
	for _, g := range asked {
		if !slices.Contains(got.Groups, g) {
			c.t.Errorf("groups %v lack %d", got.Groups, g)
		}
	}
}

// wanted returns the identity that must run. known is whether there is only one
// correct uid, by Docker's rules for a well-formed line of /etc/passwd.
func (tc identityCase) wanted(reported *runtimeapi.Image) (uid int64, gid *runtimeapi.Int64Value, known bool) {
	user, group, _ := strings.Cut(tc.user, ":")
	switch {
	case tc.ask.RunAsUser != nil:
		return tc.ask.RunAsUser.Value, tc.ask.RunAsGroup, true
	case tc.ask.RunAsUsername != "":
		user, gid = tc.ask.RunAsUsername, tc.ask.RunAsGroup
	case reported.Uid != nil:
		uid, known = reported.Uid.Value, true
		fallthrough
	default:
		if n, err := strconv.ParseInt(group, 10, 64); err == nil {
			gid = number(n)
		}
	}
	switch n, err := strconv.ParseInt(user, 10, 64); {
	case known:
		return uid, gid, true
	case user == "":
		return 0, gid, true
	case err == nil:
		return n, gid, true
	}
	for line := range strings.Lines(tc.passwd) {
		f := strings.Split(strings.TrimSpace(line), ":")
		if f[0] != user {
			continue
		}
		if len(f) < 4 {
			return 0, gid, false
		}
		n, err := strconv.ParseInt(f[2], 10, 32)
		_, err2 := strconv.ParseInt(f[3], 10, 32)
		return n, gid, err == nil && err2 == nil && n >= 0 && f[3][0] != '-'
	}
	return 0, gid, user == "root"
}

// parseIdentity reads /proc/PID/status.
func parseIdentity(t testing.TB, text string) (id identity) {
	t.Helper()
	fields := map[string][]int64{}
	for line := range strings.Lines(text) {
		name, values, _ := strings.Cut(line, ":")
		if name != "Uid" && name != "Gid" && name != "Groups" {
			continue
		}
		for _, v := range strings.Fields(values) {
			n, err := strconv.ParseInt(v, 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			fields[name] = append(fields[name], n)
		}
		slices.Sort(fields[name])
	}
	if len(slices.Compact(slices.Clone(fields["Uid"]))) != 1 || len(slices.Compact(slices.Clone(fields["Gid"]))) != 1 {
		t.Fatalf("no single uid and gid: %v", fields)
	}
	return identity{fields["Uid"][0], fields["Gid"][0], slices.Compact(fields["Groups"])}
}

// identityImage builds a case's image by committing a container that never
// runs, which allows any text as USER.
func (p *pod) identityImage(tc identityCase) string {
	p.t.Helper()
	var made struct{ ID string }
	p.docker.must(p.t, http.MethodPost, "/containers/create", map[string]any{"Image": p.image, "Cmd": []string{"true"}}, &made)
	defer p.docker.must(p.t, http.MethodDelete, "/containers/"+made.ID, nil, nil)
	files := map[string]string{"etc/passwd": "file:" + tc.passwd, "etc/group": "file:" + tc.group}
	for name, target := range tc.links {
		files[name] = target
	}
	header := http.Header{"Content-Type": {"application/x-tar"}}
	if _, err := p.docker.call(http.MethodPut, "/containers/"+made.ID+"/archive?path=/", header, tarOf(p.t, files)); err != nil {
		p.t.Fatal(err)
	}
	name := fmt.Sprintf("localhost/e2e/identity:%d", podCount.Add(1))
	repo, tag, _ := strings.Cut(name, ":")
	var image struct{ ID string }
	p.docker.must(p.t, http.MethodPost, "/commit?container="+made.ID+"&repo="+url.QueryEscape(repo)+"&tag="+tag, map[string]any{"User": tc.user}, &image)
	p.t.Cleanup(func() { p.docker.removeImage(p.t, image.ID) })
	eventually(p.t, "the image is known", time.Minute, func() bool { return p.imageStatus(p.t, name) != nil })
	return name
}

// tarOf returns an archive of symbolic links, and of files: values that begin
// with "file:".
func tarOf(t testing.TB, files map[string]string) io.Reader {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for name, target := range files {
		h := &tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777}
		content, isFile := strings.CutPrefix(target, "file:")
		if isFile {
			h = &tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(len(content)), Mode: 0o644}
		} else {
			content = ""
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return &b
}
