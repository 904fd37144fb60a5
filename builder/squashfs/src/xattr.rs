//! Extended attributes: every set of them is stored once, and so is a long value that several sets have.

use std::collections::{BTreeMap, HashMap};

use imgbuild_tree::Xattrs;

use crate::format::{NO_INDEX, NO_TABLE, Put, XATTR_NAME_MAX, XATTR_VALUE_MAX};
use crate::inventory::{Inventory, Number};
use crate::metadata::MetadataWriter;
use crate::tables::Tail;
use crate::{Compression, DroppedXattr, Error};

/// In an attribute's type: what follows is a reference to the value.
pub(crate) const OUT_OF_LINE: u16 = 0x0100;
/// Values longer than this are stored once and referred to. For shorter ones the reference, which does not compress, and
/// the second metadata block to be read cost more than they save.
const INLINE_MAX: usize = 64;

/// The prefixes squashfs knows, with their numbers.
pub(crate) const PREFIXES: [(&[u8], u16); 3] = [(b"user.", 0), (b"trusted.", 1), (b"security.", 2)];

/// One attribute as it is stored.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Attribute<'t> {
    prefix: u16,
    name: &'t [u8],
    value: &'t [u8],
}

/// The extended attributes of all inodes, ready to be written.
pub(crate) struct XattrTable {
    /// By inode number - 1: which set it has. Empty where no inode has any.
    sets_of: Vec<u32>,
    /// The attributes, as metadata blocks.
    pairs: Vec<u8>,
    /// The lookup table: reference, count and size of each set; uncompressed.
    sets: Vec<u8>,
    count: u32,
    /// What squashfs cannot hold, by name.
    pub(crate) dropped: Vec<DroppedXattr>,
}

impl XattrTable {
    pub(crate) fn new<C>(inventory: &Inventory<'_, C>, compression: Compression) -> Result<Self, Error> {
        let mut builder = Builder {
            pairs: MetadataWriter::new("extended attribute", compression)?,
            sets: Vec::new(),
            known_sets: BTreeMap::new(),
            known_values: HashMap::new(),
        };
        let mut dropped = BTreeMap::new();
        let mut sets_of = Vec::new();
        for (number, inode) in inventory.iter() {
            if inode.node.meta.xattrs.is_empty() {
                continue;
            }
            let set = storable(inventory, number, &inode.node.meta.xattrs, &mut dropped)?;
            if !set.is_empty() {
                sets_of.resize(inventory.len() as usize, NO_INDEX);
                sets_of[number as usize - 1] = builder.add(set)?;
            }
        }
        let count = builder.count()?;
        Ok(Self {
            sets_of,
            pairs: builder.pairs.finish()?,
            sets: builder.sets,
            count,
            dropped: dropped.into_values().collect(),
        })
    }

    /// The index of an inode's attributes, `None` where it has none.
    pub(crate) fn index_of(&self, number: Number) -> Option<u32> {
        self.sets_of.get(number as usize - 1).copied().filter(|set| *set != NO_INDEX)
    }

    /// Adds the table, the last one of the image, and returns what the superblock says of it.
    pub(crate) fn write(&self, tail: &mut Tail, compression: Compression) -> Result<u64, Error> {
        if self.count == 0 {
            return Ok(NO_TABLE);
        }
        let pairs_start = tail.position();
        tail.add(self.pairs.clone());
        let index = tail.add_blocks("extended attribute", compression, &self.sets)?;
        let start = tail.position();
        let mut header = Vec::with_capacity(16);
        header.put_u64(pairs_start);
        header.put_u32(self.count);
        header.put_u32(0);
        tail.add(header);
        tail.add(index);
        Ok(start)
    }
}

/// Those of a file's attributes that squashfs can hold; the others are noted.
fn storable<'t, C>(
    inventory: &Inventory<'t, C>,
    number: Number,
    xattrs: &'t Xattrs,
    dropped: &mut BTreeMap<&'t [u8], DroppedXattr>,
) -> Result<Vec<Attribute<'t>>, Error> {
    let mut set = Vec::with_capacity(xattrs.len());
    for (name, value) in xattrs {
        let known = PREFIXES.iter().find_map(|(prefix, id)| Some((*id, name.strip_prefix(*prefix)?)));
        let Some((prefix, rest)) = known.filter(|(_, rest)| !rest.is_empty() && !rest.contains(&0)) else {
            dropped
                .entry(name)
                .or_insert_with(|| DroppedXattr {
                    name: String::from_utf8_lossy(name).into_owned(),
                    first: inventory.path(number),
                    files: 0,
                })
                .files += 1;
            continue;
        };
        if name.len() > XATTR_NAME_MAX || value.len() > XATTR_VALUE_MAX {
            return Err(Error::XattrTooLong {
                path: inventory.path(number),
                name: String::from_utf8_lossy(name).into_owned(),
                value_len: value.len(),
            });
        }
        set.push(Attribute { prefix, name: rest, value });
    }
    Ok(set)
}

/// Numbers the sets and writes those that are new.
struct Builder<'t> {
    pairs: MetadataWriter,
    sets: Vec<u8>,
    known_sets: BTreeMap<Vec<Attribute<'t>>, u32>,
    /// References to the values that were stored in full.
    known_values: HashMap<&'t [u8], u64>,
}

impl<'t> Builder<'t> {
    fn count(&self) -> Result<u32, Error> {
        let count = u32::try_from(self.known_sets.len()).ok().filter(|n| *n != NO_INDEX);
        count.ok_or(Error::TableTooLarge { table: "extended attribute" })
    }

    fn add(&mut self, set: Vec<Attribute<'t>>) -> Result<u32, Error> {
        if let Some(index) = self.known_sets.get(&set) {
            return Ok(*index);
        }
        let index = self.count()?;
        let start = self.pairs.place()?;
        let mut size = 0_u64;
        for attribute in &set {
            size += self.write(*attribute)?;
        }
        let too_large = |_| Error::TableTooLarge { table: "extended attribute" };
        self.sets.put_u64(start.reference());
        self.sets.put_u32(u32::try_from(set.len()).map_err(too_large)?);
        self.sets.put_u32(u32::try_from(size).map_err(too_large)?);
        self.known_sets.insert(set, index);
        Ok(index)
    }

    /// Writes one attribute and returns its size in the table.
    fn write(&mut self, attribute: Attribute<'t>) -> Result<u64, Error> {
        let Attribute { prefix, name, value } = attribute;
        let stored = self.known_values.get(value).copied();
        let mut key = Vec::with_capacity(4 + name.len());
        key.put_u16(prefix | if stored.is_some() { OUT_OF_LINE } else { 0 });
        // At most 255 bytes.
        key.put_u16(name.len() as u16);
        key.extend_from_slice(name);
        self.pairs.write(&key)?;
        let mut body = Vec::with_capacity(4 + value.len());
        if let Some(reference) = stored {
            body.put_u32(8);
            body.put_u64(reference);
        } else {
            if value.len() > INLINE_MAX {
                self.known_values.insert(value, self.pairs.place()?.reference());
            }
            // At most 65536 bytes.
            body.put_u32(value.len() as u32);
            body.extend_from_slice(value);
        }
        self.pairs.write(&body)?;
        Ok((key.len() + body.len()) as u64)
    }
}
