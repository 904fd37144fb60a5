//! The image as it grows.

use std::io::{BufWriter, Seek, SeekFrom, Write};

use crate::Error;
use crate::format::PADDING;

/// Appends to the image and knows the position.
pub(crate) struct Sink<W: Write + Seek> {
    out: BufWriter<W>,
    /// Where the image begins in the output.
    base: u64,
    position: u64,
    /// How far it was ever written.
    reached: u64,
}

impl<W: Write + Seek> Sink<W> {
    pub(crate) fn new(mut out: W) -> Result<Self, Error> {
        let base = out.stream_position().map_err(Error::Write)?;
        Ok(Self { out: BufWriter::with_capacity(1 << 18, out), base, position: 0, reached: 0 })
    }

    /// Bytes written so far: where the next ones go.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.out.write_all(bytes).map_err(Error::Write)?;
        self.position += bytes.len() as u64;
        Ok(())
    }

    /// Takes back what was written from this position on.
    pub(crate) fn rewind(&mut self, position: u64) -> Result<(), Error> {
        self.reached = self.reached.max(self.position);
        self.out.seek(SeekFrom::Start(self.base + position)).map_err(Error::Write)?;
        self.position = position;
        Ok(())
    }

    /// Pads the image and leaves the output's position at its end; returns its size.
    pub(crate) fn finish(&mut self) -> Result<u64, Error> {
        let padding = self.position.next_multiple_of(PADDING) - self.position;
        self.write(&[0; PADDING as usize][..padding as usize])?;
        let size = self.position;
        // What was taken back and not written over is no part of the image, and is not left lying about behind it.
        let mut left = self.reached.saturating_sub(size);
        while left > 0 {
            let step = left.min(PADDING);
            self.write(&[0; PADDING as usize][..step as usize])?;
            left -= step;
        }
        if self.position != size {
            self.rewind(size)?;
        }
        self.out.flush().map_err(Error::Write)?;
        Ok(size)
    }

    /// Puts the superblock in its place, which was left zero, so that what an interrupted run leaves is never taken for an
    /// image.
    pub(crate) fn put_superblock(&mut self, superblock: &[u8]) -> Result<(), Error> {
        let end = self.position;
        self.rewind(0)?;
        self.write(superblock)?;
        self.rewind(end)?;
        self.out.flush().map_err(Error::Write)
    }
}
