use imgbuild_tree::{Metadata, Node, RootTree};

use super::*;
use crate::scan::scan;
use crate::testing::{add, put, subject};

/// An ELF64 program or library with these in its dynamic section.
fn elf(interpreter: Option<&str>, needed: &[&str], run_path: &str) -> Vec<u8> {
    const HEADERS: usize = 64 + 3 * 56;
    let mut strings = vec![0];
    let mut string = |text: &str| {
        strings.extend_from_slice(text.as_bytes());
        strings.push(0);
        (strings.len() - text.len() - 1) as u64
    };
    let mut entries: Vec<[u64; 2]> = needed.iter().map(|name| [1, string(name)]).collect();
    if !run_path.is_empty() {
        entries.push([29, string(run_path)]);
    }
    let interpreter = interpreter.map(|path| (string(path), path.len() as u64 + 1));
    let dynamic = (entries.len() as u64 + 3) * 16;
    let (strings_at, whole) = (HEADERS as u64 + dynamic, HEADERS as u64 + dynamic + strings.len() as u64);
    // The whole file is loaded at 0x10000.
    entries.extend([[5, 0x10000 + strings_at], [10, strings.len() as u64], [0, 0]]);
    let mut bytes = vec![0; 64];
    bytes[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    bytes[16..20].copy_from_slice(&[3, 0, 62, 0]);
    bytes[20] = 1;
    bytes[32..40].copy_from_slice(&64_u64.to_le_bytes());
    bytes[52..58].copy_from_slice(&[64, 0, 56, 0, 3, 0]);
    let (interpreter_at, interpreter_len) = interpreter.map_or((0, 0), |(at, len)| (strings_at + at, len));
    let interpreter_type = if interpreter.is_some() { 3 } else { 0 };
    for (kind, at, len) in
        [(1_u32, 0, whole), (2, HEADERS as u64, dynamic), (interpreter_type, interpreter_at, interpreter_len)]
    {
        bytes.extend_from_slice(&kind.to_le_bytes());
        bytes.extend_from_slice(&4_u32.to_le_bytes());
        for word in [at, 0x10000 + at, 0x10000 + at, len, len, 8] {
            bytes.extend_from_slice(&u64::to_le_bytes(word));
        }
    }
    entries.iter().flatten().for_each(|word| bytes.extend_from_slice(&word.to_le_bytes()));
    bytes.extend_from_slice(&strings);
    bytes
}

const LINKER: &str = "/lib64/ld-linux-x86-64.so.2";

fn link(tree: &mut RootTree, path: &str, target: &str) {
    let node = Node { meta: Metadata::root_owned(0o777), kind: Kind::Symlink(target.as_bytes().into()) };
    add(tree, path, node);
}

/// The problems that both rules find, after each other, where everything was pruned that is not there.
fn found(tree: &RootTree) -> Vec<String> {
    let lib = "/usr/lib/x86_64-linux-gnu";
    let paths = ["/usr/bin/perl", "/usr/bin/python3", &format!("{lib}/libapp.so"), &format!("{lib}/libnone.so.1")];
    found_pruned(tree, &paths.map(|path| path.as_bytes().into()).into())
}

fn found_pruned(tree: &RootTree, pruned: &BTreeSet<Box<[u8]>>) -> Vec<String> {
    let scanned = scan(tree, None).unwrap();
    let mut subject = subject(tree);
    subject.scanned = &scanned;
    subject.programs = Programs::read(tree, &scanned).unwrap();
    subject.pruned = Some(pruned);
    let all = [library(&subject).unwrap(), interpreter(&subject).unwrap()].concat();
    all.into_iter().map(|finding| finding.problem).collect()
}

/// A root with a linker, and libraries in the folders of Debian, of ldconfig's configuration and of a program's own.
fn root() -> RootTree {
    let mut tree = RootTree::new();
    link(&mut tree, "/lib64", "usr/lib64");
    link(&mut tree, "/lib", "usr/lib");
    put(&mut tree, "/usr/lib64/ld-linux-x86-64.so.2", &elf(None, &[], ""));
    put(&mut tree, "/usr/lib/x86_64-linux-gnu/libc.so.6", &elf(None, &["ld-linux-x86-64.so.2"], ""));
    put(&mut tree, "/usr/lib/x86_64-linux-gnu/libreal.so.1.2", &elf(None, &["libc.so.6"], ""));
    link(&mut tree, "/usr/lib/x86_64-linux-gnu/libreal.so.1", "libreal.so.1.2");
    link(&mut tree, "/usr/lib/x86_64-linux-gnu/libdangling.so.1", "libgone.so.1.2");
    put(&mut tree, "/etc/ld.so.conf", b"# comment\ninclude ld.so.conf.d/*.conf\n");
    put(&mut tree, "/etc/ld.so.conf.d/vendor.conf", b"/opt/vendor/lib # theirs\ninclude /etc/ld.so.conf\n");
    put(&mut tree, "/opt/vendor/lib/libvendor.so", &elf(None, &["libc.so.6"], ""));
    put(&mut tree, "/opt/app/lib/libapp.so", &elf(None, &["libbeside.so"], ""));
    put(&mut tree, "/opt/app/lib/libbeside.so", &elf(None, &[], ""));
    tree
}

#[test]
fn libraries_that_the_linker_finds() {
    for (path, needed, run_path) in [
        ("/usr/bin/a", &["libc.so.6", "libreal.so.1"][..], ""),
        ("/usr/bin/a", &["libvendor.so"], ""),
        ("/opt/app/bin/a", &["libapp.so"], "$ORIGIN/../lib"),
        ("/opt/app/bin/a", &["libapp.so"], "/nowhere:${ORIGIN}/../lib/"),
        ("/usr/bin/a", &["/opt/app/lib/libapp.so"], ""),
        ("/usr/bin/a", &[], ""),
    ] {
        let mut tree = root();
        put(&mut tree, path, &elf(Some(LINKER), needed, run_path));
        assert_eq!(found(&tree), Vec::<String>::new(), "{needed:?} {run_path}");
    }
}

#[test]
fn libraries_that_it_does_not_find() {
    for (needed, run_path, missing) in [
        (&["libc.so.6", "libnone.so.1", "libnone.so.2"][..], "", "libnone.so.1, libnone.so.2"),
        (&["libdangling.so.1"], "", "libdangling.so.1"),
        (&["libapp.so"], "", "libapp.so"),
        (&["libapp.so"], "$ORIGIN", "libapp.so"),
        (&["/opt/libnone.so"], "", "/opt/libnone.so"),
    ] {
        let mut tree = root();
        put(&mut tree, "/usr/bin/a", &elf(Some(LINKER), needed, run_path));
        let found = found(&tree);
        assert_eq!(found.len(), 1, "{needed:?}: {found:?}");
        assert!(found[0].starts_with(&format!("/usr/bin/a needs {missing}, and no folder")), "{}", found[0]);
    }
}

#[test]
fn what_was_never_there_is_missed_by_programs_only() {
    let mut tree = root();
    put(&mut tree, "/usr/lib/x/plugin.so", &elf(None, &["libnone.so.1"], ""));
    let id = put(&mut tree, "/usr/bin/script", b"#!/usr/bin/perl\n");
    tree.node_mut(id).meta.mode = 0o755;
    assert_eq!(found_pruned(&tree, &BTreeSet::new()), Vec::<String>::new());
    assert_eq!(found(&tree).len(), 2);
    put(&mut tree, "/usr/bin/a", &elf(Some(LINKER), &["libnone.so.1"], ""));
    assert_eq!(found_pruned(&tree, &BTreeSet::new()).len(), 1);
}

#[test]
fn what_was_pruned_elsewhere_was_not_what_is_missed() {
    let mut tree = root();
    link(&mut tree, "/bin", "usr/bin");
    put(&mut tree, "/usr/bin/env", b"x");
    for (path, line) in [("/usr/bin/one", "#!/bin/python\n"), ("/usr/bin/two", "#!/usr/bin/env python\n")] {
        let id = put(&mut tree, path, line.as_bytes());
        tree.node_mut(id).meta.mode = 0o755;
    }
    put(&mut tree, "/usr/lib/x/plugin.so", &elf(None, &["libnone.so.1"], "/lib/gone"));
    let count = |path: &str| found_pruned(&tree, &[path.as_bytes().into()].into()).len();
    for (path, problems) in [
        ("/usr/share/bash-completion/completions/python", 0),
        ("/usr/share/bin/python", 0),
        ("/python", 0),
        ("/usr/bin/python", 2),
        ("/bin/python", 2),
        ("/usr/local/bin/python", 1),
        ("/usr/share/libnone.so.1", 0),
        ("/usr/lib/libnone.so.1", 1),
        ("/lib/libnone.so.1", 1),
        ("/usr/lib/x/libnone.so.1", 1),
        // The folder went with what was in it.
        ("/usr/lib/gone/libnone.so.1", 1),
        ("/gone/libnone.so.1", 0),
    ] {
        assert_eq!(count(path), problems, "{path}");
    }
}

#[test]
fn a_library_may_count_on_the_folders_of_programs() {
    let mut tree = root();
    put(&mut tree, "/usr/lib/x86_64-linux-gnu/libplugin.so", &elf(None, &["libapp.so"], ""));
    assert_eq!(found(&tree).len(), 1);
    put(&mut tree, "/opt/app/bin/a", &elf(Some(LINKER), &["libapp.so"], "$ORIGIN/../lib"));
    assert_eq!(found(&tree), Vec::<String>::new());
}

#[test]
fn a_program_without_its_linker() {
    let mut tree = root();
    put(&mut tree, "/usr/bin/a", &elf(Some("/lib/ld-musl-x86_64.so.1"), &[], ""));
    assert_eq!(found(&tree), ["/usr/bin/a is started by /lib/ld-musl-x86_64.so.1, which the image does not have"]);
}

#[test]
fn scripts_and_their_interpreters() {
    for (text, missing) in [
        ("#!/bin/sh\n", None),
        ("#! /bin/sh -e\n", None),
        ("#!/usr/bin/env sh\n", None),
        ("#!/usr/bin/env -S LANG=C sh -e\n", None),
        ("#!relative\n", None),
        ("#!", None),
        ("#!/usr/bin/perl -w\n", Some("/usr/bin/perl")),
        ("#!/usr/bin/env python3\n", Some("python3")),
        ("#!/bin/sh\r\n", None),
    ] {
        for (path, mode, missing) in [
            ("/usr/bin/script", 0o755, missing),
            ("/usr/bin/script", 0o644, None),
            ("/usr/share/doc/x/examples/script", 0o755, None),
        ] {
            let mut tree = RootTree::new();
            put(&mut tree, "/bin/sh", b"x");
            put(&mut tree, "/usr/bin/env", b"x");
            let id = put(&mut tree, path, text.as_bytes());
            tree.node_mut(id).meta.mode = mode;
            let wanted: Vec<_> = missing
                .map(|missing| format!("/usr/bin/script is a script for {missing}, which the image does not have"))
                .into_iter()
                .collect();
            assert_eq!(found(&tree), wanted, "{text}");
        }
    }
}

#[test]
fn a_real_program_without_its_libraries() {
    let mut tree = RootTree::new();
    put(&mut tree, "/bin/bash", &std::fs::read("/bin/bash").unwrap());
    let found = found(&tree);
    assert!(found.len() == 2 && found[0].contains("libc.so.6") && found[1].contains("/ld-linux"), "{found:?}");
}
