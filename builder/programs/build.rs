//! Builds the programs that run on the node and hands them to `src/lib.rs` as files in `OUT_DIR`.
//!
//! They are not dependencies in cargo's sense: they need another profile (`node`), static linking, and bytes that do
//! not depend on who builds them where. So a second cargo builds them, in a target folder of its own: the outer cargo
//! holds the lock of its own one while this script runs.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// What is carried: under which name, and of which package (whose binary has its name) with which features.
const PROGRAMS: [(&str, &str, &str); 3] = [
    ("netboot-init", "netboot-init", ""),
    ("netboot-init-tls", "netboot-init", "tls"),
    ("netboot-probe", "netboot-probe", ""),
];

/// Where the programs are built below the outer target folder. One place for all outer profiles, so that `check`,
/// `clippy`, `test` and `build --release` share one build. Not `node`: that is where `--profile node` goes.
const TARGET_FOLDER: &str = "node-programs";

/// A file in that folder. Two programs are one package's with other features, and are built under one name: whoever builds
/// holds this file's lock until all are carried away, or an outer cargo beside this one could put the other under it.
const LOCK: &str = ".carrying";

/// A variable that names a folder with all of the programs: they are carried as they are, and nothing is built. For an
/// `imgbuild` of another architecture than the nodes', or one that carries the very bytes of another.
const PREBUILT: &str = "NETBOOT_PROGRAMS";

/// Variables that name such a folder for nodes of another architecture, with what its ELF headers say (`e_machine`): these are
/// carried besides. An `imgbuild` so built makes initrds for both.
const FOREIGN: [(&str, &str, u8); 2] =
    [("NETBOOT_PROGRAMS_AMD64", "amd64", 62), ("NETBOOT_PROGRAMS_ARM64", "arm64", 183)];

/// What `src/lib.rs` includes to know of them.
const TABLE: &str = "foreign.rs";

/// What a nested cargo may inherit of the variables that begin with `CARGO`: where things are and how they are
/// fetched, and the job server. Everything else describes the outer build (its profile, flags, package) and would leak.
const INHERITED: [&str; 7] = [
    "CARGO_HOME",
    "CARGO_MAKEFLAGS",
    "CARGO_HTTP_",
    "CARGO_NET_",
    "CARGO_REGISTRIES_",
    "CARGO_REGISTRY_",
    "CARGO_SOURCE_",
];

/// What cargo sets for build scripts, and what changes how rustc is called: `cargo clippy` for one replaces the
/// compiler through `RUSTC_WORKSPACE_WRAPPER`.
const REMOVED: [&str; 13] = [
    "RUSTFLAGS",
    "RUSTDOCFLAGS",
    "RUSTC_WRAPPER",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTC_LINKER",
    "TARGET",
    "HOST",
    "OUT_DIR",
    "OPT_LEVEL",
    "PROFILE",
    "DEBUG",
    "CLIPPY_ARGS",
    "CLIPPY_CONF_DIR",
];

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            for line in message.lines() {
                println!("cargo::error={line}");
            }
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), String> {
    let package = PathBuf::from(variable("CARGO_MANIFEST_DIR")?);
    let out = PathBuf::from(variable("OUT_DIR")?);
    let workspace = package
        .ancestors()
        .nth(2)
        .ok_or_else(|| format!("{}: not two folders below a workspace", package.display()))?;
    let target = format!("{}-unknown-linux-gnu", variable("CARGO_CFG_TARGET_ARCH")?.to_string_lossy());
    let target_dir = outer_target_dir(&out)?.join(TARGET_FOLDER);

    println!("cargo::rerun-if-changed=build.rs");
    carry_foreign(&out)?;
    println!("cargo::rerun-if-env-changed={PREBUILT}");
    if let Some(folder) = env::var_os(PREBUILT).map(PathBuf::from) {
        for (name, ..) in PROGRAMS {
            let built = folder.join(name);
            rerun_if_changed(&built);
            carry(&built, &out.join(name)).map_err(|e| format!("{PREBUILT} is set: {e}"))?;
        }
        return Ok(());
    }
    for file in ["Cargo.toml", "Cargo.lock"] {
        rerun_if_changed(&workspace.join(file));
    }

    let _alone = lock(&target_dir)?;
    for (name, package, features) in PROGRAMS {
        build(workspace, &target, &target_dir, package, features)?;
        let built = target_dir.join(&target).join("node").join(package);
        rerun_if_sources_changed(&built.with_extension("d"))?;
        carry(&built, &out.join(name))?;
    }
    Ok(())
}

/// Puts the programs of other architectures where `src/lib.rs` finds them, and writes down which ones there are.
fn carry_foreign(out: &Path) -> Result<(), String> {
    let mut table = String::from("&[\n");
    for (variable, arch, machine) in FOREIGN {
        println!("cargo::rerun-if-env-changed={variable}");
        let Some(folder) = env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from) else { continue };
        let into = out.join(arch);
        fs::create_dir_all(&into).map_err(|e| format!("{}: {e}", into.display()))?;
        table.push_str("Programs {\n");
        for ((name, ..), field) in PROGRAMS.iter().zip(["init", "init_tls", "probe"]) {
            let built = folder.join(name);
            rerun_if_changed(&built);
            carry(&built, &into.join(name)).map_err(|e| format!("{variable} is set: {e}"))?;
            let header = fs::read(into.join(name)).map_err(|e| format!("{}: {e}", into.display()))?;
            if header.get(18..20) != Some(&[machine, 0]) {
                return Err(format!("{variable} is set, and {} is no program for {arch}", built.display()));
            }
            let place = format!("concat!(env!(\"OUT_DIR\"), \"/{arch}/{name}\")");
            table.push_str(&format!("    {field}: include_bytes!({place}),\n"));
        }
        table.push_str("},\n");
    }
    table.push_str("]\n");
    let place = out.join(TABLE);
    fs::write(&place, table).map_err(|e| format!("{}: {e}", place.display()))
}

/// Waits until nobody else builds in this folder; the lock ends with the file.
fn lock(target_dir: &Path) -> Result<File, String> {
    let path = target_dir.join(LOCK);
    let made = fs::create_dir_all(target_dir).and_then(|()| File::create(&path));
    let file = made.map_err(|e| format!("{}: {e}", path.display()))?;
    file.lock().map_err(|e| format!("{}: lock: {e}", path.display()))?;
    Ok(file)
}

fn build(workspace: &Path, target: &str, target_dir: &Path, package: &str, features: &str) -> Result<(), String> {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (name, _) in env::vars_os() {
        if leaks(&name) {
            cargo.env_remove(name);
        }
    }
    cargo.current_dir(workspace).args(["build", "--locked", "--profile", "node", "--target", target]);
    cargo.args(["--package", package, "--bin", package, "--features", features]);
    cargo.arg("--target-dir").arg(target_dir);
    cargo.env("CARGO_ENCODED_RUSTFLAGS", rustflags(workspace, target_dir)?);
    let output = cargo.output().map_err(|e| format!("{}: {e}", cargo.get_program().to_string_lossy()))?;
    if !output.status.success() {
        return Err(format!(
            "the node's program {package} does not build for {target}: {}\n{}\nto see it alone: cargo build --profile node \
             --package {package} --features \"{features}\"",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim_end(),
        ));
    }
    Ok(())
}

/// Puts a program where `src/lib.rs` finds it: the bytes alone, without the mode and owner that they have elsewhere.
fn carry(built: &Path, carried: &Path) -> Result<(), String> {
    let bytes = fs::read(built).map_err(|e| format!("{}: {e}", built.display()))?;
    fs::write(carried, bytes).map_err(|e| format!("{}: {e}", carried.display()))
}

fn variable(name: &str) -> Result<OsString, String> {
    env::var_os(name).ok_or_else(|| format!("{name} is not set: this is a build script, run by cargo"))
}

/// The outer target folder. Cargo does not tell a build script where it is, but `OUT_DIR` is always
/// `TARGET[/TRIPLE]/PROFILE/build/PACKAGE-HASH/out`, and cargo marks the top with `CACHEDIR.TAG`.
fn outer_target_dir(out: &Path) -> Result<PathBuf, String> {
    out.ancestors()
        .skip(1)
        .find(|folder| folder.join("CACHEDIR.TAG").is_file())
        .or_else(|| out.ancestors().nth(4))
        .map(Path::to_path_buf)
        .ok_or_else(|| format!("{}: not a build script's output folder", out.display()))
}

fn leaks(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    REMOVED.contains(&&*name)
        || name.starts_with("DEP_")
        || (name.starts_with("CARGO") && !INHERITED.iter().any(|kept| name.starts_with(kept)))
}

/// Whether this machine's glibc, which is linked in, is 2.36 or later: with an older one a program with packed relocations would
/// not start, and no linker says so.
fn glibc_reads_packed_relocations() -> bool {
    let Ok(output) = Command::new("getconf").arg("GNU_LIBC_VERSION").output() else { return false };
    // `glibc 2.36`
    let text = String::from_utf8_lossy(&output.stdout);
    let version = text.trim().strip_prefix("glibc ").and_then(|version| version.split_once('.'));
    version.is_some_and(|(major, minor)| {
        matches!(
            (major.parse(), minor.split('.').next().unwrap_or_default().parse()),
            (Ok(2_u32), Ok(36_u32..)) | (Ok(3..), Ok(_))
        )
    })
}

/// Flags for the node's programs, separated as `CARGO_ENCODED_RUSTFLAGS` wants them: linked statically, no build id,
/// relocations packed where glibc reads them (64 KB less; a linker that cannot do it says so and does not), and no path of
/// this machine in a panic message. Setting the variable also overrides what a configuration file of
/// the user says.
fn rustflags(workspace: &Path, target_dir: &Path) -> Result<OsString, String> {
    let home = env::var_os("HOME").map(PathBuf::from);
    let cargo_home = env::var_os("CARGO_HOME").map(PathBuf::from).or_else(|| Some(home.as_ref()?.join(".cargo")));
    let mut flags = OsString::from("-Ctarget-feature=+crt-static\x1f-Clink-arg=-Wl,--build-id=none");
    if glibc_reads_packed_relocations() {
        flags.push("\x1f-Clink-arg=-Wl,-z,pack-relative-relocs");
    }
    // Rustc takes the last one that fits: from the general to the special.
    let prefixes = [
        (home, "/home"),
        (cargo_home, "/cargo"),
        (Some(workspace.into()), "/imgbuild"),
        (Some(target_dir.into()), "/target"),
    ];
    for (from, to) in prefixes {
        // A prefix of `/` or nothing would rename every path there is.
        let Some(from) = from.filter(|path| path.is_absolute() && path.parent().is_some()) else { continue };
        if from.as_os_str().as_encoded_bytes().contains(&0x1f) {
            return Err(format!("{}: a path with a unit separator cannot be passed to rustc", from.display()));
        }
        flags.push("\x1f--remap-path-prefix=");
        flags.push(from);
        flags.push("=");
        flags.push(to);
    }
    Ok(flags)
}

fn rerun_if_changed(path: &Path) {
    println!("cargo::rerun-if-changed={}", path.display());
}

/// Tells the outer cargo every source file that went into a program, path dependencies included, from the list that
/// the nested cargo keeps beside it (`OUTPUT: FILE FILE…`, blanks escaped with a backslash), and their manifests.
fn rerun_if_sources_changed(list: &Path) -> Result<(), String> {
    let text = fs::read_to_string(list).map_err(|e| format!("{}: {e}", list.display()))?;
    let mut manifests = Vec::new();
    for line in text.lines() {
        let Some((_, files)) = line.split_once(": ") else { continue };
        for file in files.replace("\\ ", "\0").split(' ').filter(|f| !f.is_empty()) {
            let file = PathBuf::from(file.replace('\0', " "));
            if let Some(manifest) = file.ancestors().map(|a| a.join("Cargo.toml")).find(|m| m.is_file())
                && !manifests.contains(&manifest)
            {
                rerun_if_changed(&manifest);
                manifests.push(manifest);
            }
            rerun_if_changed(&file);
        }
    }
    if manifests.is_empty() {
        return Err(format!("{}: names no source file", list.display()));
    }
    Ok(())
}
