# The two commands to know: `make run` and `make test`. Both install what they need.
.DEFAULT_GOAL := help
CARGO ?= cargo
# For `make run` and `make cluster` their options; for tests those of nextest: make quick ARGS=chat::
ARGS ?=
# One build serves lints and tests: in place of rustc, cargo calls clippy's driver for this package, which
# compiles as well. A pass of `cargo clippy` would check every dependency once more.
LINTED = CLIPPY_CONF_DIR="$(CURDIR)" CLIPPY_ARGS="-D__CLIPPY_HACKERY__warnings__CLIPPY_HACKERY__" \
	RUSTC_WORKSPACE_WRAPPER="$$(rustup which clippy-driver 2>/dev/null || command -v clippy-driver)"
# Runs the tests of a profile of .config/nextest.toml and prints the longest, whether or not all passed.
nextest = @$(LINTED) $(CARGO) nextest run --locked --profile $(1) $(ARGS); \
	status=$$?; python3 tests/longest.py target/nextest/$(1)/junit.xml; exit $$status

.PHONY: help
help: ## Show this
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

.PHONY: run
run: ## Start an appliance and send a first message through it (ARGS=--once ends after that)
	@packaging/setup/install-tools.sh run
	@$(CARGO) build --locked
	@target/debug/esh3ar demo $(ARGS)

.PHONY: cluster
cluster: ## Try a whole cluster on this machine (ARGS=--once ends after a message has crossed it)
	@packaging/setup/install-tools.sh cluster
	@$(CARGO) build --locked
	@packaging/cluster/try.sh $(ARGS)

.PHONY: test
test: lint ## Everything: format, lints, unit, property, integration, fault and client tests, in both modes
	$(call nextest,default)
	@echo "The tests that cross processes, against a cluster: Postgres, RabbitMQ, Redis, a gateway and a worker."
	@ESH3AR_TEST_MODE=cluster $(MAKE) --no-print-directory in-cluster

.PHONY: in-cluster
in-cluster:
	$(call nextest,cluster)

.PHONY: quick
quick: lint ## Everything but the fault tests, the second mode and the packages
	$(call nextest,quick)

.PHONY: soak
soak: lint ## What takes minutes by its nature: long outages, many kills, growth (report: target/soak.md)
	$(call nextest,soak)

.PHONY: attack
attack: lint release ## The attacks of tests/it/attack against the build for use, with their figures
	@ESH3AR_TEST_BINARY="$(CURDIR)/target/release/esh3ar" $(LINTED) $(CARGO) nextest run --locked \
		--profile attack $(ARGS)

.PHONY: coverage
coverage: tools ## Line coverage by room; fails under the figures of docs/CONTRIBUTING.md
	@packaging/setup/install-tools.sh coverage
	@tests/coverage.sh $(ARGS)

.PHONY: lint
lint: tools ## Format and lints, and all tests built
	$(CARGO) fmt --check
	@tests/deny.sh
	$(LINTED) $(CARGO) build --locked --all-targets

# What the tests need from outside.
.PHONY: tools
tools: tests/node/node_modules/.package-lock.json tests/python/.venv/installed
	@packaging/setup/install-tools.sh test

tests/node/node_modules/.package-lock.json: tests/node/package-lock.json
	@packaging/setup/install-tools.sh test
	@cd tests/node && npm ci --no-audit --no-fund --loglevel=error
	@touch $@

tests/python/.venv/installed: tests/python/requirements.txt
	@packaging/setup/install-tools.sh test
	@test -x tests/python/.venv/bin/python || python3 -m venv tests/python/.venv
	@tests/python/.venv/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

.PHONY: build
build: ## Build for development
	$(CARGO) build --locked

.PHONY: release
release: ## Build for use: target/release/esh3ar
	@packaging/setup/install-tools.sh run
	$(CARGO) build --locked --release

.PHONY: package
package: ## Build the deb and the rpm into target/package (BINARY=… packs one that is there)
	@packaging/setup/install-tools.sh package
ifndef BINARY
	$(CARGO) build --locked --profile dist
endif
	@packaging/build.sh --binary $(or $(BINARY),target/dist/esh3ar) $(if $(VERSION),--version $(VERSION))

.PHONY: figures
figures: release ## Measure this machine: throughput, latency, CPU a message, memory a connection
	@ulimit -n 40000 2>/dev/null; for run in "--senders 384" "--batch 100" "--rate 1000" "--pending 10000" "--idle 10000"; do \
		echo "== esh3ar bench $$run"; target/release/esh3ar bench $$run || exit 1; done

.PHONY: clean
clean: ## Remove what was built
	$(CARGO) clean
	rm -rf tests/node/node_modules tests/python/.venv
