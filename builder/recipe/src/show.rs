//! A loaded recipe as text again.

use crate::Recipe;
use crate::load::params::escape;

impl Recipe {
    /// The merged recipe as TOML, parameters put in and paths absolute: read again from anywhere, it is the same
    /// recipe.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let Ok(mut table) = toml::Table::try_from(self) else {
            // Every type of a recipe is one of TOML's; a test reads back what is written here.
            return String::new();
        };
        // What is at its default and empty says nothing.
        table.retain(|_, value| !matches!(value, toml::Value::Table(table) if table.is_empty()));
        table.iter_mut().for_each(|(_, value)| escape_strings(value));
        let mut text = String::new();
        // Tables in the order of the reference, not of the alphabet.
        for key in crate::load::TOP_LEVEL {
            if let Some(value) = table.remove(*key) {
                let part = toml::Table::from_iter([((*key).to_owned(), value)]);
                if !text.is_empty() {
                    text.push('\n');
                }
                text.push_str(&toml::to_string(&part).unwrap_or_default());
            }
        }
        text
    }
}

fn escape_strings(value: &mut toml::Value) {
    match value {
        toml::Value::String(text) if text.contains("${") => *text = escape(text),
        toml::Value::Array(items) => items.iter_mut().for_each(escape_strings),
        toml::Value::Table(table) => table.iter_mut().for_each(|(_, value)| escape_strings(value)),
        _ => {}
    }
}
