# Meterd. `make run` shows the main job working; `make test` is what CI runs.
# Needs: Rust (rust-toolchain.toml), a C compiler, npm, curl. Nothing else; no server.

CARGO ?= cargo
LIB   := .meterd/lib/libchdb.so

.PHONY: help run test fmt clippy doc bench capacity soak fuzz lib clean

help: ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 8

run: lib ## build, then run a real feeder's week through a node on this machine
	$(CARGO) build --release --locked -p server
	./target/release/meterd demo $(ARGS)

test: lib ## format, lints, tests, docs: the same in CI
	sh deploy/test-tools.sh
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	$(CARGO) build --locked --workspace --examples
	$$(command -v clickhouse-server >/dev/null && echo env METERD_TEST_CLICKHOUSE_OLD=1) \
	  $(CARGO) test --workspace --locked
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --locked --document-private-items

bench: lib ## ratios against the bare loop and the raw socket, within one run
	$(CARGO) build --release --locked -p server
	$(CARGO) run --release --locked -p benches -- $(ARGS)

capacity: lib ## the table of what a buyer asks, 45 minutes (SHARE=100: shorter, but for the row in real time)
	$(CARGO) build --release --locked -p server -p benches
	CAPACITY_SHARE=$(or $(SHARE),1000) ./target/release/benches capacity

soak: lib ## real faults ROUNDS=50 times, simulations through every fault, the campaign for PROVE=3600 s
	METERD_SOAK=$(or $(ROUNDS),50) $(CARGO) test --locked -p server --test safety -- --nocapture
	$(CARGO) build --release --locked -p server
	sh deploy/soak.sh $(or $(METERS),100000) $(or $(SECONDS),60)
	METERD_KILLS=20 $(CARGO) test --locked -p server --test sink kills -- --nocapture
	./target/release/meterd prove --seeds 100000000 --seconds $(or $(PROVE),3600) $(ARGS)

fuzz: ## fuzz each decoder (SECONDS=60 each); installs cargo-fuzz where it is missing
	sh deploy/fuzz.sh $(or $(SECONDS),60)

lib: $(LIB) ## fetch the embedded ClickHouse engine (libchdb), pinned by version and sha512

$(LIB): deploy/fetch-libchdb.sh
	sh deploy/fetch-libchdb.sh .meterd/lib
	@touch $(LIB)

clean: ## remove what was built and the demo's data
	$(CARGO) clean
	rm -rf .meterd/demo
