# shellcheck shell=bash
# Compiling for arm64 on x86-64: what ci/arm64-bytes and ci/arm64-programs share. Source it after lib.sh.
#
# A Debian 13 in a folder has the cross compiler, its Rust and qemu-user. Needs root, for the chroot; a quarter of an hour and
# 4 GB of disk the first time.

home=${cache:?}/arm64
chroot=$home/chroot
triple=aarch64-unknown-linux-gnu
export home chroot triple

[ "$(id -u)" = 0 ] || die "a chroot needs root: sudo ${0#"$project/"}"
[ "$(uname -m)" = x86_64 ] || die "this compiles on x86-64 for arm64; this machine is $(uname -m)"

# prepare: the Debian that compiles, once. Rust is the backports' one, which both architectures have at one version.
prepare() {
    [ ! -e "$chroot" ] || return 0
    say "preparing Debian 13 with a cross compiler in $chroot"
    rm -rf "$chroot.new"
    mkdir -p "$home"
    local pin='Package: rustc:any cargo:any libstd-rust-*:any\nPin: release n=trixie-backports\nPin-Priority: 990\n'
    local wanted=(
        gcc libc6-dev gcc-aarch64-linux-gnu libc6-dev-arm64-cross
        rustc cargo libstd-rust-dev:amd64 libstd-rust-dev:arm64
        qemu-user # its programs are static: they are run from outside, by their path
    )
    mmdebstrap --quiet --variant=apt --architectures=amd64,arm64 --include="${wanted[*]}" \
        --setup-hook="printf '$pin' >\"\$1/etc/apt/preferences.d/rust\"" trixie "$chroot.new" \
        'deb http://deb.debian.org/debian trixie main' 'deb http://deb.debian.org/debian trixie-backports main'
    mkdir "$chroot.new"/{imgbuild,cargo,target,programs}
    # Not in the environment: the cargo that runs in a build script would not see it.
    mkdir "$chroot.new/.cargo"
    printf '[target.%s]\nlinker = "aarch64-linux-gnu-gcc"\nrustflags = ["-Ctarget-feature=+crt-static"]\n' "$triple" \
        >"$chroot.new/.cargo/config.toml"
    mv "$chroot.new" "$chroot"
}

# compile PROGRAMS CARGO-ARGUMENT…: runs cargo in the chroot. PROGRAMS is a folder with the node's programs, which imgbuild
# then carries instead of building them; nothing if it is to build them. What is mounted there is mounted in a name space of
# that process alone, and gone with it.
compile() {
    mkdir -p "$home/cargo" "$home/target"
    # shellcheck disable=SC2016 # the inner shell's variables
    unshare --mount --propagation private bash -euc '
        chroot=$1 project=$2 home=$3 programs=$4
        shift 4
        mount --bind "$project" "$chroot/imgbuild"
        mount -o remount,bind,ro "$chroot/imgbuild"
        mount --bind "$home/cargo" "$chroot/cargo"
        mount --bind "$home/target" "$chroot/target"
        mount -t proc proc "$chroot/proc"
        mount --rbind /dev "$chroot/dev"
        given=()
        if [ -n "$programs" ]; then
            mount --bind "$programs" "$chroot/programs"
            given=(NETBOOT_PROGRAMS=/programs)
        fi
        # How this machine reaches crates.io.
        for file in /etc/resolv.conf /etc/ssl/certs/ca-certificates.crt; do
            [ -e "$chroot$file" ] || install -D /dev/null "$chroot$file"
            mount --bind "$file" "$chroot$file"
        done
        exec chroot "$chroot" env -i PATH=/usr/bin HOME=/root CARGO_HOME=/cargo CARGO_TARGET_DIR=/target \
            CARGO_HTTP_CAINFO=/etc/ssl/certs/ca-certificates.crt "${given[@]}" \
            sh -c "cd /imgbuild && exec cargo \"\$@\"" cargo "$@"
    ' bash "$chroot" "$project" "$home" "$1" "${@:2}"
}
