# Sourced by tests/run and .ci/run.

# step NAME COMMAND...: runs the command and prints how long it took. A failure ends the script (`set -e`).
step() {
    local name=$1 began=$SECONDS
    shift
    echo "== $name"
    "$@"
    echo "== $name: $((SECONDS - began)) s"
}
