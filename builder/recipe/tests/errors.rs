//! What is wrong with a recipe is said at its place, all at once, in just these words.
//!
//! Each folder in `tests/errors` holds a recipe (`recipe.toml`, perhaps with files that it includes, and `sets`, a
//! `--set` on each line) and `expected.txt`. `IMGBUILD_BLESS=1 cargo test -p imgbuild-recipe --test errors` writes
//! what is said now; read the difference before you commit it.

#![allow(clippy::panic, clippy::unwrap_used)]

mod common;

use std::path::{Path, PathBuf};

use common::{Folder, load_text};
use imgbuild_recipe::*;

fn said(case: &Path) -> String {
    let sets = std::fs::read_to_string(case.join("sets")).unwrap_or_default();
    let sets: Vec<&str> = sets.lines().collect();
    match load(&[case.join("recipe.toml")], &sets) {
        Ok(recipe) => panic!("{} has no error: {}", case.display(), recipe.to_toml()),
        Err(errors) => {
            // Wherever the project lies, paths are shown as from the case's folder.
            let text = errors.to_string().replace(&format!("{}/", case.display()), "");
            text.replace(&case.display().to_string(), ".") + "\n"
        }
    }
}

#[test]
fn errors_are_said_as_they_should_be() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/errors").canonicalize().unwrap();
    let mut cases: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    assert!(cases.len() >= 20, "{}", cases.len());
    let mut wrong = Vec::new();
    for case in cases {
        let said = said(&case);
        let path = case.join("expected.txt");
        if std::env::var_os("IMGBUILD_BLESS").is_some() {
            std::fs::write(&path, &said).unwrap();
        }
        let expected = std::fs::read_to_string(&path).unwrap_or_default();
        if said != expected {
            wrong.push(format!("{}\n--- expected\n{expected}--- said\n{said}", case.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn missing_inputs_are_told_from_wrong_recipes() {
    let errors = |case: &str| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/errors").join(case).join("recipe.toml");
        load(&[path], &[] as &[&str]).unwrap_err()
    };
    assert!(errors("missing-inputs").only_missing_inputs());
    assert!(!errors("wrong-kind-of-input").only_missing_inputs());
    assert!(!errors("all-at-once").only_missing_inputs());
}

#[test]
fn tools_read_errors_as_data() {
    let errors = load_text(b"[image]\nnmae = \"x\"\n").unwrap_err();
    let first = &errors.list()[0];
    let at = first.location.as_ref().unwrap();
    assert_eq!((at.file(), at.line(), at.column()), ("<stdin>", 2, 1));
    assert_eq!(
        serde_json::to_value(first).unwrap(),
        serde_json::json!({
            "kind": "recipe", "message": "unknown key `nmae` in [image]", "label": "did you mean `name`?", "help": null,
            "file": "<stdin>", "line": 2, "column": 1,
        })
    );
    assert!(errors.render(true).contains("\u{1b}["), "in colour");
    assert!(!errors.render(false).contains('\u{1b}'));
}

#[test]
fn what_cannot_be_read_is_an_error() {
    let folder = Folder::new(&[("folder.toml/", "")]);
    assert_eq!(folder.errors(&["none.toml"], &[]), "error: cannot read the recipe none.toml: there is no such file");
    assert_eq!(folder.errors(&["folder.toml"], &[]), "error: cannot read the recipe folder.toml: it is a folder");
    assert_eq!(
        folder.errors(&[], &[]),
        "error: no recipe is given\n |\n = help: name a file, or `-` for standard input"
    );
    folder.write("big.toml", vec![b'#'; (1 << 20) + 1]);
    assert!(folder.errors(&["big.toml"], &[]).contains("it is larger than 1024 KiB, too large for a recipe"));
    let zero = load(&["/dev/zero"], &[] as &[&str]).unwrap_err().to_string();
    assert!(zero.contains("too large for a recipe"), "{zero}");
    let error = load_text(b"[image]\nname = \"\xff\"\n").unwrap_err().to_string();
    assert_eq!(error, "error: cannot read the recipe on standard input: line 2 is not UTF-8 text: it has a byte 0xff");
}

#[test]
fn hostile_texts_are_errors_too() {
    let dotted = |n: usize| vec!["a"; n].join(".");
    let many_keys: String = (0..20_000).map(|n| format!("k{n} = {n}\n")).collect();
    let many_tables: String = (0..5_000).map(|n| format!("[[layer]]\nname = \"n{n}\"\nx = 1\n")).collect();
    // Each parameter holds the one before twice: a terabyte, if one were to write it out.
    let doubled: String = (1..60).map(|n| format!("p{n} = \"${{p{}}}${{p{}}}\"\n", n - 1, n - 1)).collect();
    let lists: String = (0..1500).map(|_| "\"${l}\",").collect();
    let long = "x".repeat(200_000);
    for text in [
        format!("x = {}", "[".repeat(100_000)),
        format!("x = {}", "{a=".repeat(100_000)),
        format!("[{}]", dotted(100_000)),
        format!("{} = 1", dotted(100_000)),
        many_keys,
        many_tables,
        format!("[params]\np0 = \"0123456789\"\n{doubled}[image]\nname = \"${{p59}}\"\n"),
        format!("[params]\nl = [{}]\nm = [{lists}]\n", "\"0123456789\",".repeat(1500)),
        format!("[image]\nname = \"{long}\"\n"),
        format!("{long} = 1\n"),
        "\u{feff}[image]\nname = 3".to_owned(),
        "\0\0\0".to_owned(),
        "[image]\nname = \"a\\u0000b\"\n".to_owned(),
        "a = 1\r".to_owned(),
        "[[[[".to_owned(),
        "\"\"\"".to_owned(),
    ] {
        // A second of one's own processor, here and without optimisation; minutes would mean a square of something.
        let start = std::time::Instant::now();
        let errors = load_text(text.as_bytes()).map(|recipe| recipe.to_toml()).expect_err(&text[..20.min(text.len())]);
        let shown = errors.render(true);
        assert!(shown.len() < 200_000, "{} bytes of errors", shown.len());
        assert!(start.elapsed().as_secs() < 120, "{:?} for {:?}", start.elapsed(), &text[..20.min(text.len())]);
    }
}
