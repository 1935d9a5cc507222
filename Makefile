# The two commands to know: `make run` and `make test`. Both install what they need.
.DEFAULT_GOAL := help
CARGO ?= cargo
ARGS ?=
# Tests at once: most of them wait for something, and a machine may have two cores.
THREADS ?= 3
# Tests that are for both modes. The others bring the engines that they need along (rabbit, shared, forward,
# balancers, replicas, fault), break one process on purpose, or touch nothing but the command and the database.
BOTH = access:: admin_api:: api:: chat:: dead_letters:: delivery:: drain:: erase:: hub:: legacy:: limits:: remote \
	top:: transports::

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
test: ## Everything: format, lints, unit, property, integration and client tests
	@packaging/setup/install-tools.sh test
	@cd tests/node && npm ci --no-audit --no-fund --loglevel=error
	@test -x tests/python/.venv/bin/python || python3 -m venv tests/python/.venv
	@tests/python/.venv/bin/python -m pip install --quiet --disable-pip-version-check -r tests/python/requirements.txt
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	$(CARGO) test --locked -- --test-threads $(THREADS)
	packaging/test/package.sh target/debug/esh3ar
	@echo "The same against a cluster: Postgres, RabbitMQ, Redis, a gateway and a worker."
	ESH3AR_TEST_MODE=cluster $(CARGO) test --locked --test it -- --test-threads $(THREADS) $(BOTH)
	@echo "All tests passed."

.PHONY: lint
lint: ## Format and lints only
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings

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
