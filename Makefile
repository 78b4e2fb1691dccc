# Two commands do everything: `make run` brings the example stack up, `make test` is what CI runs.

TARGET := $(shell uname -m)-unknown-linux-musl
BINARY := target/$(TARGET)/release/firstmate
# Images are built by the classic builder, which every Docker has.
export DOCKER_BUILDKIT := 0

.PHONY: help build musl helpers run setup test lint unit sim fuzz guard guard-figures guard-matrix platform-matrix docker-test bench bench-endpoints bench-reading clean

help:
	@echo 'make run     the all-in-one stack under firstmate: nginx, php-fpm, Redis, workers'
	@echo 'make test    everything: format, lints, docs, tests, simulation, fuzzing, images'
	@echo 'make build   the static binary: $(BINARY)'
	@echo 'make guard-matrix  the memory guard against real leaks, all of it; writes docs/guard-matrix.md'
	@echo 'make platform-matrix  every program of procfiles/, ten rolling stops under load, a hundred rounds of kill -9'
	@echo 'make bench-endpoints  how fast probes and /metrics answer while 50 services crash'
	@echo 'make bench-reading    how fast `status` is over 200 services, and what floods of lines do; writes docs/benchmarks-reading.md'
	@echo 'make bench   measure against s6, runit, supervisor, tini and dumb-init'

build musl:
	tests/setup rust
	cargo build --locked --release --target $(TARGET)

# Static programs that tests put where there is no other system: into the small machine of tests/vm.
helpers: build
	cargo build --locked --release --target $(TARGET) --examples

run: build
	examples/all-in-one/run $(BINARY)

setup:
	tests/setup

# The order is cheapest first; the images are made while the tests compile.
test: setup lint build
	tests/docker/images $(BINARY)
	$(MAKE) unit sim fuzz guard docker-test

lint:
	cargo fmt --check
	tests/sim/mutations --check
	cargo clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' cargo doc --locked --no-deps --quiet

# Against the binary that ships, as PID 1 in namespaces of their own, with the real programs.
unit: helpers
	FIRSTMATE_BINARY=$(abspath $(BINARY)) cargo nextest run --locked --no-fail-fast \
		-E 'not (binary(sim) or binary(guard_sim) or binary(guard) or binary(guard_real) or binary(vm) or binary(docker) or binary(walk))'

sim:
	cargo nextest run --locked --cargo-profile sim --test sim --no-capture
	cargo nextest run --locked --cargo-profile sim --test guard_sim

# The tables of docs/design/guard-simulation.md: minutes.
guard-figures:
	cargo nextest run --locked --cargo-profile sim --test guard_sim --run-ignored only --no-capture figures

# A sample of every item of the memory guard, against real processes in real cgroups. Most of them wait most of the time.
guard: helpers
	tests/docker/images $(BINARY)
	FIRSTMATE_BINARY=$(abspath $(BINARY)) cargo nextest run --locked --no-fail-fast --test-threads 4 --test guard --test guard_real --test vm

# All of it, into docs/guard-matrix.md: an hour or two.
guard-matrix: setup helpers
	tests/docker/images $(BINARY)
	tests/guard/matrix

# What takes too long for each `make test`, which plays a sample of it.
platform-matrix: setup helpers
	tests/docker/images $(BINARY)
	FIRSTMATE_BINARY=$(abspath $(BINARY)) cargo nextest run --locked --no-fail-fast --no-capture --test real -E 'test(/^(procfiles|programs)::/)'
	FIRSTMATE_ROUNDS=100 FIRSTMATE_BINARY=$(abspath $(BINARY)) cargo nextest run --locked --no-fail-fast --no-capture --run-ignored all --test docker -E 'test(/^(rolling|rounds|health)::/)'

fuzz:
	fuzz/run 5

docker-test: helpers
	FIRSTMATE_BINARY=$(abspath $(BINARY)) cargo nextest run --locked --no-fail-fast --test docker --test walk

bench: build
	tests/setup packages
	benches/run --firstmate $(BINARY)

# An idle machine is needed: it asserts 5 ms at the 99th percentile.
bench-endpoints: build
	FIRSTMATE_BINARY=$(abspath $(BINARY)) cargo nextest run --locked --test monitoring --run-ignored only --no-capture

# On an idle machine as well: two minutes.
bench-reading: helpers
	benches/reading --firstmate $(BINARY) --actor $(dir $(BINARY))examples/actor >target/benchmarks-reading.md
	mv target/benchmarks-reading.md docs/benchmarks-reading.md
	cat docs/benchmarks-reading.md

clean:
	cargo clean
	rm -rf fuzz/target fuzz/corpus fuzz/artifacts
