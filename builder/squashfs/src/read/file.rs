//! The contents of regular files.

use std::io;
use std::sync::Arc;

use imgbuild_tree::FileContent;

use super::error::{At, ReadError};
use super::image::Inner;
use super::tables::Fragment;
use crate::format::BLOCK_RAW;

/// Blocks in a segment: as many sizes as are added up to find one block.
const SEGMENT: usize = 64;

/// A regular file of an image. It keeps the image open; reads decompress the blocks they need, the last ones of which are
/// kept for all files of the image. Cheap to clone; can be read from any thread.
#[derive(Clone)]
pub struct ImageFile {
    image: Arc<Inner>,
    layout: Arc<Layout>,
}

impl std::fmt::Debug for ImageFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ImageFile").field("len", &self.layout.len).finish_non_exhaustive()
    }
}

impl ImageFile {
    pub(super) fn new(image: &Arc<Inner>, layout: Layout) -> Self {
        Self { image: Arc::clone(image), layout: Arc::new(layout) }
    }

    /// Fills `out` with what the file has from `within` of block `number` on; it reaches no further than that block.
    fn read_block(&self, out: &mut [u8], number: u64, within: usize, len: usize) -> Result<(), ReadError> {
        if let Some((position, word)) = self.layout.block(number) {
            return self.read_stored(out, position, word, within, Some(len));
        }
        match &self.layout.tail {
            Some(tail) if number == self.layout.len / u64::from(self.image.superblock.block_size) => {
                let Fragment { position, size } = tail.fragment;
                self.read_stored(out, position, size, tail.offset + within, None)
            }
            _ => {
                out.fill(0);
                Ok(())
            }
        }
    }

    /// Fills `out` from `within` of a block or, where no length is known, a fragment block.
    fn read_stored(
        &self,
        out: &mut [u8],
        position: u64,
        word: u32,
        within: usize,
        len: Option<usize>,
    ) -> Result<(), ReadError> {
        let part = if len.is_some() { "data block" } else { "fragment block" };
        if word & BLOCK_RAW != 0 {
            // That it is long enough was seen when its inode was read.
            return self.image.read(part, out, position + within as u64);
        }
        let packed = word as usize;
        let key = (position, word, len.unwrap_or(0));
        if let Some(block) = self.image.cached(key) {
            return copy(part, position, &block, within, out);
        }
        if len == Some(out.len()) {
            // The whole block: straight to where it is wanted, and out of the others' way.
            let found = self.image.unpack(part, position, packed, out)?;
            return check_len(part, position, found, out.len());
        }
        let mut block = vec![0; len.unwrap_or(self.image.superblock.block_size as usize)];
        let found = self.image.unpack(part, position, packed, &mut block)?;
        if let Some(len) = len {
            check_len(part, position, found, len)?;
        }
        block.truncate(found);
        let block: Arc<[u8]> = block.into();
        self.image.keep(key, Arc::clone(&block));
        copy(part, position, &block, within, out)
    }
}

fn check_len(part: &'static str, position: u64, found: usize, expected: usize) -> Result<(), ReadError> {
    if found == expected {
        return Ok(());
    }
    let reason = format!("the block has {found} bytes, which should be {expected}");
    Err(ReadError::corrupt(part, At::byte(position), reason))
}

fn copy(part: &'static str, position: u64, block: &[u8], within: usize, out: &mut [u8]) -> Result<(), ReadError> {
    let Some(bytes) = block.get(within..within + out.len()) else {
        let reason = format!("the block has {} bytes, a file needs {}", block.len(), within + out.len());
        return Err(ReadError::corrupt(part, At::byte(position), reason));
    };
    out.copy_from_slice(bytes);
    Ok(())
}

impl FileContent for ImageFile {
    fn len(&self) -> u64 {
        self.layout.len
    }

    fn read_exact_at(&self, mut buf: &mut [u8], mut offset: u64) -> io::Result<()> {
        let len = self.layout.len;
        if offset.checked_add(buf.len() as u64).is_none_or(|end| end > len) {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "read beyond the end of the file"));
        }
        let block_size = u64::from(self.image.superblock.block_size);
        while !buf.is_empty() {
            let (number, within) = (offset / block_size, offset % block_size);
            let block = (len - number * block_size).min(block_size);
            // Both are at most a block.
            let take = ((block - within) as usize).min(buf.len());
            let (now, later) = buf.split_at_mut(take);
            self.read_block(now, number, within as usize, block as usize).map_err(ReadError::into_io)?;
            offset += take as u64;
            buf = later;
        }
        Ok(())
    }
}

/// Where the end of a file is that does not fill a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tail {
    pub(super) fragment: Fragment,
    /// Where in the fragment it begins.
    pub(super) offset: usize,
}

/// Where the content of a file is. Holes take no room in it, however long they are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Layout {
    len: u64,
    /// The stored blocks' size words.
    sizes: Vec<u32>,
    segments: Vec<Segment>,
    pub(super) tail: Option<Tail>,
}

/// Some blocks that follow each other, in the file and in the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Segment {
    /// Number of the first one in the file.
    block: u64,
    /// Where it stands in the image.
    position: u64,
    /// Its index in the sizes.
    first: usize,
    count: usize,
}

impl Layout {
    pub(super) fn new(len: u64) -> Self {
        Self { len, ..Self::default() }
    }

    /// Adds a stored block; numbers ascend, and each block stands behind the one before.
    pub(super) fn push(&mut self, number: u64, position: u64, word: u32) {
        match self.segments.last_mut() {
            Some(last) if last.block + last.count as u64 == number && last.count < SEGMENT => last.count += 1,
            _ => {
                let first = self.sizes.len();
                self.segments.push(Segment { block: number, position, first, count: 1 });
            }
        }
        self.sizes.push(word);
    }

    /// Gives back what room was taken in advance.
    pub(super) fn shrink(&mut self) {
        self.sizes.shrink_to_fit();
        self.segments.shrink_to_fit();
    }

    /// Position and size word of a block; `None` for a hole, and behind the last block.
    fn block(&self, number: u64) -> Option<(u64, u32)> {
        let next = self.segments.partition_point(|segment| segment.block <= number);
        let segment = self.segments.get(next.checked_sub(1)?)?;
        let sizes = self.sizes.get(segment.first..segment.first + segment.count)?;
        let index = usize::try_from(number - segment.block).ok()?;
        let word = *sizes.get(index)?;
        let before: u64 = sizes.iter().take(index).map(|word| u64::from(word & !BLOCK_RAW)).sum();
        Some((segment.position + before, word))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_found_between_holes_and_beyond_a_segment() {
        let mut layout = Layout::new(0);
        let stored = |number: u64| number < 200 && number % 50 != 7 || number == 1 << 40;
        let mut position = 96;
        let mut expected = Vec::new();
        for number in (0..300).chain([1 << 40]) {
            if stored(number) {
                let raw = if number % 3 == 0 { BLOCK_RAW } else { 0 };
                let word = (100 + number as u32 % 7) | raw;
                layout.push(number, position, word);
                expected.push((number, Some((position, word))));
                position += u64::from(word & !BLOCK_RAW);
            } else {
                expected.push((number, None));
            }
        }
        for (number, block) in expected {
            assert_eq!(layout.block(number), block, "{number}");
        }
        for number in [300, (1 << 40) - 1, (1 << 40) + 1, u64::MAX] {
            assert_eq!(layout.block(number), None);
        }
        assert_eq!(Layout::new(5).block(0), None);
    }
}
