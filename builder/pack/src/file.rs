//! One pack: a file of blocks with an index at its end.
//!
//! ```text
//! magic      8 bytes, `imgpack1`
//! blocks     one after the other
//! index      48 bytes for each block: key 32, offset 8, length 4 (bit 31: stored raw; 0: a hole), 4 of its XXH3-64
//! footer     offset of the index 8, number of blocks 8, XXH3-64 of the index 8, magic 8
//! ```
//!
//! Everything is little-endian. A pack is written once and never changed; what is not whole has no footer, or one that
//! does not fit, and counts for nothing. The checksums are there to find what a disk or a broken-off copy did; who may write the
//! cache is trusted.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use imgbuild_squashfs::{BlockKey, Form, Outline, Packed, fingerprint};
use xxhash_rust::xxh3::xxh3_64;

const MAGIC: &[u8; 8] = b"imgpack1";
const ENTRY: usize = 48;
const FOOTER: usize = 32;
const RAW: u32 = 1 << 31;
/// Squashfs has no longer blocks.
const LONGEST: u32 = 1 << 20;
/// What is read at once of an index.
const STEP: usize = 4096 * ENTRY;

/// Where a block lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    offset: u64,
    /// As in the index.
    len: u32,
    fingerprint: u32,
}

impl Place {
    /// Bytes that it takes.
    pub(crate) fn len(self) -> u32 {
        self.len & !RAW
    }

    /// What the index says of it.
    pub(crate) fn outline(self) -> Outline {
        Outline { form: self.form(), len: self.len(), fingerprint: self.fingerprint }
    }

    fn form(self) -> Form {
        match self.len {
            0 => Form::Hole,
            len if len & RAW != 0 => Form::Raw,
            _ => Form::Compressed,
        }
    }
}

/// A pack that is being written.
#[derive(Debug)]
pub(crate) struct Writer<W> {
    out: W,
    position: u64,
    index: Vec<u8>,
}

impl<W: io::Write> Writer<W> {
    pub(crate) fn new(mut out: W) -> io::Result<Self> {
        out.write_all(MAGIC)?;
        Ok(Self { out, position: MAGIC.len() as u64, index: Vec::new() })
    }

    pub(crate) fn add(&mut self, key: &BlockKey, block: Packed<'_>) -> io::Result<()> {
        let (bytes, raw) = match block {
            Packed::Hole => (&[][..], 0),
            Packed::Compressed(bytes) => (bytes, 0),
            Packed::Raw(bytes) => (bytes, RAW),
        };
        self.out.write_all(bytes)?;
        self.index.extend_from_slice(key);
        self.index.extend_from_slice(&self.position.to_le_bytes());
        // Blocks have at most 2^20 bytes.
        self.index.extend_from_slice(&(bytes.len() as u32 | raw).to_le_bytes());
        self.index.extend_from_slice(&fingerprint(bytes).to_le_bytes());
        self.position += bytes.len() as u64;
        Ok(())
    }

    /// Writes index and footer; the output, and the keys with their places, which name the pack.
    pub(crate) fn finish(mut self) -> io::Result<(W, Vec<u8>)> {
        self.out.write_all(&self.index)?;
        self.out.write_all(&self.position.to_le_bytes())?;
        self.out.write_all(&((self.index.len() / ENTRY) as u64).to_le_bytes())?;
        self.out.write_all(&xxh3_64(&self.index).to_le_bytes())?;
        self.out.write_all(MAGIC)?;
        self.out.flush()?;
        Ok((self.out, self.index))
    }
}

/// Reads a pack's index and hands on each block; fails with `InvalidData` on what is no whole pack.
pub(crate) fn read_index(file: &File, mut each: impl FnMut(BlockKey, Place)) -> io::Result<()> {
    let broken = |what: &'static str| io::Error::new(io::ErrorKind::InvalidData, what);
    let size = file.metadata()?.len();
    let Some(end) = size.checked_sub(FOOTER as u64) else { return Err(broken("it is too short for a pack")) };
    let mut footer = [0; FOOTER];
    file.read_exact_at(&mut footer, end)?;
    let word = |at: usize| u64_at(&footer, at);
    let (start, count, sum) = (word(0), word(8), word(16));
    if footer[24..] != *MAGIC {
        return Err(broken("it has no footer: it was not written to its end"));
    }
    if count.checked_mul(ENTRY as u64).and_then(|len| start.checked_add(len)) != Some(end) {
        return Err(broken("its index is not where its footer says"));
    }
    let mut hasher = xxhash_rust::xxh3::Xxh3::new();
    let mut places = Vec::new();
    let mut buffer = vec![0; STEP.min((end - start) as usize)];
    let mut at = start;
    while at < end {
        let take = ((end - at) as usize).min(buffer.len());
        let chunk = &mut buffer[..take];
        file.read_exact_at(chunk, at)?;
        hasher.update(chunk);
        for entry in chunk.chunks_exact(ENTRY) {
            let mut key = [0; 32];
            key.copy_from_slice(&entry[..32]);
            let place = Place { offset: u64_at(entry, 32), len: u32_at(entry, 40), fingerprint: u32_at(entry, 44) };
            let inside = place.offset.checked_add(u64::from(place.len())).is_some_and(|end| end <= start);
            if place.len() > LONGEST || !inside {
                return Err(broken("its index names a place outside of it"));
            }
            places.push((key, place));
        }
        at += take as u64;
    }
    if hasher.digest() != sum {
        return Err(broken("its index is damaged"));
    }
    places.into_iter().for_each(|(key, place)| each(key, place));
    Ok(())
}

/// Reads a block; `InvalidData` if it is not what was written.
pub(crate) fn read_block(file: &File, place: Place, buffer: &mut Vec<u8>) -> io::Result<Form> {
    let len = place.len() as usize;
    // Blocks come in all lengths up to the largest: a buffer that grew to just this one would soon grow again, and all its
    // pages be new ones. What is in it from before is written over.
    buffer.reserve(len.next_power_of_two().saturating_sub(buffer.len()));
    buffer.resize(len, 0);
    read_block_exact(file, place, buffer)
}

/// The same into memory of its length.
pub(crate) fn read_block_exact(file: &File, place: Place, to: &mut [u8]) -> io::Result<Form> {
    let is_other = |what: &'static str| io::Error::new(io::ErrorKind::InvalidInput, what);
    if to.len() != place.len() as usize {
        return Err(is_other("the block has another length"));
    }
    file.read_exact_at(to, place.offset)?;
    if fingerprint(to) != place.fingerprint {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a block is damaged"));
    }
    Ok(place.form())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn pack(blocks: &[(u8, Packed<'_>)]) -> Vec<u8> {
        let mut writer = Writer::new(Vec::new()).unwrap();
        for (key, block) in blocks {
            writer.add(&[*key; 32], *block).unwrap();
        }
        writer.finish().unwrap().0
    }

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    fn index(bytes: &[u8]) -> io::Result<Vec<(u8, Place)>> {
        let mut found = Vec::new();
        read_index(&file(bytes), |key, place| found.push((key[0], place)))?;
        Ok(found)
    }

    #[test]
    fn blocks_come_back_as_they_were() {
        let many: Vec<u8> = vec![7; 5000];
        let blocks = [(1, Packed::Compressed(&b"abc"[..])), (2, Packed::Hole), (3, Packed::Raw(&many))];
        let bytes = pack(&blocks);
        let (file, mut buffer) = (file(&bytes), Vec::new());
        for ((key, place), (wanted, block)) in index(&bytes).unwrap().into_iter().zip(blocks) {
            assert_eq!(key, wanted);
            let form = read_block(&file, place, &mut buffer).unwrap();
            let read = match form {
                Form::Hole => Packed::Hole,
                Form::Compressed => Packed::Compressed(&buffer),
                Form::Raw => Packed::Raw(&buffer),
            };
            assert_eq!(read, block);
        }
        assert!(index(&pack(&[])).unwrap().is_empty());
    }

    #[test]
    fn what_is_cut_off_anywhere_is_no_pack() {
        let bytes = pack(&[(1, Packed::Compressed(b"abc")), (2, Packed::Raw(b"defg"))]);
        for len in 0..bytes.len() {
            assert!(index(&bytes[..len]).is_err(), "{len} bytes");
        }
        assert!(index(&[&bytes[..], b"x"].concat()).is_err());
    }

    #[test]
    fn a_flipped_bit_is_found_wherever_it_is() {
        let bytes = pack(&[(1, Packed::Compressed(b"abc")), (2, Packed::Raw(b"defg"))]);
        for at in MAGIC.len()..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            let good = index(&damaged).is_ok_and(|places| {
                let file = file(&damaged);
                places.iter().all(|(_, place)| read_block(&file, *place, &mut Vec::new()).is_ok())
            });
            assert!(!good, "byte {at}");
        }
    }
}
