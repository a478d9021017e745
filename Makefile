# `make help` lists the targets. The recipes need Go, git and, for the race detector, a C compiler; the cluster needs Linux and root.

export KO_CONFIG_PATH := $(CURDIR)/ko.yaml
export GOWORK := off
# Builds from empty caches are quicker without DWARF, without the checks that Envoy's types bring along and nobody calls, and with a compiler that collects no
# garbage before it holds 2 GiB. Prometheus gets the one service discovery that the cluster uses.
tags := disable_pgv,remove_all_sd,enable_kubernetes_sd
buildflags := -gcflags=all=-dwarf=false -tags=$(tags)
export GOFLAGS := $(strip $(filter-out $(buildflags),$(GOFLAGS)) $(buildflags))
export GOGC := off
export GOMEMLIMIT := 2GiB

# test/cluster builds everything with ko's flags, so that what both compile is compiled once.
build = CGO_ENABLED=0 go -C $(1) build -trimpath -o $(CURDIR)/.bin/ $(2)
# make lint vets; go test would once more, with every package of the dependencies. What is tested collects its garbage as anywhere.
gotest = go test -vet=off -count=1 -exec 'env -u GOGC -u GOMEMLIMIT'
unittest = $(gotest) -race -shuffle=on -timeout 20m

.PHONY: help cluster cluster-down cluster-status cluster-env test fuzz lint e2e figures demo release release-shell generate pipeline calibrate rehearse
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
	$(unittest) ./...
	cd test && $(unittest) ./...
	cd test/engine && $(unittest) ./...
	cd test/cluster && $(unittest) .

FUZZTIME ?= 5s

fuzz: ## run each fuzz target for FUZZTIME, 5s unless it says otherwise
	env -u GOGC -u GOMEMLIMIT .ci/fuzz $(FUZZTIME)

lint: export GOGC := 100
lint: export GOMEMLIMIT := off
lint: .bin/golangci-lint .bin/yamlfmt ## golangci-lint on every module, and the YAML
	.bin/golangci-lint run ./...
	cd test && ../.bin/golangci-lint run --config ../.golangci.yml --build-tags e2e,figures ./...
	cd test/engine && ../../.bin/golangci-lint run --config ../../.golangci.yml ./...
	cd test/cluster && ../../.bin/golangci-lint run --config ../../.golangci.yml ./...
	.bin/yamlfmt -lint .
	.ci/style

e2e: cluster ## the scenarios on the cluster
	eval "$$(.bin/cluster env)" && cd test && $(gotest) -tags $(tags),e2e -v -timeout 80m ./e2e/...

figures: cluster ## what a release costs: time, requests, memory and sizes of images, measured on the cluster
	eval "$$(.bin/cluster env)" && cd test && $(gotest) -tags $(tags),e2e,figures -v -timeout 30m -run TestFigures ./e2e/

# From empty caches the modules of the cluster take a while to download: the demo and the images are compiled meanwhile.
demo: .bin/cluster ## six releases on the cluster, one after the other, each a commit in a Git server, and how each ended
	@{ $(call build,test,./demo); CGO_ENABLED=0 go build -trimpath ./images/... ./examples/app; } >/dev/null 2>&1 & .bin/cluster up && wait
	$(call build,test,./demo)
	eval "$$(.bin/cluster env)" && .bin/demo

# With KO_DOCKER_REPO the images go to that registry, without into a folder. KO_DEFAULTBASEIMAGE names another base.
kopush = $(if $(KO_DOCKER_REPO),,--push=false --oci-layout-path=.bin/oci)

# The git resolver reads one file: .bin/release has each where it is in the project, for the commit that is tagged.
release: .bin/ko ## write .bin/release.yaml and .bin/release: Tasks, Pipeline and Roles with images by digest, for two platforms, with SBOMs
	for f in tasks/*/*.yaml pipelines/*/*.yaml; do mkdir -p .bin/release/$${f%/*} && .bin/ko resolve -f $$f $(kopush) > .bin/release/$$f || exit 1; done
	cat .bin/release/*/*/*.yaml > .bin/release.yaml # ko ends each with ---

# A name is known before the digest is: KO_DOCKER_REPO/canary-init:VERSION-shell.
release-shell: .bin/ko ## the images in the variant with a shell, for jenkins-x.yml; VERSION=v0.1.0 KO_DOCKER_REPO=registry/canary-tasks
	KO_CONFIG_PATH=$(CURDIR)/ko-shell.yaml .bin/ko build --base-import-paths --tags $(VERSION)-shell $(kopush) $(addprefix ./,$(wildcard images/*))

VERSION ?= latest
STEPS ?= 10

generate pipeline: ## write the Tasks, the Pipeline and their READMEs out of the code; STEPS=20 makes a longer Pipeline
	go run ./tasks/generate -steps $(STEPS)

calibrate: ## measure the judge by simulation and write docs/analysis.md with its plots
	go run ./lib/analysis/calibrate

RATE ?= 100
ERRORS ?= 0.001
SCRAPE ?= 15s

rehearse: ## say what a configuration would see and how releases would end; SPEC=file of parameters RATE=requests/s ERRORS=share SCRAPE=15s
	@go run ./lib/release/rehearse -spec "$(SPEC)" -rate $(RATE) -errors $(ERRORS) -scrape $(SCRAPE)

# In a fresh checkout the modules of the cluster's programs download meanwhile.
.bin/cluster: FORCE
	@[ -e $@ ] || go -C test/cluster list -deps tool >/dev/null 2>&1 & $(call build,test/cluster,.)

.bin/ko: test/cluster/go.mod
	$(call build,test/cluster,github.com/google/ko)

.bin/golangci-lint: .ci/tools/go.mod
	$(call build,.ci/tools,github.com/golangci/golangci-lint/v2/cmd/golangci-lint)

.bin/yamlfmt: .ci/tools/go.mod
	$(call build,.ci/tools,github.com/google/yamlfmt/cmd/yamlfmt)

FORCE:
