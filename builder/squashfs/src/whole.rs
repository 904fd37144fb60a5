//! An image that is written from its first byte to its last.

use crate::Error;
use crate::format::{BLOCK_SIZES, PADDING};
use crate::reuse::{Digest, Straight};

/// Appends to the image and knows the position.
pub(crate) struct Whole<'a> {
    out: Box<dyn Straight + 'a>,
    position: u64,
}

impl<'a> Whole<'a> {
    pub(crate) fn new(out: Box<dyn Straight + 'a>) -> Self {
        Self { out, position: 0 }
    }

    /// Bytes written so far.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// As [`Straight::put`].
    pub(crate) fn put(&mut self, len: usize, fill: &mut dyn FnMut(&mut [u8]) -> bool) -> Result<bool, Error> {
        let is_put = self.out.put(len, fill).map_err(Error::Write)?;
        if is_put {
            self.position += len as u64;
        }
        Ok(is_put)
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        for part in bytes.chunks(*BLOCK_SIZES.end() as usize) {
            let mut copy = |to: &mut [u8]| {
                to.copy_from_slice(part);
                true
            };
            self.put(part.len(), &mut copy)?;
        }
        Ok(())
    }

    /// Pads the image; returns its size and its hash.
    pub(crate) fn finish(mut self) -> Result<(u64, Digest), Error> {
        let padding = self.position.next_multiple_of(PADDING) - self.position;
        self.write(&[0; PADDING as usize][..padding as usize])?;
        Ok((self.position, self.out.finish().map_err(Error::Write)?))
    }
}
