//! Merging of recipes: later ones over earlier ones.
//!
//! Tables merge key by key. Lists of tables append, but an entry whose name stands already replaces that one in its
//! place. Everything else is replaced.

use std::collections::HashMap;

use super::value::{Node, Table, Value};

/// The key whose value names the entries of a list of tables.
pub(crate) fn identity(list: &str) -> &'static str {
    match list {
        "tmpfs" => "path",
        _ => "name",
    }
}

/// The name of an entry of the list `list`, if it has one.
pub(crate) fn name_of<'a>(entry: &'a Node, list: &str) -> Option<&'a str> {
    match &entry.value {
        Value::Table(table) => table.get(identity(list))?.node.as_str(),
        _ => None,
    }
}

/// Lays `over` over `under`. The depth of recursion is that of the values, which is limited where they are read.
pub(crate) fn merge_tables(under: &mut Table, over: Table) {
    for (key, entry) in over {
        match under.get_mut(&key) {
            Some(existing) => {
                existing.key = entry.key;
                merge(&mut existing.node, entry.node, &key);
            }
            None => {
                under.insert(key, entry);
            }
        }
    }
}

fn merge(under: &mut Node, over: Node, key: &str) {
    let lists = under.is_list_of_tables() && over.is_list_of_tables();
    match (&mut under.value, over.value) {
        (Value::Table(existing), Value::Table(table)) => {
            merge_tables(existing, table);
            under.at = over.at;
        }
        (Value::Array(existing), Value::Array(items)) if lists => merge_lists(existing, items, key),
        (_, value) => *under = Node { value, ..over },
    }
}

fn merge_lists(under: &mut Vec<Node>, over: Vec<Node>, key: &str) {
    let mut standing: HashMap<String, usize> = HashMap::new();
    for (index, entry) in under.iter().enumerate() {
        if let Some(name) = name_of(entry, key) {
            standing.entry(name.to_owned()).or_insert(index);
        }
    }
    for entry in over {
        // A name is replaced once: a second one in the same file is a mistake, and must stay to be seen.
        let place = name_of(&entry, key).and_then(|name| standing.remove(name));
        match place.and_then(|index| under.get_mut(index)) {
            Some(existing) => *existing = entry,
            None => under.push(entry),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::value::document;
    use super::*;

    fn table(text: &str) -> Table {
        let (node, errors) = document(text, 0);
        assert!(errors.is_empty(), "{text}");
        match node.value {
            Value::Table(table) => table,
            other => panic!("{other:?}"),
        }
    }

    fn merged(parts: &[&Table]) -> Table {
        let mut result = Table::new();
        for part in parts {
            merge_tables(&mut result, (*part).clone());
        }
        result
    }

    fn shown(table: &Table) -> toml::Table {
        table.iter().map(|(key, entry)| (key.clone(), entry.node.to_toml())).collect()
    }

    #[test]
    fn a_name_twice_in_one_file_stays_to_be_seen() {
        let (a, b) =
            (table("layer = [{ name = 'x', v = 1 }]"), table("layer = [{ name = 'x', v = 2 }, { name = 'x', v = 3 }]"));
        let text = toml::to_string(&shown(&merged(&[&a, &b]))).unwrap();
        assert_eq!(text.matches("name = \"x\"").count(), 2);
        assert!(!text.contains("v = 1"), "{text}");
    }

    #[test]
    fn an_empty_list_adds_nothing_to_a_list_of_tables() {
        let (a, b) = (table("layer = [{ name = 'x' }]\npaths = ['a']"), table("layer = []\npaths = []"));
        assert_eq!(shown(&merged(&[&a, &b])), shown(&table("layer = [{ name = 'x' }]\npaths = []")));
    }

    /// A recipe of the right shape: a key has the same kind of value in every file.
    fn recipe() -> impl Strategy<Value = String> {
        let entries = proptest::collection::vec((proptest::option::of(0..4_u8), 0..9_u8), 0..4);
        (entries.clone(), entries, proptest::option::of(0..9_u8), proptest::option::of(0..9_u8), 0..9_u8).prop_map(
            |(layers, tmpfs, name, level, path)| {
                let mut text = String::new();
                if let Some(name) = name {
                    text.push_str(&format!("[image]\nname = 'n{name}'\nk{name} = {name}\n"));
                }
                if let Some(level) = level {
                    text.push_str(&format!(
                        "[root.compression]\nlevel = {level}\n[prune]\npaths = ['/{level}', '/{path}']\n"
                    ));
                }
                for (key, identity, entries) in [("layer", "name", layers), ("tmpfs", "path", tmpfs)] {
                    let mut seen = Vec::new();
                    for (name, value) in entries {
                        if name.is_some() && seen.contains(&name) {
                            continue;
                        }
                        seen.push(name);
                        text.push_str(&format!("[[{key}]]\nvalue = {value}\n"));
                        if let Some(name) = name {
                            text.push_str(&format!("{identity} = 'n{name}'\n"));
                        }
                    }
                }
                text
            },
        )
    }

    proptest! {
        #[test]
        fn merging_is_associative_and_has_a_neutral_element(a in recipe(), b in recipe(), c in recipe()) {
            let (a, b, c) = (table(&a), table(&b), table(&c));
            let left = merged(&[&merged(&[&a, &b]), &c]);
            let right = merged(&[&a, &merged(&[&b, &c])]);
            prop_assert_eq!(shown(&left), shown(&right));
            prop_assert_eq!(shown(&merged(&[&a, &Table::new()])), shown(&a));
            prop_assert_eq!(shown(&merged(&[&Table::new(), &a])), shown(&a));
        }

        #[test]
        fn the_later_file_wins(a in recipe(), b in recipe()) {
            let (a, b) = (shown(&merged(&[&table(&a), &table(&b)])), shown(&table(&b)));
            for (key, value) in &b {
                match value {
                    toml::Value::Array(entries) => {
                        let all = a[key].as_array().unwrap();
                        prop_assert!(entries.iter().all(|entry| all.contains(entry)));
                    }
                    toml::Value::Table(inner) => {
                        prop_assert!(inner.iter().all(|(k, v)| a[key].get(k) == Some(v)));
                    }
                    other => prop_assert_eq!(&a[key], other),
                }
            }
        }
    }
}
