package mountinfo

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParse(t *testing.T) {
	for name, tt := range map[string]struct {
		line string
		want Mount
		ok   bool
	}{
		"no optional field":   {"21 1 0:1 / / rw - ext4 /dev/sda rw,relatime\n", Mount{Device: "0:1", Root: "/", Point: "/", FSType: "ext4", SuperOptions: "rw,relatime"}, true},
		"two optional fields": {"36 35 98:0 /sub /mnt rw shared:1 master:2 - tmpfs none rw\n", Mount{Device: "98:0", Root: "/sub", Point: "/mnt", FSType: "tmpfs", SuperOptions: "rw"}, true},
		"escapes":             {`36 35 98:0 /a\040b /c\134d\011e\012f rw - overlay overlay rw,upperdir=/x\054y` + "\n", Mount{Device: "98:0", Root: "/a b", Point: "/c\\d\te\nf", FSType: "overlay", SuperOptions: `rw,upperdir=/x\054y`}, true},
		"no separator":        {"36 35 98:0 / /mnt rw shared:1 ext4 /dev/sda rw\n", Mount{}, false},
		"cut off":             {"36 35 98:0 / /mnt rw - ext4\n", Mount{}, false},
		"empty":               {"", Mount{}, false},
	} {
		t.Run(name, func(t *testing.T) {
			got, ok := Parse(tt.line)
			if diff := cmp.Diff(tt.want, got); diff != "" || ok != tt.ok {
				t.Errorf("%v (-want +got):\n%s", ok, diff)
			}
		})
	}
}
