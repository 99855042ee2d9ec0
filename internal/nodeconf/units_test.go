package nodeconf

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestServiceCommand(t *testing.T) {
	for name, tt := range map[string]struct {
		files map[string]string
		want  []string
	}{
		"continued lines": {map[string]string{
			"/lib/systemd/system/kubelet.service": "[Service]\nExecStart=/usr/bin/kubelet \\\n  --one \\\n# a comment\n; another\n  --two\nRestart=always\n",
		}, []string{"/usr/bin/kubelet", "--one", "--two"}},
		"several variables in one line": {map[string]string{
			"/lib/systemd/system/kubelet.service": "[Service]\nEnvironment=\"A=--one --two\" B=--three 'C=--four=x y' \\\n  D=5\nExecStart=/usr/bin/kubelet $A $B ${C} --d=${D} $NONE\n",
		}, []string{"/usr/bin/kubelet", "--one", "--two", "--three", "--four=x y", "--d=5"}},
		"other sections": {map[string]string{
			"/lib/systemd/system/kubelet.service": "[Unit]\nExecStart=/bin/wrong\n[Service]\nExecStart=/usr/bin/kubelet\n[Install]\nExecStart=/bin/wrong\n",
		}, []string{"/usr/bin/kubelet"}},
		"drop-ins": {map[string]string{
			"/lib/systemd/system/kubelet.service":                     "[Service]\nEnvironment=A=old\nEnvironment=B=kept\nExecStart=/usr/bin/kubelet\n",
			"/usr/lib/systemd/system/kubelet.service.d/10-first.conf": "[Service]\nExecStart=\nExecStart=/bin/hidden\n",
			"/etc/systemd/system/kubelet.service.d/10-first.conf":     "[Service]\nEnvironment=\nEnvironment=A=new\n",
			"/run/systemd/system/kubelet.service.d/20-second.conf":    "[Service]\nExecStart=\nExecStart=/opt/kubelet ${A} x${B}\n",
		}, []string{"/opt/kubelet", "new", "x"}},
		"environment files": {map[string]string{
			"/lib/systemd/system/kubelet.service": "[Service]\nEnvironment=A=unit\nEnvironmentFile=-/etc/default/kubelet\nEnvironmentFile=-/etc/default/missing\nExecStart=/usr/bin/kubelet $A $B\n",
			"/etc/default/kubelet":                "# comment\nA=\"--one \\\n  --two\"\nB = --three --four\n",
		}, []string{"/usr/bin/kubelet", "--one", "--two", "--three", "--four"}},
	} {
		t.Run(name, func(t *testing.T) {
			r := Root(t.TempDir())
			for path, content := range tt.files {
				if err := errors.Join(os.MkdirAll(filepath.Dir(r.Path(path)), 0o755), os.WriteFile(r.Path(path), []byte(content), 0o600)); err != nil {
					t.Fatal(err)
				}
			}
			u, err := r.ReadUnit("kubelet.service")
			if err != nil {
				t.Fatal(err)
			}
			got, err := r.ServiceCommand(u)
			if diff := cmp.Diff(tt.want, got); diff != "" || err != nil {
				t.Errorf("%v (-want +got):\n%s", err, diff)
			}
		})
	}
}
