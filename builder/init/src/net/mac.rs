use std::fmt;

use serde::{Serialize, Serializer};

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// Reads six bytes in hexadecimal, separated by colons or dashes.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let separator = if text.contains('-') { '-' } else { ':' };
        let mut bytes = [0; 6];
        let mut parts = text.split(separator);
        for byte in &mut bytes {
            let part = parts.next()?;
            if part.len() != 2 || !part.bytes().all(|b| b.is_ascii_hexdigit()) {
                return None;
            }
            *byte = u8::from_str_radix(part, 16).ok()?;
        }
        parts.next().is_none().then_some(Self(bytes))
    }

    /// Reads what PXELINUX and iPXE scripts put into `BOOTIF=`: the hardware type, 01 for Ethernet, before the address.
    /// The bare address is taken as well.
    #[must_use]
    pub fn parse_bootif(text: &str) -> Option<Self> {
        Self::parse(text).or_else(|| {
            let (kind, address) = text.split_once(['-', ':'])?;
            (kind == "01").then(|| Self::parse(address)).flatten()
        })
    }

    /// Without separators: `525400123456`.
    #[must_use]
    pub fn compact(self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Mac {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_separators_and_bootif() {
        let mac = Mac([0x52, 0x54, 0, 0xab, 0xcd, 0xef]);
        for text in ["52:54:00:ab:CD:ef", "52-54-00-ab-cd-ef"] {
            assert_eq!(Mac::parse(text), Some(mac), "{text}");
        }
        for text in ["01-52-54-00-ab-cd-ef", "01:52:54:00:ab:cd:ef", "52-54-00-ab-cd-ef"] {
            assert_eq!(Mac::parse_bootif(text), Some(mac), "{text}");
        }
        for text in ["", "52:54:00:ab:cd", "52:54:00:ab:cd:ef:01", "+2:54:00:ab:cd:ef", "52:54-00:ab:cd:ef"] {
            assert_eq!(Mac::parse(text), None, "{text}");
        }
        assert_eq!(Mac::parse_bootif("20-52-54-00-ab-cd-ef"), None);
        assert_eq!((mac.to_string().as_str(), mac.compact().as_str()), ("52:54:00:ab:cd:ef", "525400abcdef"));
    }
}
