# `make help` lists the targets. The recipes need Go and, for the race detector, a C compiler; the cluster needs Linux and root.

export KO_CONFIG_PATH := $(CURDIR)/ko.yaml
export GOWORK := off

# test/cluster builds everything with ko's flags, so that what both compile is compiled once.
build = CGO_ENABLED=0 go -C $(1) build -trimpath -o $(CURDIR)/.bin/ $(2)
gotest = go test -race -shuffle=on -count=1

.PHONY: help cluster cluster-down cluster-status cluster-env test lint e2e demo release generate pipeline calibrate
.DEFAULT_GOAL := help

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

cluster: .bin/cluster ## start a real cluster with Tekton, istiod and Prometheus on this machine (root), or find it running
	@.bin/cluster up

cluster-down: .bin/cluster ## end the cluster and take its network away; what was built is kept
	@.bin/cluster down

cluster-status: .bin/cluster ## say which parts of the cluster run
	@.bin/cluster status

cluster-env: .bin/cluster ## print what to export to use the cluster: eval "$$(make -s cluster-env)"
	@.bin/cluster env

test: ## the tests that need neither root nor a cluster
	$(gotest) ./...
	cd test && $(gotest) ./...
	cd test/cluster && $(gotest) .

lint: .bin/golangci-lint .bin/yamlfmt ## golangci-lint on every module, and the YAML
	.bin/golangci-lint run ./...
	cd test && ../.bin/golangci-lint run --config ../.golangci.yml --build-tags e2e ./...
	cd test/cluster && ../../.bin/golangci-lint run --config ../../.golangci.yml ./...
	.bin/yamlfmt -lint .

e2e: cluster ## the scenarios on the cluster
	eval "$$(.bin/cluster env)" && cd test && go test -tags e2e -count=1 -v -timeout 30m ./e2e/...

demo: cluster ## five releases on the cluster, one after the other, and how each ended
	eval "$$(.bin/cluster env)" && go -C test build -o $(CURDIR)/.bin/ ./demo && .bin/demo

# With KO_DOCKER_REPO the images go to that registry, without into a folder. KO_DEFAULTBASEIMAGE names another base.
release: .bin/ko ## write .bin/release.yaml: Tasks, Pipeline and Roles with images by digest, for two platforms, with SBOMs
	.bin/ko resolve -R -f tasks -f pipelines $(if $(KO_DOCKER_REPO),,--push=false --oci-layout-path=.bin/oci) > .bin/release.yaml

STEPS ?= 10

generate pipeline: ## write the Tasks, the Pipeline and their READMEs out of the code; STEPS=20 makes a longer Pipeline
	go run ./tasks/generate -steps $(STEPS)

calibrate: ## measure the judge by simulation and write docs/analysis.md with its plots
	go run ./lib/analysis/calibrate

.bin/cluster: FORCE
	@$(call build,test/cluster,.)

.bin/ko: test/cluster/go.mod
	$(call build,test/cluster,github.com/google/ko)

.bin/golangci-lint: .ci/tools/go.mod
	$(call build,.ci/tools,github.com/golangci/golangci-lint/v2/cmd/golangci-lint)

.bin/yamlfmt: .ci/tools/go.mod
	$(call build,.ci/tools,github.com/google/yamlfmt/cmd/yamlfmt)

FORCE:
