//! No text, however broken, makes the loader panic; and what it reports stands where it says.

mod common;

use common::load_text;
use proptest::prelude::*;
use toml::Value;

const DESIGN: &str = include_str!("design.toml");

/// Words that recipes are made of, so that random tables go beyond their first key.
fn key() -> impl Strategy<Value = String> {
    let known = "image name version arch layer oci url tar file debian overlay copy from to suite packages snapshot \
                 repositories key prune paths keep kernel modules cmdline firmware root delivery compression level block \
                 size tmpfs path mode hook stage script timeout on_failure budget ram test unit mount run exit lint allow \
                 file exists owner port address process module sysctl value journal lacks time at_most contains matches \
                 rule reason params include";
    let known: Vec<String> = known.split_whitespace().map(str::to_owned).collect();
    prop_oneof![8 => proptest::sample::select(known), 1 => any::<String>()]
}

fn value() -> impl Strategy<Value = Value> {
    let text = prop_oneof![
        Just("25%".to_owned()),
        Just("${name}".to_owned()),
        Just("${x} $${y} ${".to_owned()),
        Just("r.io/a:1".to_owned()),
        Just("/usr/share".to_owned()),
        any::<String>(),
    ];
    let leaf = prop_oneof![
        3 => text.prop_map(Value::String),
        1 => any::<i64>().prop_map(Value::Integer),
        1 => any::<f64>().prop_map(Value::Float),
        1 => any::<bool>().prop_map(Value::Boolean),
    ];
    leaf.prop_recursive(4, 40, 6, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::Array),
            proptest::collection::vec((key(), inner), 0..6).prop_map(|pairs| Value::Table(pairs.into_iter().collect())),
        ]
    })
}

/// Loads a text, and looks at what is reported.
fn examine(text: &[u8]) -> Result<(), TestCaseError> {
    match load_text(text) {
        Ok(recipe) => {
            let shown = recipe.to_toml();
            let again = load_text(shown.as_bytes()).map_err(|e| TestCaseError::fail(format!("{shown}\n{e}")))?;
            prop_assert_eq!(again.to_toml(), shown);
        }
        Err(errors) => {
            prop_assert!(!errors.list().is_empty());
            let text = String::from_utf8_lossy(text);
            let lines: Vec<&str> = text.split('\n').collect();
            for error in errors.list() {
                prop_assert!(!error.message.is_empty() && !error.message.contains(char::is_control), "{:?}", error);
                if let Some(at) = &error.location {
                    let line = lines.get(at.line() - 1);
                    prop_assert!(line.is_some_and(|l| at.column() <= l.chars().count() + 2), "{} in\n{}", at, text);
                }
            }
            let shown = errors.render(false);
            prop_assert!(!shown.is_empty() && !shown.contains(|c: char| c.is_control() && c != '\n'), "{:?}", shown);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_tables(pairs in proptest::collection::vec((key(), value()), 0..8)) {
        let table: toml::Table = pairs.into_iter().collect();
        examine(toml::to_string(&table).unwrap_or_default().as_bytes())?;
    }

    #[test]
    fn random_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        examine(&bytes)?;
    }

    #[test]
    fn a_recipe_with_slips(edits in proptest::collection::vec((any::<proptest::sample::Index>(), 0..4_u8, any::<char>()), 1..6)) {
        let mut text: Vec<char> = DESIGN.chars().collect();
        for (index, edit, new) in edits {
            // Cut to its first character, and that taken out.
            if text.is_empty() {
                break;
            }
            let at = index.index(text.len());
            match edit {
                0 => { text.remove(at); }
                1 => text.insert(at, new),
                2 => text[at] = new,
                _ => text.truncate(at + 1),
            }
        }
        examine(text.iter().collect::<String>().as_bytes())?;
    }

    #[test]
    fn random_settings(key in "[a-z.\"= ]{0,12}", value in any::<String>()) {
        let recipe = "[image]\nname = \"x\"\n[[layer]]\nname = \"a\"\noci = \"r.io/a\"\n";
        let sets = [format!("{key}={value}"), key, value];
        let path = [std::path::Path::new("-")];
        if let Err(errors) = imgbuild_recipe::load_with(&path, &sets, &mut recipe.as_bytes()) {
            prop_assert!(!errors.render(true).is_empty());
        }
    }
}
