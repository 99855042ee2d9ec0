package index_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/cridock/cridock/shim/index"
	"github.com/cridock/cridock/translate"
)

// BenchmarkLists measures what the kubelet requests every second: both lists,
// from the index, at 110 and 500 pods of two containers.
func BenchmarkLists(b *testing.B) {
	for _, pods := range []int{110, 500} {
		b.Run(fmt.Sprintf("containers=%d", 2*pods), func(b *testing.B) {
			f := newFixture(b)
			var last string
			for n := range pods {
				sandbox := f.run(f.sandbox(2 * n))
				f.run(f.member(sandbox, 2*n))
				last = f.run(f.member(sandbox, 2*n+1))
			}
			f.ready()
			ctx := b.Context()
			lists := func(b *testing.B) {
				sandboxes, err := f.Sandboxes(ctx)
				if err != nil || len(sandboxes) != pods {
					b.Fatal(len(sandboxes), err)
				}
				if containers, err := f.Containers(ctx); err != nil || len(containers) != 2*pods {
					b.Fatal(len(containers), err)
				}
			}
			b.Run("unchanged", func(b *testing.B) {
				f.docker.ResetCalls()
				for b.Loop() {
					lists(b)
				}
				if calls := f.docker.Calls(); len(calls) > 0 {
					b.Error(calls)
				}
			})
			b.Run("changed", func(b *testing.B) {
				for b.Loop() {
					b.StopTimer()
					f.sync(last)
					b.StartTimer()
					lists(b)
				}
			})
			b.Run("status", func(b *testing.B) {
				for b.Loop() {
					if _, err := f.Container(ctx, last); err != nil {
						b.Fatal(err)
					}
				}
			})
		})
	}
}

// BenchmarkFirstSync measures how long a restart keeps the kubelet waiting, without
// Docker's own part.
func BenchmarkFirstSync(b *testing.B) {
	f := newFixture(b)
	for n := range 110 {
		sandbox := f.run(f.sandbox(2 * n))
		f.run(f.member(sandbox, 2*n))
		f.run(f.member(sandbox, 2*n+1))
	}
	for b.Loop() {
		ix := index.New(f.client, index.Options{Host: func() translate.Host { return translate.Host{} }})
		ctx, cancel := context.WithCancel(b.Context())
		ended := make(chan struct{})
		go func() { defer close(ended); _ = ix.Run(ctx) }()
		if all, err := ix.Containers(ctx); err != nil || len(all) != 220 {
			b.Fatal(len(all), err)
		}
		b.StopTimer()
		cancel()
		<-ended
		b.StartTimer()
	}
}
