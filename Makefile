# Everything one can do here. `make help` lists it; `make demo` and `make test` are all that a newcomer needs.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# What scripts/setup.sh installed comes first.
export PATH := $(CURDIR)/build/tools/bin:$(CURDIR)/.venv/bin:$(PATH)

VERSION := $(shell cat VERSION)
GO_BUILD := CGO_ENABLED=0 go build -trimpath -ldflags '-s -w -X main.version=$(VERSION)'
PYTHON := .venv/bin/python

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {sub(":.*", "", $$1); printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: setup
setup: ## install what is missing on this machine (scripts/setup.sh lists it)
	@scripts/setup.sh

.PHONY: build
build: setup ## build/yr, one static binary
	$(GO_BUILD) -o build/yr .

.PHONY: wheel
wheel: build ## dist/openyuanrong-*.whl: the Python SDK and the binary
	@rm -f dist/openyuanrong-*.whl
	@$(PYTHON) -m pip wheel -q --disable-pip-version-check --no-deps --no-build-isolation -w dist sdk/python
	@ls -sh dist/openyuanrong-*.whl

.PHONY: demo
demo: wheel ## a one-node cluster runs the examples, and is gone afterwards
	@scripts/demo.sh

.PHONY: test
test: build ## every test: Go, Python, the whole system, the examples (ONLY=name for one step)
	@$(PYTHON) scripts/test.py $(ONLY)

.PHONY: lint
lint: setup ## golangci-lint, gofmt, ruff
	@scripts/setup.sh lint
	golangci-lint run ./...
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { gofmt -d $$(git ls-files '*.go'); exit 1; }
	ruff check
	ruff format --check

.PHONY: bench
bench: build ## our own benchmarks, each with its floor (ARGS="--quick call-sync")
	build/yr bench -- $(ARGS)

.PHONY: bench-peers
bench-peers: build ## the same workloads on yr and on Ray, side by side (ARGS as for bench)
	bench/peers.sh $(ARGS)

.PHONY: soak
soak: build ## a million calls, 100 000 put and delete rounds: memory and descriptors must stay flat
	$(PYTHON) bench/soak.py

.PHONY: bench-nodes
bench-nodes: build ## calls, bytes and failover between nodes in network namespaces, beside the bare network (YR_ROUNDS=5)
	YR_BIN=$(CURDIR)/build/yr go test -run '^$$' -bench . -benchtime 1x -timeout 30m ./bench/several

.PHONY: soak-nodes
soak-nodes: build ## the tests of several nodes at full length, and faults of all kinds for YR_SOAK_SECONDS (600)
	YR_LONG=1 YR_BIN=$(CURDIR)/build/yr go test -count=1 -timeout 120m -v ./test/several

.PHONY: bench-durable
bench-durable: ## Records: writes and reads a second on one and three voters, a lone write against fdatasync
	CGO_ENABLED=0 go test ./pkg/durable -run '^$$' -bench . -benchtime 5s

.PHONY: soak-durable
soak-durable: ## Records: a history under 1000 faults (FAULTS=n SEED=n) must be linearizable
	YR_FAULTS=$(or $(FAULTS),1000) YR_SEED=$(SEED) go test ./pkg/durable -run TestLinearizableUnderFaults -count 1 -v -timeout 60m

FUZZTIME ?= 20s
.PHONY: fuzz
fuzz: setup ## every Go fuzz target for FUZZTIME (20s) each
	@scripts/fuzz.sh $(FUZZTIME)

.PHONY: generate
generate: ## the Go code of every .proto file
	@scripts/setup.sh generate
	protoc --go_out=. --go_opt=module=yr pkg/wire/control.proto
	protoc --go_out=. --go_opt=module=yr --go-grpc_out=. --go-grpc_opt=module=yr master/master.proto
	protoc --go_out=. --go_opt=module=yr --go-grpc_out=. --go-grpc_opt=module=yr pkg/durable/durable.proto

.PHONY: clean
clean: ## remove everything that was built, .venv too
	rm -rf build dist .venv .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
