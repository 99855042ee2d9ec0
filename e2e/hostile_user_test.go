package e2e

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

var userAttacks = []attack{
	{"a user or group named as a number", numericNames},
	{"numbers that are none, or too large", oddUsers},
	{"account files that lead out of the image", accountsElsewhere},
}

// ran is the user that a container has run as, and the user that cridock
// reports.
type ran struct {
	uid, gid int64
	groups   []int64
	status   *runtimeapi.LinuxContainerUser
}

// whoRuns runs a container; an error means that it was refused.
func (p *pod) whoRuns(image string, security func(*runtimeapi.LinuxContainerSecurityContext)) (*ran, error) {
	p.t.Helper()
	c := &ctr{pod: p, cfg: p.ctrConfig(fmt.Sprintf("who-%d", podCount.Add(1)), "id -u 2>/dev/null; id -g 2>/dev/null; id -G 2>/dev/null", ofImage(image))}
	if security != nil {
		security(c.cfg.Linux.SecurityContext)
	}
	r, err := inTime(p.t, p.runtime.CreateContainer, &runtimeapi.CreateContainerRequest{PodSandboxId: p.id, Config: c.cfg, SandboxConfig: p.cfg})
	if err != nil {
		if code := status.Code(err); code == codes.Unavailable || code == codes.NotFound {
			p.t.Errorf("not refused but failed: %v", err)
		}
		return nil, err
	}
	c.id = r.ContainerId
	if _, err := inTime(p.t, p.runtime.StartContainer, &runtimeapi.StartContainerRequest{ContainerId: c.id}); err != nil {
		return nil, err
	}
	s := c.exited()
	out := strings.Split(strings.TrimSpace(c.logText()), "\n")
	if s.ExitCode != 0 || len(out) != 3 {
		p.t.Fatalf("exit code %d, output %q", s.ExitCode, out)
	}
	who := &ran{uid: numbers(p.t, out[0])[0], gid: numbers(p.t, out[1])[0], groups: numbers(p.t, out[2]), status: s.GetUser().GetLinux()}
	if who.status.GetUid() != who.uid || who.status.GetGid() != who.gid || !slices.Equal(who.groups, sorted(who.status.GetSupplementalGroups())) {
		p.t.Errorf("it runs as %v, and its status says %v", *who, who.status)
	}
	return who, nil
}

func numbers(t *testing.T, text string) (all []int64) {
	t.Helper()
	for field := range strings.FieldsSeq(text) {
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, n)
	}
	return sorted(all)
}

func sorted(ids []int64) []int64 { return slices.Compact(slices.Sorted(slices.Values(ids))) }

// numericNames has accounts named like numbers. Docker looks for names first
// and takes them for root's.
func numericNames(t *testing.T, p *pod) {
	accounts := []entry{
		regular("etc/passwd", 0o644, "root:x:0:0::/:/bin/sh\n1000:x:0:0::/:/bin/sh\n"), regular("etc/group", 0o644, "root:x:0:\n1000:x:0:\n"),
	}
	plain := p.load(t, "numeric", nil, accounts...)
	user := p.load(t, "numeric-user", imageConfig{"User": "1000"}, accounts...)
	userGroup := p.load(t, "numeric-user-group", imageConfig{"User": "1000:1000"}, accounts...)
	id := func(n int64) *runtimeapi.Int64Value { return &runtimeapi.Int64Value{Value: n} }
	strict := runtimeapi.SupplementalGroupsPolicy_Strict
	for name, tc := range map[string]struct {
		image    string
		security func(*runtimeapi.LinuxContainerSecurityContext)
		group    int64 // required group; -1 allows any but root's, unless that was requested
	}{
		"runAsUser": {plain, func(s *runtimeapi.LinuxContainerSecurityContext) { s.RunAsUser = id(1000) }, 0},
		"runAsUser, Strict": {plain, func(s *runtimeapi.LinuxContainerSecurityContext) {
			s.RunAsUser, s.SupplementalGroupsPolicy = id(1000), strict
		}, 0},
		"runAsGroup":            {plain, func(s *runtimeapi.LinuxContainerSecurityContext) { s.RunAsUser, s.RunAsGroup = id(1000), id(1000) }, 1000},
		"runAsGroup of another": {plain, func(s *runtimeapi.LinuxContainerSecurityContext) { s.RunAsUser, s.RunAsGroup = id(2000), id(1000) }, 1000},
		"runAsGroup, Strict": {plain, func(s *runtimeapi.LinuxContainerSecurityContext) {
			s.RunAsUser, s.RunAsGroup, s.SupplementalGroupsPolicy = id(1000), id(1000), strict
		}, 1000},
		"supplemental group": {plain, func(s *runtimeapi.LinuxContainerSecurityContext) {
			s.RunAsUser, s.RunAsGroup, s.SupplementalGroups = id(2000), id(2000), []int64{1000}
		}, 2000},
		"USER 1000":         {user, nil, 0},
		"USER 1000, Strict": {user, func(s *runtimeapi.LinuxContainerSecurityContext) { s.SupplementalGroupsPolicy = strict }, 0},
		"USER 1000:1000":    {userGroup, nil, 1000},
	} {
		t.Run(name, func(t *testing.T) {
			who, err := p.in(t).whoRuns(tc.image, tc.security)
			if err != nil {
				t.Logf("refused: %v", err)
				return
			}
			asked := int64(1000)
			if strings.Contains(name, "another") || strings.Contains(name, "supplemental") {
				asked = 2000
			}
			if who.uid != asked || who.gid != tc.group || tc.group != 0 && slices.Contains(who.groups, 0) {
				t.Errorf("it runs as %d:%d with groups %v; asked for was %d:%d", who.uid, who.gid, who.groups, asked, tc.group)
			}
		})
	}
	t.Run("ordinary accounts", func(t *testing.T) {
		image := p.load(t, "accounts", imageConfig{"User": "1000"},
			regular("etc/passwd", 0o644, "root:x:0:0::/:/bin/sh\napp:x:1000:1001::/:/bin/sh\n"), regular("etc/group", 0o644, "app:x:1001:\nmore:x:1002:app\n"))
		who, err := p.in(t).whoRuns(image, nil)
		if err != nil || who.uid != 1000 || who.gid != 1001 || !slices.Equal(who.groups, []int64{1001, 1002}) {
			t.Errorf("%v, %v", who, err)
		}
	})
}

// oddUsers checks that the container runs as the user that ImageStatus reports,
// which the kubelet's runAsNonRoot relies on, or not at all.
func oddUsers(t *testing.T, p *pod) {
	for i, user := range []string{"-1", "4294967296", "2147483648", "0:-5", "4294967295:4294967295", "1000:4294967296", "+0", "-0", "007", "0x0"} {
		image := p.load(t, fmt.Sprint("odd-user-", i), imageConfig{"User": user})
		said := p.imageStatus(t, image)
		who, err := p.whoRuns(image, nil)
		if err != nil {
			continue
		}
		// The kubelet treats an image with neither as root's, and one with a name as
		// possibly root's.
		if said.GetUsername() == "" && said.GetUid().GetValue() != who.uid || said.GetUsername() != "" && said.GetUid() != nil {
			t.Errorf("USER %s runs as %d; the image's status says %v, %q", user, who.uid, said.GetUid(), said.GetUsername())
		}
	}
	image := p.load(t, "plain-user", imageConfig{"User": "7:8"})
	if who, err := p.whoRuns(image, nil); err != nil || who.uid != 7 || who.gid != 8 {
		t.Errorf("USER 7:8: %v, %v", who, err)
	}
}

// accountsElsewhere has account files that lead elsewhere. Their target exists
// on the node: the user victim.
func accountsElsewhere(t *testing.T, p *pod) {
	const passwd, group = "victim:x:4242:4242::/:/bin/sh\n", "victims:x:4242:victim\n"
	dir := t.TempDir()
	p.run(t, "sh", "-c", "printf '%s' '"+passwd+"' >"+dir+"/passwd; printf '%s' '"+group+"' >"+dir+"/group")
	const up = "../../../../../../../../../../../../../../../.."
	files := map[string][]entry{
		"link to the host":  {symlink("etc/passwd", dir+"/passwd"), symlink("etc/group", dir+"/group")},
		"way out":           {symlink("etc/passwd", up+dir+"/passwd"), symlink("etc/group", up+dir+"/group")},
		"link to a link":    {symlink("srv/out", up+dir), symlink("etc/passwd", "/srv/out/passwd"), symlink("etc/group", "/srv/out/group")},
		"loop":              {symlink("etc/passwd", "group"), symlink("etc/group", "passwd")},
		"of a process":      {symlink("etc/passwd", "/proc/self/environ"), symlink("etc/group", "/proc/1/root"+dir+"/group")},
		"FIFO":              {fifo("etc/passwd"), fifo("etc/group")},
		"device":            {device("etc/passwd", 1, 5), device("etc/group", 1, 5)},
		"link in the image": {regular("srv/passwd", 0o644, passwd), regular("srv/group", 0o644, group), symlink("etc/passwd", "/srv/passwd"), symlink("etc/group", "../srv/group")},
	}
	for name, entries := range files {
		t.Run(name, func(t *testing.T) {
			p, slug := p.in(t), strings.ReplaceAll(strings.ToLower(name), " ", "-")
			byName := p.load(t, "accounts-"+slug, imageConfig{"User": "victim"}, entries...)
			byGroup := p.load(t, "accounts-group-"+slug, imageConfig{"User": "1000:victims"}, entries...)
			who, err := p.whoRuns(byName, nil)
			ofGroup, groupErr := p.whoRuns(byGroup, nil)
			if name == "link in the image" { // the others would be refused whatever they contain
				if err != nil || groupErr != nil || who.uid != 4242 || ofGroup.gid != 4242 {
					t.Errorf("a file in the image is not found: %v, %v, %v, %v", who, err, ofGroup, groupErr)
				}
				return
			}
			if err == nil || groupErr == nil {
				t.Errorf("accounts of the node are taken for the image's: %v, %v", who, ofGroup)
			}
			byNumber, err := p.whoRuns(byName, func(s *runtimeapi.LinuxContainerSecurityContext) { s.RunAsUser = &runtimeapi.Int64Value{Value: 4242} })
			if err == nil && (byNumber.uid != 4242 || slices.Contains(byNumber.groups, 4242)) {
				t.Errorf("by number it runs as %v", *byNumber)
			}
			// Even if cridock has nothing to look up, Docker reads the files.
			byNumber, err = p.whoRuns(byName, func(s *runtimeapi.LinuxContainerSecurityContext) {
				s.RunAsUser, s.RunAsGroup = &runtimeapi.Int64Value{Value: 4242}, &runtimeapi.Int64Value{Value: 4243}
				s.SupplementalGroupsPolicy = runtimeapi.SupplementalGroupsPolicy_Strict
			})
			if err == nil && (byNumber.uid != 4242 || byNumber.gid != 4243) {
				t.Errorf("by numbers it runs as %v", *byNumber)
			}
		})
	}
}
