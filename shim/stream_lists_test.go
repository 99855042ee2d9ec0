package shim

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestSendChunks(t *testing.T) {
	item := func(size int) *runtimeapi.Image { return &runtimeapi.Image{Id: strings.Repeat("x", size)} }
	repeat := func(n, size int) []*runtimeapi.Image {
		items := make([]*runtimeapi.Image, n)
		for i := range items {
			items[i] = item(size)
		}
		return items
	}
	for _, tc := range []struct {
		name  string
		items []*runtimeapi.Image
		want  []int
	}{
		{"nothing is no chunk", nil, nil},
		{"a chunk that is just full", repeat(100, 1), []int{100}},
		{"one more item than a chunk holds", repeat(101, 1), []int{100, 1}},
		{"bytes end a chunk", repeat(3, 600<<10), []int{1, 1, 1}},
		{"an item larger than a chunk goes alone", append(repeat(1, 10), item(2<<20), item(10)), []int{1, 1, 1}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var got []int
			var all []*runtimeapi.Image
			if err := sendMessages(tc.items, func(c []*runtimeapi.Image) error {
				got, all = append(got, len(c)), append(all, c...)
				return nil
			}); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("chunk sizes (-want +got):\n%s", diff)
			}
			for i := range all {
				if all[i] != tc.items[i] {
					t.Fatalf("item %d is another one", i)
				}
			}
			if len(all) != len(tc.items) {
				t.Errorf("%d items sent, want %d", len(all), len(tc.items))
			}
		})
	}
}
