//! The inode table and the directory table, which point at each other and so are written together.
//!
//! A listing needs the places of its entries' inodes, and a directory's inode needs the place of its listing. Directories
//! are taken children first: the inodes of all that a directory names are written side by side in the order of the
//! names, then its listing. What belongs together is close together on disk, and listings need few headers.

use std::collections::HashMap;

use imgbuild_tree::{FileContent, Kind};

use crate::data::Data;
use crate::directory::{self, Entry, Listing};
use crate::format::Put;
use crate::inode::{Common, basic_type};
use crate::inventory::{Inventory, Number};
use crate::metadata::{MetadataWriter, Place};
use crate::xattr::XattrTable;
use crate::{Error, Options};

/// Both tables, ready to be written.
pub(crate) struct Tables {
    pub(crate) inodes: Vec<u8>,
    pub(crate) directories: Vec<u8>,
    /// Reference to the root's inode.
    pub(crate) root: u64,
    /// The export table, uncompressed: a reference for every inode number.
    pub(crate) export: Vec<u8>,
}

/// Writes all inodes and listings.
pub(crate) fn write<C: FileContent>(
    inventory: &Inventory<'_, C>,
    data: &Data,
    xattrs: &XattrTable,
    options: &Options,
) -> Result<Tables, Error> {
    let mut writer = Writer {
        inventory,
        data,
        xattrs,
        options,
        inodes: MetadataWriter::new("inode", options.compression)?,
        directories: MetadataWriter::new("directory", options.compression)?,
        places: vec![None; inventory.len() as usize],
        listings: HashMap::new(),
    };
    for directory in inventory.directories().iter().rev() {
        writer.write_directory(*directory)?;
    }
    let root = writer.write_inode(1)?;
    let mut export = Vec::with_capacity(8 * writer.places.len());
    for place in &writer.places {
        // Every inode but the root is named by a directory, and all directories have been written.
        export.put_u64(place.map_or(0, Place::reference));
    }
    Ok(Tables {
        inodes: writer.inodes.finish()?,
        directories: writer.directories.finish()?,
        root: root.reference(),
        export,
    })
}

struct Writer<'a, 't, C> {
    inventory: &'a Inventory<'t, C>,
    data: &'a Data,
    xattrs: &'a XattrTable,
    options: &'a Options,
    inodes: MetadataWriter,
    directories: MetadataWriter,
    /// By number - 1: where the inode is, once it is written.
    places: Vec<Option<Place>>,
    /// The listings of directories, from when they are written to when the inodes are.
    listings: HashMap<Number, Listing<'t>>,
}

impl<'t, C: FileContent> Writer<'_, 't, C> {
    /// Writes the inodes that a directory names, then its listing.
    fn write_directory(&mut self, directory: Number) -> Result<(), Error> {
        let children = self.inventory.children(directory);
        let mut entries = Vec::with_capacity(children.len());
        for (name, id) in children {
            let number = self.inventory.number(*id);
            let inode = self.write_inode(number)?;
            let kind = basic_type(&self.inventory.inode(number).node.kind);
            entries.push(Entry { name, number, inode, kind });
        }
        let listing = directory::write(&mut self.directories, &entries)?;
        self.listings.insert(directory, listing);
        Ok(())
    }

    /// Writes an inode, unless another name of it was there before, and returns its place.
    fn write_inode(&mut self, number: Number) -> Result<Place, Error> {
        let slot = number as usize - 1;
        if let Some(place) = self.places[slot] {
            return Ok(place);
        }
        let place = self.inodes.place()?;
        let bytes = self.encode(number);
        self.inodes.write(&bytes)?;
        self.places[slot] = Some(place);
        Ok(place)
    }

    fn encode(&mut self, number: Number) -> Vec<u8> {
        let inode = self.inventory.inode(number);
        let meta = &inode.node.meta;
        let common = Common {
            node: inode.node,
            number,
            links: inode.links,
            uid: self.inventory.id_index(meta.uid),
            gid: self.inventory.id_index(meta.gid),
            mtime: self.options.clamp(meta.mtime),
            xattrs: self.xattrs.index_of(number),
        };
        match &inode.node.kind {
            Kind::Directory(_) => {
                let listing = self.listings.remove(&number).unwrap_or_else(Listing::empty);
                // The root's parent is the number after the last one, as no inode has.
                let parent = if inode.parent == 0 { self.inventory.len() + 1 } else { inode.parent };
                common.directory(&listing, parent)
            }
            Kind::Regular(content) => common.regular(content.len(), self.data.layout(number)),
            Kind::Symlink(target) => common.symlink(target),
            Kind::CharDevice { major, minor } | Kind::BlockDevice { major, minor } => common.device(*major, *minor),
            Kind::Fifo | Kind::Socket => common.ipc(),
        }
    }
}
