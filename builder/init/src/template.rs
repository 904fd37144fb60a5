//! URLs that name the machine: `http://boot/nodes/${mac}.json`.

use crate::identity::Machine;

/// What may stand between `${` and `}`, and what it becomes; the documentation's table is made of this.
pub const PLACEHOLDERS: &[(&str, &str)] = &[
    ("mac", "MAC address of the boot interface as the boot server's tree spells it, `52-54-00-12-34-56`"),
    ("mac:hexhyp", "the same, spelled as iPXE asks for it, so that a line may be expanded by either"),
    ("uuid", "the firmware's UUID in lower case; an error where it is missing or one that many machines share"),
    ("serial", "the firmware's serial number; an error where it is missing or a vendor's placeholder"),
    ("hostname", "the host name that the network gave, else `node-` and the MAC without separators"),
];

/// A template's parts.
enum Part<'a> {
    Text(&'a str),
    Name(&'a str),
}

fn parts(template: &str) -> Result<Vec<Part<'_>>, String> {
    let mut parts = Vec::new();
    let mut rest = template;
    while let Some((text, after)) = rest.split_once("${") {
        let (name, after) = after.split_once('}').ok_or("a `${` without its `}`")?;
        if !PLACEHOLDERS.iter().any(|(known, _)| *known == name) {
            let known: Vec<String> = PLACEHOLDERS.iter().map(|(known, _)| format!("${{{known}}}")).collect();
            return Err(format!("${{{name}}} is not known; there are {}", known.join(", ")));
        }
        parts.extend([Part::Text(text), Part::Name(name)]);
        rest = after;
    }
    parts.push(Part::Text(rest));
    Ok(parts)
}

/// Whether a template has only placeholders that there are.
///
/// # Errors
///
/// What is wrong, in words.
pub fn check(template: &str) -> Result<(), String> {
    parts(template).map(drop)
}

/// Puts the machine's values in. They come from firmware and network, so that all that could mean something in a URL is
/// percent-encoded (RFC 3986, section 2.3).
///
/// # Errors
///
/// When the machine does not have what is asked for.
pub fn fill(template: &str, machine: &Machine, hostname: &str) -> Result<String, String> {
    let mut url = String::new();
    for part in parts(template)? {
        let name = match part {
            Part::Text(text) => {
                url.push_str(text);
                continue;
            }
            Part::Name(name) => name,
        };
        let value = match name {
            "uuid" => machine.uuid.clone(),
            "serial" => machine.serial.clone(),
            "hostname" => Some(hostname.to_owned()),
            _ => machine.mac.map(|mac| mac.to_string().replace(':', "-")),
        };
        let value = value.ok_or_else(|| format!("${{{name}}}: this machine has none"))?;
        for byte in value.bytes() {
            if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                url.push(char::from(byte));
            } else {
                url.push_str(&format!("%{byte:02X}"));
            }
        }
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Mac;

    fn machine() -> Machine {
        Machine { mac: Some(Mac([0x52, 0x54, 0, 0x12, 0x34, 0x56])), uuid: None, serial: Some("CZ 12/../ä".into()) }
    }

    #[test]
    fn values_are_put_in_as_data() {
        let fill = |template| fill(template, &machine(), "n1");
        assert_eq!(fill("http://b/nodes/${mac}.json").unwrap(), "http://b/nodes/52-54-00-12-34-56.json");
        assert_eq!(fill("${mac:hexhyp}/${hostname}").unwrap(), "52-54-00-12-34-56/n1");
        assert_eq!(fill("http://b/?s=${serial}&$x}").unwrap(), "http://b/?s=CZ%2012%2F..%2F%C3%A4&$x}");
        assert_eq!(fill("${uuid}").unwrap_err(), "${uuid}: this machine has none");
    }

    #[test]
    fn what_is_not_known_is_told_with_what_is() {
        assert!(check("http://b/${mca}").unwrap_err().starts_with("${mca} is not known; there are ${mac}, "));
        assert_eq!(check("http://b/${mac").unwrap_err(), "a `${` without its `}`");
        assert_eq!(check("http://b/x"), Ok(()));
    }

    #[test]
    fn every_placeholder_is_filled() {
        let machine = Machine { uuid: Some("u".into()), ..machine() };
        for (name, _) in PLACEHOLDERS {
            let filled = fill(&format!("${{{name}}}"), &machine, "h").unwrap();
            assert!(!filled.is_empty() && !filled.contains('$'), "{name}: {filled}");
        }
    }
}
