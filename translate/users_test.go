package translate

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const (
	testPasswd = `root:x:0:0:root:/root:/bin/sh
# a comment
+@nis::::::
broken
nobody:x:none:none::/:/bin/false
app:x:1000:1001:App:/home/app:/bin/sh
1234:x:50:51::/:/bin/sh
`
	testGroup = `root:x:0:root
wheel:x:10:root,app
app:x:1001:
audio:x:29:other,app
staff:x:50:
`
)

func TestResolveUser(t *testing.T) {
	id := func(n int64) *runtimeapi.Int64Value { return &runtimeapi.Int64Value{Value: n} }
	strict := runtimeapi.SupplementalGroupsPolicy_Strict
	type sc = runtimeapi.LinuxContainerSecurityContext
	for name, tc := range map[string]struct {
		sc      *sc
		image   string
		noFiles bool
		want    User
		err     bool
	}{
		"nobody asked for anyone: root with the groups that list it": {
			want: User{Docker: "0:0", GroupAdd: []string{"0", "10"}, Groups: []int64{0, 10}}},
		"the image's user counts when the request names none": {image: "app",
			want: User{Docker: "1000:1001", GroupAdd: []string{"10", "29"}, UID: 1000, GID: 1001, Groups: []int64{10, 29, 1001}}},
		"the image's group may be a name": {image: "app:staff", sc: &sc{SupplementalGroupsPolicy: strict},
			want: User{Docker: "1000:50", UID: 1000, GID: 50, Groups: []int64{50}}},
		"the request's user goes before the image's, and the image's group with it": {image: "app:staff", sc: &sc{RunAsUser: id(7)},
			want: User{Docker: "7:0", UID: 7, Groups: []int64{0}}},
		"merge adds memberships even with an explicit group": {sc: &sc{RunAsUser: id(1000), RunAsGroup: id(3), SupplementalGroups: []int64{99, 29}},
			want: User{Docker: "1000:3", GroupAdd: []string{"10", "29", "99"}, UID: 1000, GID: 3, Groups: []int64{3, 10, 29, 99}}},
		"strict takes the primary group from passwd and no membership": {sc: &sc{RunAsUsername: "app", SupplementalGroups: []int64{99}, SupplementalGroupsPolicy: strict},
			want: User{Docker: "1000:1001", GroupAdd: []string{"99"}, UID: 1000, GID: 1001, Groups: []int64{99, 1001}}},
		"a number without an account has group 0": {sc: &sc{RunAsUser: id(4242)},
			want: User{Docker: "4242:0", UID: 4242, Groups: []int64{0}}},
		"a number is never the name of an account": {sc: &sc{RunAsUsername: "1234"},
			want: User{Docker: "1234:0", UID: 1234, Groups: []int64{0}}},
		"root exists without files": {image: "root:root", noFiles: true,
			want: User{Docker: "0:0", Groups: []int64{0}}},
		"an unknown user name is refused":     {sc: &sc{RunAsUsername: "ghost"}, err: true},
		"an unknown image group is refused":   {image: "app:ghosts", err: true},
		"a user name without files":           {image: "app", noFiles: true, err: true},
		"a group without a user is refused":   {sc: &sc{RunAsGroup: id(1)}, err: true},
		"user and username together":          {sc: &sc{RunAsUser: id(1), RunAsUsername: "app"}, err: true},
		"a negative user":                     {sc: &sc{RunAsUser: id(-1)}, err: true},
		"a user beyond 31 bits":               {sc: &sc{RunAsUser: id(1 << 31)}, err: true},
		"a negative supplementary group":      {sc: &sc{SupplementalGroups: []int64{-5}}, err: true},
		"a user name with a colon":            {sc: &sc{RunAsUsername: "app:0"}, err: true},
		"a policy that does not exist":        {sc: &sc{SupplementalGroupsPolicy: 7}, err: true},
		"a user of the broken line":           {sc: &sc{RunAsUsername: "nobody"}, err: true},
		"a user name like a comment's prefix": {sc: &sc{RunAsUsername: "# a comment"}, err: true},
	} {
		t.Run(name, func(t *testing.T) {
			passwd, group := []byte(testPasswd), []byte(testGroup)
			if tc.noFiles {
				passwd, group = nil, nil
			}
			got, err := ResolveUser(tc.sc, tc.image, passwd, group)
			if tc.err {
				if !errdefs.IsInvalidArgument(err) {
					t.Fatalf("got %+v, %v; want ErrInvalidArgument", got, err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestResolveUserKeepsTheRequest(t *testing.T) {
	sc := &runtimeapi.LinuxContainerSecurityContext{SupplementalGroups: append(make([]int64, 0, 9), 9, 3)}
	if _, err := ResolveUser(sc, "app", []byte(testPasswd), []byte(testGroup)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]int64{9, 3}, sc.SupplementalGroups); diff != "" {
		t.Errorf("the request changed: %s", diff)
	}
}

// TestNumbersAreNotNames has an image whose accounts and groups have numbers as
// names, and tries every form of USER. The process runs as the user reported for
// USER.
func TestNumbersAreNotNames(t *testing.T) {
	passwd := []byte("root:x:0:0::/:/bin/sh\n1000:x:0:0::/:/bin/sh\n+7:x:0:0::/:/bin/sh\n0x10:x:16:17::/:/bin/sh\n:x:55:56::/:/bin/sh\n" +
		"2147483648:x:0:0::/:/bin/sh\n99999999999999999999:x:0:0::/:/bin/sh\n-5:x:0:0::/:/bin/sh\n 5:x:0:0::/:/bin/sh\n6 :x:0:0::/:/bin/sh\n" +
		"nul\x00:x:0:0::/:/bin/sh\nmember:x:1000:77::/:/bin/sh\n")
	group := []byte("3000:x:0:\r\n400:x:400:\r\n90:x:90:1000\r\n91:x:91:member\r\nstaff:x:3001:\n4294967296:x:0:\n")
	for _, tc := range []struct {
		user     string
		uid, gid int64
		name     string // what is reported if it is not the uid
		err      bool
	}{
		{user: "", uid: 0, gid: 0, name: "none"},
		{user: ":3001", uid: 0, gid: 3001, name: "none"},
		{user: "1000", uid: 1000, gid: 77},
		{user: "1000:1000", uid: 1000, gid: 1000},
		{user: "001000", uid: 1000, gid: 77},
		{user: "+1000", uid: 1000, gid: 77},
		{user: "+7", uid: 7},
		{user: "55", uid: 55, gid: 56},
		{user: "00", uid: 0},
		{user: "-0", uid: 0},
		{user: "+0", uid: 0},
		{user: "0x0", name: "0x0", err: true},
		{user: "0x10", uid: 16, gid: 17, name: "0x10"},
		{user: "1_000", name: "1_000", err: true},
		{user: "5:staff", uid: 5, gid: 3001},
		{user: "5:+3001", uid: 5, gid: 3001},
		{user: "5:400", uid: 5, gid: 400},
		{user: "5:3000", uid: 5, err: true}, // Docker would add group 0
		{user: "5:4294967296", uid: 5, err: true},
		{user: "5:0:0", uid: 5, err: true},
		{user: "5:nobody", uid: 5, err: true},
		{user: " 5", name: " 5", err: true},
		{user: "6 ", name: "6 ", err: true},
		{user: "-5", name: "-5", err: true},
		{user: "2147483647", uid: maxID},
		{user: "2147483648", name: "2147483648", err: true},
		{user: "4294967296", name: "4294967296", err: true},
		{user: "99999999999999999999", name: "99999999999999999999", err: true},
		{user: "nul\x00", name: "nul\x00", err: true},
		{user: "member", uid: 1000, gid: 77, name: "member"},
	} {
		t.Run(tc.user, func(t *testing.T) {
			image := CRIImage(Image{User: tc.user}, false)
			reported := image.Username
			if image.Uid == nil && reported == "" {
				reported = "none"
			}
			if reported != tc.name || image.Uid != nil && image.Uid.Value != tc.uid {
				t.Errorf("reported as uid %v, name %q", image.Uid, image.Username)
			}
			checkNumber(t, nil, tc.user, passwd, group, tc.uid, tc.gid, tc.err)
			if user, _, isPair := strings.Cut(tc.user, ":"); !isPair && user != "" {
				sc := &runtimeapi.LinuxContainerSecurityContext{RunAsUsername: user}
				checkNumber(t, sc, "1000", passwd, group, tc.uid, tc.gid, tc.err)
			}
			if image.Uid != nil {
				sc := &runtimeapi.LinuxContainerSecurityContext{RunAsUser: image.Uid, RunAsGroup: &runtimeapi.Int64Value{Value: 9}}
				checkNumber(t, sc, "1000", passwd, group, tc.uid, 9, false)
			}
		})
	}
}

// checkNumber resolves with both policies.
func checkNumber(t *testing.T, sc *runtimeapi.LinuxContainerSecurityContext, image string, passwd, group []byte, uid, gid int64, wantErr bool) {
	t.Helper()
	for _, policy := range []runtimeapi.SupplementalGroupsPolicy{runtimeapi.SupplementalGroupsPolicy_Merge, runtimeapi.SupplementalGroupsPolicy_Strict} {
		asked := &runtimeapi.LinuxContainerSecurityContext{
			RunAsUser: sc.GetRunAsUser(), RunAsUsername: sc.GetRunAsUsername(), RunAsGroup: sc.GetRunAsGroup(), SupplementalGroupsPolicy: policy,
		}
		got, err := ResolveUser(asked, image, passwd, group)
		if wantErr {
			if !errdefs.IsInvalidArgument(err) {
				t.Errorf("%v of USER %q: got %+v, %v; want ErrInvalidArgument", asked, image, got, err)
			}
			continue
		}
		want := User{Docker: fmt.Sprintf("%d:%d", uid, gid), UID: uid, GID: gid, Groups: []int64{gid}}
		if uid == 1000 && policy == runtimeapi.SupplementalGroupsPolicy_Merge {
			want.GroupAdd, want.Groups = []string{"91"}, append(want.Groups, 91) // member's; not "1000"'s, who has uid 0
			slices.Sort(want.Groups)
		}
		if err != nil {
			t.Errorf("%v of USER %q: %v", asked, image, err)
		} else if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%v of USER %q (-want +got):\n%s", asked, image, diff)
		}
	}
}

// TestGroupsDockerWouldMistake: Docker looks the numbers of groups up by name.
func TestGroupsDockerWouldMistake(t *testing.T) {
	for name, tc := range map[string]struct {
		line string
		err  bool
	}{
		"another number":                 {line: "2000:x:0:", err: true},
		"another number, other end":      {line: "\t2000:x:0:\r", err: true},
		"no number, which is 0":          {line: "2000:x:zero:", err: true},
		"no fields, which is 0":          {line: "2000", err: true},
		"out of range":                   {line: "2000:x:4294969296:", err: true},
		"the same number":                {line: "2000:x:2000:"},
		"the same number, spelled out":   {line: "2000:x:02000:"},
		"another spelling is not a name": {line: "02000:x:0:"},
		"a comment":                      {line: "#2000:x:0:"},
		"not asked for":                  {line: "2001:x:0:"},
	} {
		t.Run(name, func(t *testing.T) {
			two := &runtimeapi.Int64Value{Value: 2000}
			for _, sc := range []*runtimeapi.LinuxContainerSecurityContext{
				{SupplementalGroups: []int64{2000}}, {RunAsUser: two, RunAsGroup: two},
				{SupplementalGroups: []int64{2000}, SupplementalGroupsPolicy: runtimeapi.SupplementalGroupsPolicy_Strict},
			} {
				got, err := ResolveUser(sc, "", nil, []byte("root:x:0:\n"+tc.line+"\nother:x:2000:\n"))
				if (err != nil) != tc.err || err != nil && !errdefs.IsInvalidArgument(err) {
					t.Errorf("%v: got %+v, %v", sc, got, err)
				}
			}
		})
	}
}

// TestManyGroups: no more groups than Linux allows, nor than Docker can look up in
// the image's file in reasonable time.
func TestManyGroups(t *testing.T) {
	for name, tc := range map[string]struct {
		asked, members, lines int
		err                   bool
	}{
		"as many as Linux takes":     {asked: maxGroups - 1},
		"one more":                   {asked: maxGroups, err: true},
		"many lines, few groups":     {asked: 20, members: 2, lines: 100_000},
		"many lines, many groups":    {asked: 1000, lines: 100_000, err: true},
		"a member of a great many":   {members: 3000, err: true},
		"a member of many":           {members: 2000},
		"as many as Linux, by lines": {asked: 30_000, members: 40_000, err: true},
	} {
		t.Run(name, func(t *testing.T) {
			sc := &runtimeapi.LinuxContainerSecurityContext{}
			for i := range tc.asked {
				sc.SupplementalGroups = append(sc.SupplementalGroups, int64(i+1))
			}
			var group strings.Builder
			for i := range tc.members {
				fmt.Fprintf(&group, "g:x:%d:root\n", 1_000_000+i)
			}
			group.WriteString(strings.Repeat("g:x:5:\n", tc.lines))
			got, err := ResolveUser(sc, "root", nil, []byte(group.String()))
			if (err != nil) != tc.err || err != nil && !errdefs.IsInvalidArgument(err) {
				t.Fatalf("%d groups, %v", len(got.Groups), err)
			}
			if err == nil && len(got.Groups) != 1+tc.asked+tc.members {
				t.Errorf("%d groups", len(got.Groups))
			}
		})
	}
}

// TestGroupZeroOutOfRange: a number out of range is not 0 to Docker, which would
// fail to start the container.
func TestGroupZeroOutOfRange(t *testing.T) {
	for _, gid := range []string{"99999999999999999999", "4294967296", "-1"} {
		got, err := ResolveUser(nil, "0:0", nil, []byte("0:x:"+gid+":\n"))
		if !errdefs.IsInvalidArgument(err) {
			t.Errorf("gid %s: got %+v, %v", gid, got, err)
		}
	}
}
