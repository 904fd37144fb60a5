# shellcheck shell=bash
# What the scripts of this folder share. Source it; it does nothing by itself but set `ci`, `project` and `cache`, and let a
# failure in $(…) end what is in there, as `set -e` does outside.
shopt -s inherit_errexit

ci=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
project=$(dirname "$ci")
# Everything that is prepared once for a machine lies here: sources, compiled programs, the registry's storage.
cache=${IMGBUILD_CI_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/imgbuild-ci}
export project cache

say() { printf '%s\n' "== $*" >&2; }
die() {
    printf '%s\n' "error: $*" >&2
    exit 1
}

# as_root COMMAND…: directly for root, through sudo for everybody else.
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    else
        command -v sudo >/dev/null || die "'$*' needs root: run this as root or install sudo"
        sudo "$@"
    fi
}

# package_lists: fetches apt's lists of packages where there are none, or none that this fetched within a day: a mirror has
# no longer what stands in old ones.
package_lists() {
    local stamp=$cache/package-lists
    if [ -n "$(find /var/lib/apt/lists -maxdepth 1 -name '*_Packages*' -print -quit)" ] &&
        [ -n "$(find "$stamp" -mtime -1 2>/dev/null)" ]; then
        return
    fi
    say "fetching apt's lists of packages"
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq update
    mkdir -p "$cache"
    touch "$stamp"
}

# packages NAME…: installs the Debian packages that are missing; touches apt only then. Their daemons stay off: what
# is wanted of them is started on loopback by whoever wants it.
packages() {
    local name missing=() policy=/usr/sbin/policy-rc.d
    for name in "$@"; do
        dpkg-query -W -f '${db:Status-Abbrev}' "$name" 2>/dev/null | grep -q '^ii' || missing+=("$name")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    say "installing ${missing[*]}"
    # In a subshell, so that its trap is not the caller's.
    (
        if [ ! -e "$policy" ]; then
            printf '#!/bin/sh\nexit 101\n' | as_root install -m 0755 /dev/stdin "$policy"
            trap 'as_root rm -f "$policy"' EXIT
        fi
        as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq update
        # A new machine may be in the middle of its own upgrades.
        as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends \
            -o DPkg::Lock::Timeout=600 install "${missing[@]}" >&2
    )
}

# runs_arm64: lets this machine run programs for arm64, which the scripts of its Debian packages call: emulated, unless it is
# one. Where systemd is not there to do it, the kernel is told by hand, until it is booted anew.
runs_arm64() {
    local known=/proc/sys/fs/binfmt_misc
    packages arch-test
    arch-test arm64 >/dev/null && return
    packages qemu-user-static
    arch-test arm64 >/dev/null && return
    say "telling the kernel that QEMU runs programs for arm64"
    [ -e "$known/register" ] || as_root mount -t binfmt_misc binfmt_misc "$known"
    as_root sh -c "cat /usr/lib/binfmt.d/qemu-aarch64.conf >$known/register"
    arch-test arm64 >/dev/null || die "programs for arm64 do not run here, though $known/qemu-aarch64 is there"
}

# rust: puts a cargo on PATH that is as new as Cargo.toml asks for, installing one through rustup if there is none.
rust() {
    local wanted found
    wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$project/Cargo.toml")
    PATH=$PATH:$HOME/.cargo/bin
    found=$(cd "$project" && cargo --version 2>/dev/null | cut -d' ' -f2) || found=
    if [ -n "$found" ] && [ "$(printf '%s\n' "$wanted" "$found" | sort -V | head -n 1)" = "$wanted" ]; then
        return
    fi
    say "cargo ${found:-(none)} is older than $wanted: installing it with rustup in $HOME/.cargo"
    PATH=$HOME/.cargo/bin:$PATH
    if [ ! -x "$HOME/.cargo/bin/rustup" ]; then
        packages curl ca-certificates
        curl --proto '=https' --tlsv1.2 -fsSL https://sh.rustup.rs |
            sh -s -- -q -y --no-modify-path --profile minimal --default-toolchain none >&2
    fi
    rustup toolchain install "$wanted" --profile minimal --component rustfmt --component clippy >&2
    export RUSTUP_TOOLCHAIN=$wanted
}
