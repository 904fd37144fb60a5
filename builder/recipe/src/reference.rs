//! The reference page: all keys of a recipe, made from the types, so that it cannot drift from them.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use serde_json::Value;

use crate::load::{TABLES, TOP_LEVEL};
use crate::schema::strict;

const PREFACE: &str = r#"# Recipe reference

<!-- Made by `imgbuild_recipe::reference()` from the types that read recipes. Do not edit. -->

A recipe is TOML, read strictly: an unknown key is an error. `imgbuild show RECIPE…` prints what all files together
say; `imgbuild schema` prints the JSON Schema for editors.

## How files are merged

`imgbuild build A.toml B.toml` lays B over A. What a file includes comes before the file itself; a file that is
included more than once is read once.

- Tables merge key by key.
- Lists of tables (`[[layer]]`, `[[hook]]`, …) append. An entry with the `name` of an earlier file's entry replaces
  that one, in its place. A `[[tmpfs]]` is named by its `path`.
- Everything else is replaced: numbers, strings, lists of strings.
- `--set KEY=VALUE` wins over all files. The value is TOML if it parses as such, else a string. Entries of a list of
  tables are called by their names: `--set layer.base.oci=…`, `--set 'tmpfs."/var/lib/kubelet".size=30%'`.

Relative paths start from the folder of the file that they stand in (in `--set` and on standard input: from the working
folder).

## Parameters

`${name}` in any string stands for the parameter `name` of `[params]`; `$${` stands for a plain `${`. A string that is
nothing but `${name}` takes the parameter's value with its type: `level = "${level}"` may be a number. As an item of a list, a
parameter that is a list stands for all its items: `packages = ["curl", "${packages}"]`. Parameters may use parameters. `include`
takes none.
"#;

/// All keys of a recipe as Markdown.
#[must_use]
pub fn reference() -> String {
    let schema = strict();
    let mut page = Page { schema: &schema, text: PREFACE.to_owned(), done: BTreeSet::new() };
    page.text.push_str("\n## Top level\n");
    page.table("Recipe", &schema, TOP_LEVEL);
    for key in TOP_LEVEL {
        let Some(property) = schema.pointer(&format!("/properties/{key}")) else { continue };
        if let Some((definition, list)) = page.object(property) {
            let heading = if list { format!("`[[{key}]]`") } else { format!("`[{key}]`") };
            page.section(&heading, definition, 2);
        }
    }
    page.text
}

struct Page<'a> {
    schema: &'a Value,
    text: String,
    done: BTreeSet<&'a str>,
}

impl<'a> Page<'a> {
    /// The definition that a property refers to.
    fn definition(&self, property: &'a Value) -> Option<(&'a str, &'a Value)> {
        let name = property.get("$ref")?.as_str()?.strip_prefix("#/$defs/")?;
        Some((name, self.schema.get("$defs")?.get(name)?))
    }

    /// The table that a property is, or is a list of: its definition's name, and whether it is a list.
    fn object(&self, property: &'a Value) -> Option<(&'a str, bool)> {
        let (property, list) = match property.get("items") {
            Some(items) => (items, true),
            None => (property, false),
        };
        let (name, definition) = self.definition(property)?;
        (definition.get("type")? == "object").then_some((name, list))
    }

    fn section(&mut self, heading: &str, name: &'a str, level: usize) {
        let Some(definition) = self.schema.get("$defs").and_then(|defs| defs.get(name)) else { return };
        if !self.done.insert(name) {
            return;
        }
        let _ = writeln!(self.text, "\n{} {heading}\n\n{}", "#".repeat(level), description(definition));
        let keys = TABLES.iter().find(|(table, _)| *table == name).map_or(&[][..], |(_, keys)| keys);
        self.table(name, definition, keys);
        for key in keys {
            let Some(property) = definition.get("properties").and_then(|p| p.get(key)) else { continue };
            if let Some((inner, list)) = self.object(property) {
                let of = heading.trim_matches('`');
                let heading =
                    if list { format!("`{of} {key} = [{{…}}]`") } else { format!("`{of} {key} = {{…}}`") };
                self.section(&heading, inner, level + 1);
            }
        }
    }

    fn table(&mut self, name: &str, definition: &'a Value, keys: &[&str]) {
        self.text.push_str("\n| key | value | default | meaning |\n|---|---|---|---|\n");
        let required: Vec<&str> = definition
            .get("required")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        for key in keys {
            let Some(property) = definition.get("properties").and_then(|p| p.get(key)) else { continue };
            let default = match property.get("default") {
                _ if required.contains(key) => "**required**".to_owned(),
                // The defaults of whole tables stand in the tables' own sections.
                Some(Value::Object(_)) | None => String::new(),
                Some(Value::Array(items)) if items.is_empty() => String::new(),
                Some(value) => format!("`{value}`"),
            };
            let meaning = self.meaning(property);
            let kind = self.kind(property, if name == "Recipe" { Some(key) } else { None });
            let cells = [format!("`{key}`"), kind, default, meaning].map(|cell| cell.replace('|', "\\|"));
            let _ = writeln!(self.text, "| {} |", cells.join(" | "));
        }
    }

    /// What kind of value a property has, in words.
    fn kind(&self, property: &'a Value, section: Option<&str>) -> String {
        if let Some((_, list)) = self.object(property) {
            return match (section, list) {
                (Some(key), true) => format!("[tables](#{key})"),
                (Some(key), false) => format!("[table](#{key})"),
                (None, true) => "list of tables".to_owned(),
                (None, false) => "table".to_owned(),
            };
        }
        if let Some((name, definition)) = self.definition(property) {
            return match (definition.get("oneOf"), name) {
                (_, "ByteSize") => "size".to_owned(),
                (_, "Size") => "size or share".to_owned(),
                (_, "Seconds") => "duration".to_owned(),
                (_, "Mode") => "octal number".to_owned(),
                (Some(Value::Array(choices)), _) => {
                    let names = choices.iter().filter_map(|choice| choice.get("const"));
                    names.map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
                }
                _ => name.to_owned(),
            };
        }
        match property.get("type").and_then(Value::as_str) {
            Some("array") => "list of strings".to_owned(),
            Some("object") => "table".to_owned(),
            Some(kind) => kind.to_owned(),
            None => String::new(),
        }
    }

    /// What a property means, with what each of its names means.
    fn meaning(&self, property: &'a Value) -> String {
        let mut text = description(property).to_owned();
        let choices = self.definition(property).and_then(|(_, definition)| definition.get("oneOf")?.as_array());
        for choice in choices.into_iter().flatten() {
            if let (Some(name), meaning) = (choice.get("const").and_then(Value::as_str), description(choice)) {
                let _ = write!(text, " `{name}`: {meaning}");
            }
        }
        text
    }
}

fn description(value: &Value) -> &str {
    value.get("description").and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_on_the_page_with_its_meaning() {
        let page = reference();
        for (table, keys) in TABLES {
            for key in *keys {
                let rows: Vec<_> = page.lines().filter(|line| line.starts_with(&format!("| `{key}` |"))).collect();
                assert!(!rows.is_empty(), "{key} of {table}");
                assert!(rows.iter().all(|row| row.split(" | ").last().is_some_and(|m| m.len() > 5)), "{rows:?}");
            }
        }
        for row in [
            "| `name` | string | **required** | Its name: lower-case letters, digits, `.`, `_` and `-`. The bundle's folder is `NAME-VERSION`. |",
            "| `block` | size | `\"1MiB\"` | Size of a block: a power of two from 4K to 1M; by default 1M. Larger blocks compress better; reading a byte unpacks a whole block. |",
            "| `delivery` | `\"fetch\"`, `\"embed\"` | `\"fetch\"` | How it reaches the node. `fetch`: The initrd downloads it. `embed`: It is inside the initrd, as a squashfs. A root that is the initramfs itself is not offered: runc cannot `pivot_root` there, so no container would start. |",
        ] {
            assert!(page.lines().any(|line| line == row), "{row}\nis not in\n{page}");
        }
        for heading in ["## `[image]`", "## `[[layer]]`", "### `[[layer]] debian = {…}`", "### `[lint] allow = [{…}]`"]
        {
            assert!(page.lines().any(|line| line == heading), "{heading}");
        }
    }
}
