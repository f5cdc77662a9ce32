# Railbind's commands. Each sets up what it needs; `make help` lists them.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.PHONY: help setup build demo demo-up demo-down test test-roce test-upgrade lint generate fmt bench fuzz idle scale selftest-sim audit sbom clean test-page test-tour

help: ## List the commands
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## Install the system packages and toolchains that are missing
	@scripts/setup.sh

build: setup ## Build the agent, the webhook and kubectl-railbind
	cargo build --locked -p railbind-agent -p railbind-webhook -p railbind-cli

demo: build ## The main job on a real control plane: six nodes, labels, workers, and what their containers got
	@kube=$$(scripts/build-kube.sh) && RAILBIND_KUBE=$$kube cargo run --locked -q -p railbind-tests --bin demo

demo-up: build ## The same, left running for play, with a kubeconfig
	@kube=$$(scripts/build-kube.sh) && RAILBIND_KUBE=$$kube cargo run --locked -q -p railbind-tests --bin demo -- up

demo-down: ## Stop what demo-up started
	@cargo run --locked -q -p railbind-tests --bin demo -- down

test: setup ## All tests: unit, snapshot, property, and on the real control plane
	@scripts/test.sh

test-roce: ## The agent on two guests with soft-RoCE: GID tables, link and device, and self-tests over rc_verbs
	@tests/roce/run.sh

test-upgrade: build ## From the programs and manifests of an early commit to today's and back, while pods are created
	@kube=$$(scripts/build-kube.sh) && old=$$(scripts/build-old.sh) && RAILBIND_KUBE=$$kube RAILBIND_OLD=$$old \
		cargo test --locked -p railbind-tests --test load upgrade -- --ignored --nocapture

test-page: ## The webhook's page in Chromium: keys, accessibility, hostile data
	@tests/page/run.sh

test-tour: build ## The five-minute tour, word for word: its commands, their exit codes and what they show
	@kube=$$(scripts/build-kube.sh) && RAILBIND_KUBE=$$kube tests/tour/run.py

idle: build ## What agents ask of the API server in ten idle minutes, from its audit log
	@kube=$$(scripts/build-kube.sh) && RAILBIND_KUBE=$$kube cargo test --locked -p railbind-tests --test idle -- --ignored --nocapture

scale: setup ## Thousands of nodes and hundreds of pods a second on a real API server, and what fails meanwhile (SCALE_NODES, SCALE_RATE)
	@scripts/scale.sh

bench: setup ## Surveys, reviews and transfers, each beside a peer, into BENCHMARKS.md (PART=agent, webhook or transfer for one)
	@scripts/bench.sh

selftest-sim: ## How long clusters of 64 to 10,000 nodes take to test themselves, what it costs, and whom they blame
	cargo run --locked --release -q -p railbind-policies --example selftest_sim

fuzz: ## Fuzz the parsers, whole machines and admission reviews, a minute each (FUZZ_SECONDS)
	@scripts/fuzz.sh

lint: setup ## Formatting and lints, warnings as errors
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	cd tests/kube && test -z "$$(gofmt -l .)" && go vet ./...
	cd tests/bench/peer-go && test -z "$$(gofmt -l .)" && go vet ./...
	cd tests/bench/peer-webhook && test -z "$$(gofmt -l .)" && go vet ./...
	cd tests/fuzz && cargo fmt --check

audit: ## Licences, banned crates, sources, and advisories where their database can be reached
	@scripts/audit.sh

sbom: ## What each program is made of, as CycloneDX, in target/sbom
	@scripts/audit.sh sbom

generate: setup ## Write the CRDs from the types, and docs/reference.md from the names, profiles and metrics
	cargo run --locked -q -p railbind-api --example crds
	cargo run --locked -q -p railbind-tests --example reference

fmt: ## Format
	cargo fmt --all
	cd tests/fuzz && cargo fmt
	cd tests/kube && gofmt -w .
	cd tests/bench/peer-go && gofmt -w .
	cd tests/bench/peer-webhook && gofmt -w .

clean: ## Remove build outputs of this tree; the cached control plane stays
	cargo clean
