package translate

import (
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
		"a name of digits goes before the number": {sc: &sc{RunAsUsername: "1234"},
			want: User{Docker: "50:51", UID: 50, GID: 51, Groups: []int64{51}}},
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

func TestNeedsPasswd(t *testing.T) {
	strict := runtimeapi.SupplementalGroupsPolicy_Strict
	user, group := &runtimeapi.Int64Value{Value: 1}, &runtimeapi.Int64Value{Value: 2}
	type sc = runtimeapi.LinuxContainerSecurityContext
	for name, tc := range map[string]struct {
		sc    *sc
		image string
		want  bool
	}{
		"nothing said: root's memberships":        {want: true},
		"strict numbers need no file":             {sc: &sc{RunAsUser: user, RunAsGroup: group, SupplementalGroupsPolicy: strict}},
		"strict numbers of the image":             {sc: &sc{SupplementalGroupsPolicy: strict}, image: "1:2"},
		"strict without a group needs the user's": {sc: &sc{RunAsUser: user, SupplementalGroupsPolicy: strict}, want: true},
		"strict with a name":                      {sc: &sc{RunAsUsername: "a", RunAsGroup: group, SupplementalGroupsPolicy: strict}, want: true},
		"merge always looks for memberships":      {sc: &sc{RunAsUser: user, RunAsGroup: group}, want: true},
	} {
		t.Run(name, func(t *testing.T) {
			if got := NeedsPasswd(tc.sc, tc.image); got != tc.want {
				t.Errorf("got %v", got)
			}
		})
	}
}
