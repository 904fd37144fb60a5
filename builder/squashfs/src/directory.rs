//! Directory listings: runs of entries, each run behind a header that says what its entries have in common.

use crate::Error;
use crate::format::{METADATA_SIZE, Put, RUN_MAX};
use crate::inventory::Number;
use crate::metadata::{MetadataWriter, Place};

/// Size of the header before a run.
const HEADER: usize = 12;
/// Size of an entry without its name.
const ENTRY: usize = 8;
/// An extended directory inode counts its index entries in 16 bits.
const INDEX_MAX: usize = u16::MAX as usize;

/// One name.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry<'t> {
    /// 1 to 256 bytes.
    pub(crate) name: &'t [u8],
    pub(crate) number: Number,
    /// Where its inode is in the inode table.
    pub(crate) inode: Place,
    /// The basic inode type.
    pub(crate) kind: u16,
}

impl Entry<'_> {
    fn len(&self) -> usize {
        ENTRY + self.name.len()
    }

    /// Whether it can stand in a run that `first` begins: same block of inodes, number not too far away.
    fn joins(&self, first: &Entry<'_>) -> bool {
        self.inode.block == first.inode.block && self.delta(first).is_some()
    }

    fn delta(&self, first: &Entry<'_>) -> Option<i16> {
        i16::try_from(i64::from(self.number) - i64::from(first.number)).ok()
    }
}

/// Tells a reader where it may begin to look for names from this one on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct IndexEntry<'t> {
    /// Bytes from the start of the listing to a run's header.
    pub(crate) position: u32,
    /// The metadata block that header is in, relative to the directory table.
    pub(crate) block: u32,
    /// The first name of that run.
    pub(crate) name: &'t [u8],
}

/// A listing once it is written.
#[derive(Debug)]
pub(crate) struct Listing<'t> {
    pub(crate) place: Place,
    /// Its length in bytes; three bytes more still fit into 32 bits.
    pub(crate) len: u32,
    /// An entry for every metadata block but the first, none where one block holds it all.
    pub(crate) index: Vec<IndexEntry<'t>>,
}

impl Listing<'_> {
    /// The listing of an empty directory that no table has.
    pub(crate) fn empty() -> Self {
        Self { place: Place { block: 0, offset: 0 }, len: 0, index: Vec::new() }
    }
}

/// Writes the listing of one directory; the entries are in bytewise order of their names.
pub(crate) fn write<'t>(table: &mut MetadataWriter, entries: &[Entry<'t>]) -> Result<Listing<'t>, Error> {
    let too_large = || Error::TableTooLarge { table: "directory" };
    let place = table.place()?;
    let mut len = 0_u32;
    let mut index = Vec::new();
    let mut indexed_block = place.block;
    let mut rest = entries;
    while let Some(first) = rest.first() {
        let here = table.place()?;
        if here.block != indexed_block {
            indexed_block = here.block;
            index.push(IndexEntry { position: len, block: here.block, name: first.name });
        }
        let (run, later) = rest.split_at(run_len(rest, usize::from(here.offset)));
        rest = later;
        let bytes = encode(run, first);
        table.write(&bytes)?;
        let added = u32::try_from(bytes.len()).map_err(|_| too_large())?;
        len = len.checked_add(added).filter(|len| *len <= u32::MAX - 3).ok_or_else(too_large)?;
    }
    Ok(Listing { place, len, index: thinned(index) })
}

/// How many entries go into the run whose header is at `offset` of a metadata block: as many as fit its header's terms,
/// but none that begins in a later metadata block than the first one, so that every block gets a header, and an index
/// entry, near its beginning.
fn run_len(entries: &[Entry<'_>], offset: usize) -> usize {
    let Some(first) = entries.first() else { return 0 };
    let begin = offset + HEADER;
    let end_of_block = (begin / METADATA_SIZE + 1) * METADATA_SIZE;
    let mut at = begin;
    let fits = |entry: &&Entry<'_>| {
        let fits = at < end_of_block && entry.joins(first);
        at += entry.len();
        fits
    };
    entries.iter().take(RUN_MAX).take_while(fits).count()
}

fn encode(run: &[Entry<'_>], first: &Entry<'_>) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER + run.iter().map(Entry::len).sum::<usize>());
    // A run has 1 to 256 entries and counts from 0; names have 1 to 256 bytes and count from 0 too.
    out.put_u32(run.len() as u32 - 1);
    out.put_u32(first.inode.block);
    out.put_u32(first.number);
    for entry in run {
        out.put_u16(entry.inode.offset);
        out.put_u16(entry.delta(first).unwrap_or_default() as u16);
        out.put_u16(entry.kind);
        out.put_u16(entry.name.len() as u16 - 1);
        out.extend_from_slice(entry.name);
    }
    out
}

/// Leaves out every second entry, third entry, and so on, until the rest can be counted.
fn thinned(index: Vec<IndexEntry<'_>>) -> Vec<IndexEntry<'_>> {
    match index.len().div_ceil(INDEX_MAX) {
        0 | 1 => index,
        step => index.into_iter().step_by(step).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Compression;

    fn entry(name: &[u8], number: Number, block: u32) -> Entry<'_> {
        Entry { name, number, inode: Place { block, offset: 0 }, kind: 2 }
    }

    #[test]
    fn a_run_ends_where_a_number_is_too_far_from_the_first() {
        let base = 40_000;
        for (number, joins) in [(72_767, true), (72_768, false), (7232, true), (7231, false), (u32::MAX, false)] {
            let entries = [entry(b"a", base, 0), entry(b"b", number, 0)];
            assert_eq!(run_len(&entries, 0), if joins { 2 } else { 1 }, "{number}");
        }
    }

    #[test]
    fn a_run_ends_where_the_block_of_inodes_does_and_after_256_entries() {
        let mut entries = vec![entry(b"name", 5, 0); 300];
        assert_eq!(run_len(&entries, 0), 256);
        entries[100].inode.block = 900;
        assert_eq!(run_len(&entries, 0), 100);
        assert_eq!(run_len(&entries[100..], 0), 1);
        assert_eq!(run_len(&[], 0), 0);
    }

    #[test]
    fn a_run_has_no_entry_that_begins_in_the_next_metadata_block() {
        let name = [b'n'; 92]; // entries of 100 bytes
        let entries = vec![entry(&name, 5, 0); 200];
        // Headers at 0, so entries at 12, 112, … 8112; the one at 8212 would be in the next block.
        assert_eq!(run_len(&entries, 0), 82);
        assert_eq!(run_len(&entries, 8192 - 13), 1);
        // A header that fills its block, or straddles two, is followed by a run in the next one.
        assert_eq!(run_len(&entries, 8192 - 12), 82);
        assert_eq!(run_len(&entries, 8192 - 5), 82);
    }

    #[test]
    fn the_index_names_the_first_run_of_every_later_block() {
        let names: Vec<String> = (0..1000).map(|n| format!("{n:092}")).collect();
        let entries: Vec<_> = names.iter().map(|name| entry(name.as_bytes(), 5, 0)).collect();
        let mut table = MetadataWriter::new("directory", Compression::None).unwrap();
        table.write(&[0; 3000]).unwrap();
        let listing = write(&mut table, &entries).unwrap();
        assert_eq!(listing.place, Place { block: 0, offset: 3000 });
        let blocks = (3000 + listing.len as usize).div_ceil(METADATA_SIZE);
        assert_eq!(listing.index.len(), blocks - 1);
        for (number, found) in (1_u32..).zip(&listing.index) {
            // Stored as they are, blocks have 8192 bytes and a header of 2.
            assert_eq!(found.block, number * 8194);
            assert_eq!((3000 + found.position) / 8192, number);
        }
        assert!(listing.index.is_sorted_by(|a, b| a.position < b.position && a.name < b.name));
    }

    #[test]
    fn an_index_that_cannot_be_counted_is_thinned() {
        let index =
            |len: u32| (0..len).map(|position| IndexEntry { position, block: 0, name: b"n" }).collect::<Vec<_>>();
        assert_eq!(thinned(index(65_535)).len(), 65_535);
        let thin = thinned(index(65_536));
        assert_eq!(thin.len(), 32_768);
        assert_eq!(thin[1].position, 2);
    }
}
