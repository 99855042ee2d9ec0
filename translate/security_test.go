package translate

import (
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestSecurityOpt(t *testing.T) {
	all := Host{Seccomp: true, SeccompBuiltin: true, AppArmor: true, SELinux: true}
	old := Host{Seccomp: true}
	profile := func(kind runtimeapi.SecurityProfile_ProfileType, ref string) *runtimeapi.SecurityProfile {
		return &runtimeapi.SecurityProfile{ProfileType: kind, LocalhostRef: ref}
	}
	const (
		def  = runtimeapi.SecurityProfile_RuntimeDefault
		none = runtimeapi.SecurityProfile_Unconfined
		file = runtimeapi.SecurityProfile_Localhost
	)
	json := []byte(`{"defaultAction":"SCMP_ACT_ALLOW"}`)
	for name, tc := range map[string]struct {
		in      confinement
		host    Host
		want    []string
		refused func(error) bool
	}{
		"no profile asked for is unconfined": {host: all,
			want: []string{"no-new-privileges=false", "seccomp=unconfined"}},
		"no new privileges is said both ways": {in: confinement{noNewPrivileges: true}, host: all,
			want: []string{"no-new-privileges=true", "seccomp=unconfined"}},
		"RuntimeDefault is Docker's own profile": {in: confinement{seccomp: profile(def, "")}, host: all,
			want: []string{"no-new-privileges=false", "seccomp=builtin"}},
		"RuntimeDefault without the word builtin is the daemon's": {in: confinement{seccomp: profile(def, "")}, host: old,
			want: []string{"no-new-privileges=false"}},
		"RuntimeDefault is the engine's profile where its operator has one": {in: confinement{seccomp: profile(def, "")},
			host: Host{Seccomp: true, SeccompBuiltin: true, SeccompCustom: true}, want: []string{"no-new-privileges=false"}},
		"RuntimeDefault is the file of the settings": {in: confinement{seccomp: profile(def, ""), seccompProfile: json}, host: all,
			want: []string{"no-new-privileges=false", "seccomp=" + string(json)}},
		"a broken file of the settings fails closed": {in: confinement{seccomp: profile(def, ""), seccompProfile: []byte("{")}, host: all, refused: errdefs.IsFailedPrecondition},
		"Localhost passes the file through": {in: confinement{seccomp: profile(file, "/p.json"), seccompProfile: json}, host: all,
			want: []string{"no-new-privileges=false", "seccomp=" + string(json)}},
		"the deprecated seccomp path counts without the new field": {in: confinement{seccompPath: "localhost//p.json", seccompProfile: json}, host: all,
			want: []string{"no-new-privileges=false", "seccomp=" + string(json)}},
		"the new seccomp field goes before the deprecated one": {in: confinement{seccomp: profile(none, ""), seccompPath: "runtime/default"}, host: all,
			want: []string{"no-new-privileges=false", "seccomp=unconfined"}},
		"privileged has no seccomp": {in: confinement{privileged: true, seccomp: profile(def, "")}, host: all,
			want: []string{"no-new-privileges=false", "seccomp=unconfined"}},
		"a missing seccomp file fails closed": {in: confinement{seccomp: profile(file, "/p.json")}, host: all, refused: errdefs.IsInvalidArgument},
		"a seccomp profile without seccomp":   {in: confinement{seccomp: profile(def, "")}, refused: errdefs.IsFailedPrecondition},
		"an unknown seccomp path":             {in: confinement{seccompPath: "other"}, host: all, refused: errdefs.IsInvalidArgument},
		"AppArmor localhost drops the prefix": {in: confinement{apparmor: profile(file, "localhost/web")}, host: all,
			want: []string{"no-new-privileges=false", "seccomp=unconfined", "apparmor=web"}},
		"AppArmor unconfined": {in: confinement{apparmor: profile(none, "")}, host: all,
			want: []string{"no-new-privileges=false", "seccomp=unconfined", "apparmor=unconfined"}},
		"AppArmor by the deprecated field": {in: confinement{apparmorProfile: "localhost/web"}, host: all,
			want: []string{"no-new-privileges=false", "seccomp=unconfined", "apparmor=web"}},
		"AppArmor's default needs no AppArmor": {in: confinement{apparmorProfile: "runtime/default"}, host: old,
			want: []string{"no-new-privileges=false", "seccomp=unconfined"}},
		"an AppArmor profile without AppArmor": {in: confinement{apparmor: profile(file, "web")}, host: old, refused: errdefs.IsFailedPrecondition},
		"an unknown AppArmor profile form":     {in: confinement{apparmorProfile: "web"}, host: all, refused: errdefs.IsInvalidArgument},
		"only the SELinux parts given are sent": {in: confinement{selinux: &runtimeapi.SELinuxOption{Type: "t", Level: "s0:c1,c2"}}, host: all,
			want: []string{"no-new-privileges=false", "label=type:t", "label=level:s0:c1,c2", "seccomp=unconfined"}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := securityOpt(tc.in, tc.host)
			if tc.refused != nil {
				if !tc.refused(err) {
					t.Fatalf("got %v, %v", got, err)
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

func TestProfilesTheCallerLooksUp(t *testing.T) {
	local := &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: "/a/../p.json"}
	if got, err := SeccompProfilePath(local, "", "/default.json"); err != nil || got != "/p.json" {
		t.Errorf("seccomp: %q, %v", got, err)
	}
	if got, err := SeccompProfilePath(nil, "localhost//x", "/default.json"); err != nil || got != "/x" {
		t.Errorf("deprecated seccomp: %q, %v", got, err)
	}
	if got, err := SeccompProfilePath(nil, "localhost/x", "/default.json"); !errdefs.IsInvalidArgument(err) {
		t.Errorf("relative seccomp: %q, %v", got, err)
	}
	if got, err := SeccompProfilePath(nil, "runtime/default", "/default.json"); err != nil || got != "/default.json" {
		t.Errorf("the default profile's file: %q, %v", got, err)
	}
	if got, err := SeccompProfilePath(nil, "", "/default.json"); err != nil || got != "" {
		t.Errorf("no seccomp: %q, %v", got, err)
	}
	if got, err := AppArmorProfile(nil, "localhost/web"); err != nil || got != "web" {
		t.Errorf("AppArmor: %q, %v", got, err)
	}
	if got, err := AppArmorProfile(nil, "unconfined"); err != nil || got != "" {
		t.Errorf("AppArmor unconfined: %q, %v", got, err)
	}
}

func TestCapabilities(t *testing.T) {
	for name, tc := range map[string]struct {
		add, drop         []string
		privileged        bool
		wantAdd, wantDrop []string
	}{
		"names are written as Docker does":      {add: []string{"net_admin", "CAP_SYS_TIME"}, wantAdd: []string{"CAP_NET_ADMIN", "CAP_SYS_TIME"}},
		"dropping wins over adding":             {add: []string{"MKNOD", "CHOWN"}, drop: []string{"CAP_MKNOD"}, wantAdd: []string{"CAP_CHOWN"}, wantDrop: []string{"CAP_MKNOD"}},
		"dropping ALL wins over adding ALL":     {add: []string{"ALL"}, drop: []string{"ALL"}, wantDrop: []string{"ALL"}},
		"adding to a dropped ALL":               {add: []string{"CHOWN"}, drop: []string{"all"}, wantAdd: []string{"CAP_CHOWN"}, wantDrop: []string{"ALL"}},
		"privileged has all whatever was said":  {privileged: true, drop: []string{"ALL"}},
		"a capability named twice is sent once": {add: []string{"CHOWN", "chown"}, wantAdd: []string{"CAP_CHOWN"}},
	} {
		t.Run(name, func(t *testing.T) {
			add, drop, err := capabilities(&runtimeapi.LinuxContainerSecurityContext{
				Privileged:   tc.privileged,
				Capabilities: &runtimeapi.Capability{AddCapabilities: tc.add, DropCapabilities: tc.drop},
			})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff([][]string{tc.wantAdd, tc.wantDrop}, [][]string{add, drop}); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	t.Run("ambient capabilities are refused", func(t *testing.T) {
		_, _, err := capabilities(&runtimeapi.LinuxContainerSecurityContext{Capabilities: &runtimeapi.Capability{AddAmbientCapabilities: []string{"CHOWN"}}})
		if !errdefs.IsInvalidArgument(err) {
			t.Errorf("got %v", err)
		}
	})
}
