#!/usr/bin/env bash
# Everything that must hold before a change is taken: format, lints, documentation, tests.
# Installs what the tests need when it is missing (Debian packages; the libraries of Python and Node below the target folder).
# Needs no network when everything is there.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec </dev/null

started=$SECONDS
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
foreign=$target/interop
log=$foreign/install.log
mkdir -p "$foreign"

current=preparation
trap 'code=$?; ((code == 0)) || say "FAILED: $current (exit $code)"' EXIT

say() { printf '== %s\n' "$*"; }

# Runs an installation quietly; its output is shown only when it fails.
quietly() {
    if ! "$@" >"$log" 2>&1; then
        cat "$log" >&2
        exit 1
    fi
}

packages=()
python3 -c 'import ensurepip, venv' 2>/dev/null || packages+=(python3 python3-venv)
command -v node >/dev/null || packages+=(nodejs)
command -v npm >/dev/null || packages+=(npm)
command -v ip >/dev/null || packages+=(iproute2)
command -v curl >/dev/null || packages+=(curl)
command -v openssl >/dev/null || packages+=(openssl)
command -v wrk >/dev/null || packages+=(wrk)
PATH=$PATH:/usr/sbin command -v nginx >/dev/null || packages+=(nginx)
command -v redis-server >/dev/null || packages+=(redis-server)
if ((${#packages[@]})); then
    say "installing ${packages[*]}"
    root=()
    [[ $EUID -eq 0 ]] || root=(sudo -n)
    quietly "${root[@]}" apt-get update
    quietly "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${packages[@]}"
fi

# Two runs at once install one after the other.
exec 8>"$foreign/lock"
flock 8
# The stamp holds the list of what was installed, so that a changed list installs again.
stamp=$(cat tests/interop/requirements.txt tests/interop/package-lock.json)
if [[ $stamp != "$(cat "$foreign/stamp" 2>/dev/null || true)" ]]; then
    say "installing the libraries of Python and Node"
    rm -f "$foreign/stamp"
    quietly python3 -m venv --clear "$foreign/python"
    quietly "$foreign/python/bin/pip" install --disable-pip-version-check -r tests/interop/requirements.txt
    cp tests/interop/package.json tests/interop/package-lock.json "$foreign/"
    quietly npm ci --prefix "$foreign" --no-audit --no-fund
    printf '%s\n' "$stamp" >"$foreign/stamp"
fi
exec 8>&-
# From here on a missing library is a failure of the tests that need it, not a reason to skip them.
export VIBEWARDEN_TEST_FOREIGN=required

step() {
    local name=$1 from=$SECONDS
    current=$name
    shift
    say "$name"
    "$@"
    say "$name: ok, $((SECONDS - from)) s"
}

step "format" cargo fmt --check
step "lints" cargo clippy --locked --all-targets --quiet -- -D warnings
step "documentation" env RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --quiet
if command -v cargo-deny >/dev/null; then
    step "dependencies" cargo deny --offline check bans licenses sources
fi
if command -v cargo-nextest >/dev/null; then
    # Most tests wait for somebody most of the time.
    threads=$(($(nproc) * 3))
    step "tests" cargo nextest run --test-threads "$threads" --locked --cargo-quiet --no-fail-fast --hide-progress-bar --status-level fail --final-status-level slow
    step "documentation tests" cargo test --locked --doc --quiet
else
    step "tests" cargo test --locked --no-fail-fast --quiet
fi

say "everything passed, $((SECONDS - started)) s"
