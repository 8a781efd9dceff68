# Recipes named by what one wants. CI runs .ci/run, which uses the same commands.

# Show this list
default:
    @just --list

# Run the main job on the embedded example, below ./demo
demo:
    cargo run -q -- run --feature-gates=Checkpointing=true --once --root demo --generate-node-key --manifests examples/node

# All tests
test:
    cargo test --workspace

# Formatting and lints, warnings denied
lint:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets -- -D warnings

# API documentation, warnings denied
doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps

# Licences, bans and sources of the dependencies (advisories need the advisory database: `cargo deny check`)
deny:
    cargo deny check licenses bans sources

# Everything that CI checks
ci:
    .ci/run

# All of that and the long forms of everything (about an hour and a half)
full:
    .ci/full

# The tests against a real kube-apiserver and etcd, which are built once (as root on Debian 12, five minutes)
cluster:
    tests/cluster/components.sh
    CKPT_DB_REQUIRE_CLUSTER=1 cargo test --test cluster

# Their long form: 2,000 operations, the API server and the agent killed 20 times each; the figures of docs/explanation/api-load.md
campaign:
    CKPT_DB_REQUIRE_CLUSTER=1 CKPT_DB_CAMPAIGN=full cargo test --test cluster -- --nocapture --test-threads 1

# The whole way on a real node, every scenario (about twenty minutes)
scenarios:
    CKPT_DB_REQUIRE_NODE=1 CKPT_DB_CAMPAIGN=full cargo test --test cluster scenarios:: -- --nocapture --test-threads 1

# A real control plane and a node that has joined it, to play with until Ctrl-C
sandbox:
    cargo test -q --test cluster operation::sandbox -- --ignored --nocapture

# Ten thousand random histories of a node: who runs, whatever happens
histories:
    CKPT_DB_HISTORIES=10000 cargo test --profile campaign --test lifecycle histories

# Flip every byte of every used page of the example store (about half an hour)
flips:
    CKPT_DB_FLIPS=all cargo test --profile campaign --test damage flips -- --nocapture

# Every other kind of damage, and the rebuild after it: 3,000 cases for each of three files, every page cut, zeroed and garbled; killed at every call
damage:
    CKPT_DB_DAMAGE=3000 CKPT_DB_KILLS=all cargo test --profile campaign --test damage -- --nocapture
    CKPT_DB_FLIPS=1000 cargo test --profile campaign --test damage_program -- --nocapture

# Kill the example run at every write-class system call (needs strace)
kills:
    CKPT_DB_KILLS=all cargo test --test kill --test backup --test data_key -- --nocapture

# Break the program on purpose, one way after the other: the test that is there for it has to say so
mutations *names:
    tests/mutations/run.sh {{names}}

# A bounded sample of every fault campaign, with counts
campaigns *names:
    .ci/campaigns {{names}}

# Every figure of docs/performance.md: the table, and target/bench.json (about ten minutes on a quiet machine, after the builds)
bench *options:
    benches/run.sh {{options}}

# The same with few rounds: says whether it works, and nothing of times
bench-short:
    cargo build -q --locked
    cargo run -q --locked -p ckpt-db-bench -- --short

# What sealing costs at a cold start, as a ratio of medians of interleaved rounds
bench-sealing:
    cargo bench --bench sealing

# Cut the power of an emulated machine 200 times, and judge what could have been left (an hour; as root on Debian)
power:
    tests/power/components.sh
    CKPT_DB_REQUIRE_QEMU=1 CKPT_DB_POWER_CUTS=200 CKPT_DB_POWER_RESTORES=20 CKPT_DB_POWER_IMAGES=12 cargo test --profile campaign --test power -- --nocapture

# One static binary, without a C library to match: needs the musl target (`rustup target add x86_64-unknown-linux-musl`) and musl-gcc
static:
    make TARGET=x86_64-unknown-linux-musl

# The same with glibc, where the musl target can't be had
static-glibc:
    make TARGET=x86_64-unknown-linux-gnu

# The container image around a static build for tests: built twice, run (Debian's buildah, no registry); prints the archive's path
image-for-tests:
    tests/image.sh --check

# A static build without optimization, for the tests that run it in images of its own; prints its path
static-for-tests:
    tests/static-binary.sh

# Fuzz one target for so many seconds; see fuzz/README.md
fuzz target="records" seconds="60":
    mkdir -p target/fuzz-corpus/{{target}}
    CKPT_DB_SEEDS=target/fuzz-corpus cargo test -q --test corpus every_seed
    RUSTC_BOOTSTRAP=1 cargo fuzz run -s none {{target}} target/fuzz-corpus/{{target}} fuzz/corpus/{{target}} -- -max_len=65536 -timeout=120 -rss_limit_mb=6144 -max_total_time={{seconds}} -print_final_stats=1

# Each target in turn (1800 seconds each: the long run, four hours)
fuzz-all seconds="1800":
    fuzz/all.sh {{seconds}}

# A store on a simulated disk: 100,000 images of what a power cut leaves, and a fault at every operation
storage-faults:
    CKPT_DB_IMAGES=100000 cargo test --profile campaign --test storage_faults -- --nocapture

# Power cuts at the publishing of rendered files: 50,000 media
render-cuts:
    CKPT_DB_RENDER_CUTS=50000 cargo test --profile campaign --lib materialize::power -- --nocapture

# What grows, and how far: 100,000 changes, 1,000,000 events, 10,000 reconnects, 20,000 rounds, full disks; one at a time, so that the figures are those of each
bounds:
    CKPT_DB_BOUNDS=full cargo test --profile campaign --test bounds -- --nocapture --test-threads 1
