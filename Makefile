# The tasks of CONTRIBUTING.md by name: each only calls a script or the Go tool.
# ARGS is passed on, for example: make test ARGS='-run TestName ./shim'
.PHONY: help build run unit test lint fuzz bench microbench kubelet cluster systemd matrix release clean

ARGS :=
VERSION := $(shell git describe --always --dirty 2>/dev/null || echo dev)

help: ## list the tasks
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

build: ## build cridock, cridock-runtime and cribench into bin
	CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=$(VERSION)" -o bin/ ./cmd/cridock ./cmd/cridock-runtime ./cmd/cribench

run: ## build cridock, run it on this machine's Docker, show a pod (root)
	hack/run.sh

unit: ## the tests that need no engine
	go test $(or $(ARGS),./...)

test: ## every test but the kubelet's, on a private Docker Engine (root)
	hack/test.sh $(ARGS)

lint: ## golangci-lint, govulncheck, shellcheck and more
	hack/lint.sh $(ARGS)

fuzz: ## every fuzz target for a moment
	hack/fuzz.sh $(ARGS)

bench: ## measure cridock and other runtimes in one run (root)
	hack/bench.sh $(ARGS)

microbench: ## Go's benchmarks that need no engine
	go test -run '^$$' -bench . $(or $(ARGS),./translate ./shim ./shim/index ./shim/logs ./shim/stats)

kubelet: ## a real kubelet on cridock (root)
	hack/kubelet.sh $(ARGS)

cluster: ## a cluster made by kubeadm on cridock, tested and removed (root)
	hack/cluster.sh $(or $(ARGS),test)

systemd: ## the package and cridock migrate, with systemd and kubelets from 1.23 on (root)
	hack/systemd.sh $(ARGS)

matrix: ## the tests on several Docker Engines (root)
	hack/matrix.sh $(ARGS)

release: ## the files of a release: make release ARGS=v1.2.3
	hack/release.sh $(ARGS)

clean: ## remove bin and dist; caches stay
	rm -rf bin dist
