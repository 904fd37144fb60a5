//! The binary index of `depmod` (`modules.dep.bin`, `modules.alias.bin`, `modules.symbols.bin`), version 2.1.
//!
//! A trie over bytes below 128, written children first. All numbers are 32 bits, big-endian. The file begins with magic,
//! version and the offset of the root node. The upper bits of an offset say what its node has, in this order: a prefix
//! (bytes, NUL), children (first byte, last byte, one offset for each byte between them, 0 for none), values (count; each
//! a priority and bytes, NUL).

use std::collections::BTreeMap;

const MAGIC: u32 = 0xB007_F457;
const VERSION: u32 = 0x0002_0001;
const HAS_PREFIX: u32 = 0x8000_0000;
const HAS_VALUES: u32 = 0x4000_0000;
const HAS_CHILDREN: u32 = 0x2000_0000;

/// Keys and their values, each with a priority: lower comes first.
#[derive(Debug, Default)]
pub(super) struct Trie {
    entries: BTreeMap<Vec<u8>, Vec<(u32, Vec<u8>)>>,
}

impl Trie {
    /// Adds a value. A key with a byte that the format cannot have (NUL, 128 and above) is left out: no name of a module
    /// and no alias has one.
    pub(super) fn insert(&mut self, key: &str, value: &str, priority: u32) {
        let strange = |byte: u8| byte == 0 || !byte.is_ascii();
        if !key.bytes().any(strange) && !value.as_bytes().contains(&0) {
            self.entries.entry(key.as_bytes().to_vec()).or_default().push((priority, value.as_bytes().to_vec()));
        }
    }

    /// The file.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let entries: Vec<Entry<'_>> = self
            .entries
            .iter()
            .map(|(key, values)| {
                let mut values: Vec<_> = values.iter().collect();
                values.sort_by_key(|(priority, _)| *priority);
                (key.as_slice(), values)
            })
            .collect();
        let mut out: Vec<u8> = [MAGIC, VERSION, 0].iter().flat_map(|word| word.to_be_bytes()).collect();
        // The root has no prefix, even where all keys begin alike.
        let root = node(&entries, 0, 0, &mut out);
        out[8..12].copy_from_slice(&root.to_be_bytes());
        out
    }
}

type Entry<'a> = (&'a [u8], Vec<&'a (u32, Vec<u8>)>);

/// Writes the node of these keys, which are sorted and the same in their first `end` bytes; its prefix begins at `start`.
/// Returns its offset with what it has. The depth of recursion is at most the length of a key, a line of an index.
fn node(entries: &[Entry<'_>], start: usize, end: usize, out: &mut Vec<u8>) -> u32 {
    let own = entries.first().filter(|(key, _)| key.len() == end);
    let below = &entries[usize::from(own.is_some())..];
    let mut children = BTreeMap::new();
    for group in below.chunk_by(|(a, _), (b, _)| a[end] == b[end]) {
        let byte = group[0].0[end];
        // Sorted, so what the first and the last have in common all have.
        let (first, last) = (group[0].0, group[group.len() - 1].0);
        let common = first.iter().zip(last).take_while(|(a, b)| a == b).count();
        children.insert(byte, node(group, end + 1, common, out));
    }
    let mut offset = u32::try_from(out.len()).unwrap_or(u32::MAX);
    if end > start {
        out.extend_from_slice(&entries[0].0[start..end]);
        out.push(0);
        offset |= HAS_PREFIX;
    }
    if let (Some((first, _)), Some((last, _))) = (children.first_key_value(), children.last_key_value()) {
        out.extend_from_slice(&[*first, *last]);
        for byte in *first..=*last {
            out.extend_from_slice(&children.get(&byte).copied().unwrap_or(0).to_be_bytes());
        }
        offset |= HAS_CHILDREN;
    }
    if let Some((_, values)) = own {
        out.extend_from_slice(&u32::try_from(values.len()).unwrap_or(u32::MAX).to_be_bytes());
        for (priority, value) in values {
            out.extend_from_slice(&priority.to_be_bytes());
            out.extend_from_slice(value);
            out.push(0);
        }
        offset |= HAS_VALUES;
    }
    offset
}
