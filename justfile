# Shortcuts; each recipe only calls the project's own commands.

# Lists the recipes
default:
    @just --list

# Format and lints, in minutes
check:
    cargo fmt --check
    cargo clippy --all-targets --all-features --locked -- -D warnings
    cargo clippy --no-default-features --locked -- -D warnings

# Unit and API tests in the dev profile; `just test uploads::` runs those whose names contain it
test *filter:
    cargo test --all-features --locked {{ filter }}

# The clients of the documentation in their own languages, then the console and the editors in a browser
e2e:
    cargo build --release --all-features --locked
    tests/clients/install
    cargo test --release --all-features --locked --test api -- --ignored --nocapture readme:: resumable_clients:: wechat_clients:: sdks::
    npm ci --prefix tests/browser
    npm --prefix tests/browser test

# Everything that must hold before a merge, as CI runs it
ci:
    .ci/run

# The load test beside other relays; without arguments the scenarios that have a bar
bench *arguments='--check':
    cargo bench --locked --bench relay -- {{ arguments }}

# Fuzzes a target of fuzz/fuzz_targets (needs `cargo install cargo-fuzz`)
fuzz target seconds='600':
    mkdir -p fuzz/corpus/{{ target }}
    RUSTC_BOOTSTRAP=1 cargo fuzz run {{ target }} fuzz/corpus/{{ target }} fuzz/seeds/{{ target }} -- -max_total_time={{ seconds }}

# Writes the generated pages of the documentation
docs:
    UPDATE_DOCS=1 cargo test --all-features --locked --test api generated::
