//! What a configuration may hold, as a table, and the documentation and the JSON Schema that are made of it.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

/// What a field holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A string; with a pattern where not every one will do.
    Text(Option<&'static str>),
    /// A string, a whole number or a boolean.
    Scalar,
    /// An object, whose keys match the pattern and whose values are as the field `PATH.NAME` says.
    Map(&'static str),
    /// A list, whose items are as the fields below `PATH[]` say.
    List,
}

/// A field of the configuration.
#[derive(Debug, Clone, Copy)]
pub struct Field {
    /// Where: `hostname`, `variables.NAME`, `files[].path`.
    pub path: &'static str,
    /// What it holds.
    pub kind: Kind,
    /// Whether it has to be there.
    pub required: bool,
    /// What it is for, in Markdown.
    pub meaning: &'static str,
}

/// Names of variables: those of a shell.
pub(super) const VARIABLE_NAME: &str = "^[A-Za-z_][A-Za-z0-9_]*$";
/// Keys that are a site's own.
pub(super) const OWN_PREFIX: &str = "x-";

/// Every field. Reading is [`super::parse`]'s, and a test holds the two together.
pub const FIELDS: &[Field] = &[
    Field {
        path: "hostname",
        kind: Kind::Text(Some("^[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*$")),
        required: false,
        meaning: "host name (RFC 1123), with or without a domain; it wins over the network's",
    },
    Field {
        path: "variables",
        kind: Kind::Map(VARIABLE_NAME),
        required: false,
        meaning: "environment variables for the `pre-init` and `online` hooks, and for `/run/netboot/env`",
    },
    Field {
        path: "variables.NAME",
        kind: Kind::Scalar,
        required: false,
        meaning: "its value, handed on as data, never as code; not `NETBOOT_…`, `LD_…`, `PATH`, `HOME`, `LC_ALL`, \
                  `IFS`, `ENV` and `BASH_ENV`",
    },
    Field {
        path: "files",
        kind: Kind::List,
        required: false,
        meaning: "files for the new root, written before the `pre-init` hooks, owned by root; their folders are made",
    },
    Field {
        path: "files[].path",
        kind: Kind::Text(Some("^/")),
        required: true,
        meaning: "absolute, without `..`, not below `/proc`, `/sys` and `/dev`; symbolic links on its way lead into the \
                  new root, never out of it",
    },
    Field {
        path: "files[].mode",
        kind: Kind::Text(Some("^0?[0-7]{3}$")),
        required: false,
        meaning: "permission bits in octal digits, `\"0644\"` if it is not there",
    },
    Field { path: "files[].contents", kind: Kind::Text(None), required: true, meaning: "what it is to hold" },
];

/// A configuration that says all there is.
const EXAMPLE: &str = r#"{
  "hostname": "node7.rack3.example",
  "variables": { "BOND": "eno1 eno2", "VLAN": 42 },
  "files": [
    { "path": "/etc/motd", "contents": "rack 3, slot 7\n" },
    { "path": "/root/.ssh/authorized_keys", "mode": "0600", "contents": "ssh-ed25519 AAAA… ops\n" }
  ],
  "x-inventory": { "asset": 4711 }
}
"#;

impl Kind {
    fn in_words(self) -> String {
        match self {
            Self::Text(_) => "string".into(),
            Self::Scalar => "string, whole number or boolean".into(),
            Self::Map(_) => "object".into(),
            Self::List => "list".into(),
        }
    }
}

/// The documentation's page.
#[must_use]
pub fn markdown() -> String {
    let mut text = String::from(
        "# A node's configuration\n\nWhat `netboot.config=URL[,URL…]` on the kernel command line names: a JSON document of at most a mebibyte, \
         fetched over HTTP once the\nnetwork is up. In the URL, and in that of `netboot.report=`, these are filled in:\n\n\
         | placeholder | becomes |\n|---|---|\n",
    );
    for (name, meaning) in crate::template::PLACEHOLDERS {
        let _ = writeln!(text, "| `${{{name}}}` | {meaning} |");
    }
    text.push_str(
        "\niPXE and GRUB fill in `${…}` themselves when it stands in a script of theirs, GRUB with nothing where it knows no such \
         variable;\niPXE's `${mac:hexhyp}` gives what `${mac}` gives here.\n\n",
    );
    let _ = writeln!(text, "```json\n{EXAMPLE}```\n");
    text.push_str("| field | type | | meaning |\n|---|---|---|---|\n");
    for field in FIELDS {
        let required = if field.required { "required" } else { "" };
        let _ = writeln!(text, "| `{}` | {} | {required} | {} |", field.path, field.kind.in_words(), field.meaning);
    }
    let _ = write!(
        text,
        "\nKeys of your own begin with `{OWN_PREFIX}` and are not looked at. Any other key is told with the nearest known one and \
         otherwise ignored, so\nthat an older image boots with a newer document. A wrong type or value is an error: every one is named with \
         its path and what was\nfound, nothing of the document is used, and the boot fails.\n\nThe document is kept as it came at \
         `/run/netboot/config.json`, mode 0600. It came over plain HTTP from a server that anybody on\nthe network may ask: no secrets in it.\n"
    );
    text
}

/// The JSON Schema (2020-12) of a configuration, for editors and whatever writes one.
#[must_use]
pub fn json_schema() -> Value {
    let mut schema = object_of("");
    if let Some(root) = schema.as_object_mut() {
        root.insert("$schema".into(), "https://json-schema.org/draft/2020-12/schema".into());
        root.insert("title".into(), "a node's configuration for netboot-init".into());
        root.insert("patternProperties".into(), json!({ (format!("^{OWN_PREFIX}")): {} }));
    }
    schema
}

/// The object whose fields have paths that begin with `prefix`.
fn object_of(prefix: &str) -> Value {
    let mut properties = Map::new();
    let mut required = Vec::new();
    for field in FIELDS {
        let Some(name) = field.path.strip_prefix(prefix).filter(|name| !name.contains(['.', '['])) else { continue };
        properties.insert(name.to_owned(), one(field));
        if field.required {
            required.push(name);
        }
    }
    let mut object = json!({ "type": "object", "properties": properties, "additionalProperties": false });
    if !required.is_empty() {
        object["required"] = required.into();
    }
    object
}

fn one(field: &Field) -> Value {
    let mut schema = match field.kind {
        Kind::Text(None) => json!({ "type": "string" }),
        Kind::Text(Some(pattern)) => json!({ "type": "string", "pattern": pattern }),
        Kind::Scalar => json!({ "type": ["string", "integer", "boolean"] }),
        Kind::Map(names) => {
            let value = FIELDS.iter().find(|other| other.path.strip_prefix(field.path) == Some(".NAME"));
            let names = json!({ "pattern": names });
            json!({ "type": "object", "propertyNames": names, "additionalProperties": value.map(one) })
        }
        Kind::List => json!({ "type": "array", "items": object_of(&format!("{}[].", field.path)) }),
    };
    schema["description"] = field.meaning.into();
    schema
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_is_right() {
        let parsed = super::super::parse(EXAMPLE.as_bytes()).unwrap();
        assert_eq!(parsed.warnings, [] as [&str; 0]);
        assert_eq!((parsed.config.files.len(), parsed.config.variables.len()), (2, 2));
    }

    #[test]
    fn every_field_is_in_page_and_schema() {
        let (page, schema) = (markdown(), json_schema());
        for field in FIELDS {
            assert!(page.contains(&format!("| `{}` |", field.path)), "{}", field.path);
            let pointer = field.path.replace("variables.NAME", "variables/additionalProperties");
            let pointer = format!("/properties/{}", pointer.replace("[].", "/items/properties/"));
            let found = schema.pointer(&pointer).unwrap_or_else(|| panic!("{pointer}: {schema:#}"));
            assert_eq!(found["description"], field.meaning);
        }
        assert_eq!(schema.pointer("/properties/files/items/required"), Some(&json!(["path", "contents"])));
    }
}
