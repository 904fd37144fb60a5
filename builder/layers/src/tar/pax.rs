//! What tar-core leaves to its caller in PAX extended headers: times before 1970, attributes as libarchive writes them,
//! and the check that every record is whole.

use imgbuild_tree::Xattrs;

/// The records of one extended header that matter here.
#[derive(Debug, Default)]
pub(super) struct Records {
    /// Seconds since 1970, rounded down.
    pub(super) mtime: Option<i64>,
    pub(super) size: Option<u64>,
    /// Whether the content begins with a sparse map.
    pub(super) sparse_1_0: bool,
    pub(super) xattrs: Xattrs,
}

impl Records {
    /// Reads and checks the records; an error in words.
    pub(super) fn read(data: Option<&[u8]>) -> Result<Self, String> {
        let mut read = Self::default();
        let Some(data) = data else { return Ok(read) };
        let (mut major, mut minor) = (None, None);
        let mut from_libarchive = Xattrs::new();
        for record in records(data) {
            let (key, value) = record?;
            if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                read.xattrs.insert(attribute(name)?, value.into());
            } else if let Some(name) = key.strip_prefix(b"LIBARCHIVE.xattr.") {
                let value = base64(value).ok_or_else(|| unreadable(key, value))?;
                from_libarchive.insert(attribute(&percent_decoded(name))?, value.into());
            } else {
                match key {
                    b"mtime" if !value.is_empty() => {
                        read.mtime = Some(seconds(value).ok_or_else(|| unreadable(key, value))?)
                    }
                    b"size" if !value.is_empty() => read.size = Some(number(key, value)?),
                    b"uid" | b"gid" if !value.is_empty() => {
                        number(key, value)?;
                    }
                    b"GNU.sparse.major" => major = Some(number(key, value)?),
                    b"GNU.sparse.minor" => minor = Some(number(key, value)?),
                    b"GNU.sparse.size" | b"GNU.sparse.realsize" | b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => {
                        number(key, value)?;
                    }
                    _ => {}
                }
            }
        }
        read.sparse_1_0 = (major, minor) == (Some(1), Some(0));
        // An archive with both forms has the same values in them; the plain one needs no decoding.
        for (name, value) in from_libarchive {
            read.xattrs.entry(name).or_insert(value);
        }
        Ok(read)
    }
}

/// The records of a PAX header (`LENGTH KEY=VALUE\n`), each whole or an error in words. Values hold any bytes.
pub(super) fn records(mut data: &[u8]) -> impl Iterator<Item = Result<(&[u8], &[u8]), String>> {
    std::iter::from_fn(move || {
        if data.is_empty() {
            return None;
        }
        let record = split(data);
        match &record {
            Some((_, _, rest)) => data = rest,
            None => data = &[],
        }
        Some(record.map(|(key, value, _)| (key, value)).ok_or_else(|| "a broken PAX record".to_owned()))
    })
}

fn split(data: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = data.iter().position(|b| *b == b' ')?;
    let len: usize = std::str::from_utf8(&data[..space]).ok()?.parse().ok()?;
    let record = data.get(space + 1..len)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|b| *b == b'=')?;
    Some((&record[..equals], &record[equals + 1..], &data[len..]))
}

fn unreadable(key: &[u8], value: &[u8]) -> String {
    let (key, value) = (String::from_utf8_lossy(key), String::from_utf8_lossy(value));
    format!("the PAX record {key} has the unreadable value {value:?}")
}

fn number(key: &[u8], value: &[u8]) -> Result<u64, String> {
    std::str::from_utf8(value).ok().and_then(|v| v.parse().ok()).ok_or_else(|| unreadable(key, value))
}

fn attribute(name: &[u8]) -> Result<Box<[u8]>, String> {
    if name.is_empty() || name.contains(&0) {
        return Err("an extended attribute without a proper name".to_owned());
    }
    Ok(name.into())
}

/// `-12.5` is -13: rounded down, as the kernel does with time stamps.
fn seconds(value: &[u8]) -> Option<i64> {
    let value = std::str::from_utf8(value).ok()?;
    let (whole, fraction) = value.split_once('.').unwrap_or((value, ""));
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let seconds: i64 = whole.parse().ok()?;
    let below = whole.starts_with('-') && fraction.bytes().any(|b| b != b'0');
    Some(if below { seconds.saturating_sub(1) } else { seconds })
}

fn percent_decoded(name: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some((first, tail)) = rest.split_first() {
        let hex = tail.get(..2).and_then(|h| std::str::from_utf8(h).ok()).and_then(|h| u8::from_str_radix(h, 16).ok());
        match (first, hex) {
            (b'%', Some(byte)) => {
                decoded.push(byte);
                rest = &tail[2..];
            }
            _ => {
                decoded.push(*first);
                rest = tail;
            }
        }
    }
    decoded
}

/// Base 64 with or without the `=` at the end; libarchive leaves them out.
fn base64(text: &[u8]) -> Option<Vec<u8>> {
    let text = text.strip_suffix(b"==").or_else(|| text.strip_suffix(b"=")).unwrap_or(text);
    if text.len() % 4 == 1 {
        return None;
    }
    let mut bytes = Vec::with_capacity(text.len() * 3 / 4);
    let (mut bits, mut count) = (0_u32, 0);
    for letter in text {
        let value = match letter {
            b'A'..=b'Z' => letter - b'A',
            b'a'..=b'z' => letter - b'a' + 26,
            b'0'..=b'9' => letter - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = (bits << 6 | u32::from(value)) & 0xff_ffff;
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_round_down() {
        let cases: [(&[u8], Option<i64>); 9] = [
            (b"12", Some(12)),
            (b"12.999", Some(12)),
            (b"-12", Some(-12)),
            (b"-12.000", Some(-12)),
            (b"-12.001", Some(-13)),
            (b"-0.5", Some(-1)),
            (b"", None),
            (b"1e9", None),
            (b"12.x", None),
        ];
        for (text, expected) in cases {
            assert_eq!(seconds(text), expected, "{}", String::from_utf8_lossy(text));
        }
    }

    #[test]
    fn libarchive_attributes() {
        // 01000002 and so on: a capability without padding at its end
        let record = b"LIBARCHIVE.xattr.user.a%3Db%20=AQAAAgAgAAAAAAAAAAAAAAAAAAA\n";
        let data = [format!("{} ", record.len() + 3).as_bytes(), record].concat();
        let read = Records::read(Some(&data)).unwrap();
        let mut expected = vec![0; 20];
        expected[..6].copy_from_slice(&[1, 0, 0, 2, 0, 0x20]);
        assert_eq!(read.xattrs.into_iter().collect::<Vec<_>>(), [(b"user.a=b ".as_slice().into(), expected.into())]);
        assert_eq!(base64(b"AQ=="), Some(vec![1]));
        assert_eq!(base64(b"A"), None);
        assert_eq!(base64(b"A!=="), None);
    }

    #[test]
    fn broken_records_are_errors() {
        for data in
            [&b"x"[..], b"9 a=b\n", b"6 a=b", b"0 a=b\n", b"5 ab\n", b"999999999999999999999 a=b\n", b"3 \n", b"\0\0"]
        {
            assert!(Records::read(Some(data)).is_err(), "{}", String::from_utf8_lossy(data));
        }
        let huge = b"35 size=99999999999999999999999999\n";
        assert!(Records::read(Some(&huge[..])).unwrap_err().contains("size"));
    }
}
