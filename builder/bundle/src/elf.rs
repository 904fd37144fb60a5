//! What an ELF file asks the dynamic linker for: ELF64 and ELF32 of either byte order, by their program headers, since
//! section headers may be stripped.

use std::io::{self, Read, Seek, SeekFrom};

use imgbuild_tree::{Content, FileContent};
use object::elf::{DT_NEEDED, DT_RPATH, DT_RUNPATH, DT_STRSZ, DT_STRTAB, FileHeader32, FileHeader64, PT_LOAD};
use object::read::elf::{Dyn as _, FileHeader, ProgramHeader as _};
use object::read::{ReadCache, ReadRef, StringTable};
use object::{Endianness, FileKind};

/// More entries than any file's dynamic section has.
const LONGEST_DYNAMIC: u64 = 1 << 20;
/// More names than any file asks for.
const MOST_NAMES: usize = 4096;

/// What one file asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Dynamic {
    /// The dynamic linker (`PT_INTERP`); shared libraries have none.
    pub(crate) interpreter: Option<String>,
    /// Libraries (`DT_NEEDED`), in their order.
    pub(crate) needed: Vec<String>,
    /// Folders to look in before all others (`DT_RUNPATH`, else `DT_RPATH`), `$ORIGIN` as it stands.
    pub(crate) search: Vec<String>,
}

/// Reads it. `None` for what is no ELF file, or one that makes no sense: the kernel would not run it either.
///
/// # Errors
/// When the content cannot be read.
pub(crate) fn read(content: &Content) -> io::Result<Option<Dynamic>> {
    let reader = Reader { content, at: 0, failed: None };
    let cache = ReadCache::new(reader);
    let found = match FileKind::parse(&cache) {
        Ok(FileKind::Elf64) => dynamic::<FileHeader64<Endianness>, _>(&cache),
        Ok(FileKind::Elf32) => dynamic::<FileHeader32<Endianness>, _>(&cache),
        _ => None,
    };
    match cache.into_inner().failed {
        Some(error) => Err(error),
        None => Ok(found),
    }
}

fn dynamic<'data, Elf: FileHeader<Endian = Endianness>, R: ReadRef<'data>>(data: R) -> Option<Dynamic> {
    let header = Elf::parse(data).ok()?;
    let endian = header.endian().ok()?;
    let segments = header.program_headers(endian, data).ok()?;
    let mut found = Dynamic::default();
    let (mut names, mut run_path, mut r_path, mut table, mut size) = (Vec::new(), None, None, None, 0);
    for segment in segments {
        if let Ok(Some(path)) = segment.interpreter(endian, data) {
            found.interpreter = Some(text(path));
        }
        if segment.p_filesz(endian).into() > LONGEST_DYNAMIC {
            continue;
        }
        let Ok(Some(entries)) = segment.dynamic(endian, data) else { continue };
        for entry in entries {
            let value = entry.val(endian);
            match entry.tag(endian) {
                DT_NEEDED if names.len() < MOST_NAMES => names.push(value),
                DT_RUNPATH => run_path = Some(value),
                DT_RPATH => r_path = Some(value),
                DT_STRTAB => table = Some(value),
                DT_STRSZ => size = value,
                _ => {}
            }
        }
    }
    let Some(table) = table else { return Some(found) };
    // The table's address, as a place in the file.
    let start = segments.iter().find_map(|segment| {
        let (address, offset): (u64, u64) = (segment.p_vaddr(endian).into(), segment.p_offset(endian).into());
        let inside = table.checked_sub(address).filter(|at| *at < segment.p_filesz(endian).into());
        (segment.p_type(endian) == PT_LOAD).then(|| inside?.checked_add(offset)).flatten()
    })?;
    let strings = StringTable::new(data, start, start.checked_add(size)?);
    let string = |at: u64| strings.get(u32::try_from(at).ok()?).ok().map(text);
    found.needed = names.into_iter().map(string).collect::<Option<_>>()?;
    if let Some(paths) = run_path.or(r_path) {
        found.search = string(paths)?.split(':').filter(|path| !path.is_empty()).map(str::to_owned).collect();
    }
    Some(found)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A content as `object` reads files. It keeps the first failure, which `object` would take for a malformed file.
struct Reader<'a> {
    content: &'a Content,
    at: u64,
    failed: Option<io::Error>,
}

impl Read for Reader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.content.len().saturating_sub(self.at);
        let take = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let Some(buffer) = buffer.get_mut(..take) else { return Ok(0) };
        if let Err(error) = self.content.read_exact_at(buffer, self.at) {
            let same = io::Error::new(error.kind(), error.to_string());
            self.failed.get_or_insert(error);
            return Err(same);
        }
        self.at += take as u64;
        Ok(take)
    }
}

impl Seek for Reader<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.content.len().checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = at.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(self.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_host(path: &str) -> Dynamic {
        read(&Content::from(std::fs::read(path).unwrap())).unwrap().unwrap()
    }

    /// What `readelf -d` says of a file of the machine that runs the test.
    fn readelf(path: &str) -> Vec<String> {
        let output = std::process::Command::new("readelf").args(["-dW", path]).output().expect("binutils is installed");
        let text = String::from_utf8(output.stdout).unwrap();
        let lines = text.lines().filter(|line| line.contains("(NEEDED)"));
        lines.map(|line| line.split(['[', ']']).nth(1).unwrap().to_owned()).collect()
    }

    #[test]
    fn a_program_asks_for_what_readelf_says() {
        for program in ["/bin/bash", "/bin/ls"] {
            let found = of_host(program);
            assert_eq!(found.needed, readelf(program));
            assert!(found.needed.iter().any(|name| name == "libc.so.6"), "{found:?}");
            assert!(found.interpreter.is_some_and(|path| path.starts_with("/lib")));
        }
    }

    #[test]
    fn every_cut_of_a_program_is_read_or_refused() {
        let whole = std::fs::read("/bin/true").unwrap();
        for len in (0..whole.len().min(8192)).step_by(7).chain([whole.len() - 1]) {
            read(&Content::from(&whole[..len])).unwrap();
        }
        let mut broken = whole.clone();
        for at in 0..2048 {
            broken[at] ^= 0xff;
            read(&Content::from(broken.as_slice())).unwrap();
            broken[at] = whole[at];
        }
    }

    #[test]
    fn what_is_no_elf_file_asks_for_nothing() {
        assert_eq!(read(&Content::from(&b"#!/bin/sh\n"[..])).unwrap(), None);
        assert_eq!(read(&Content::from(&b"\x7fELF"[..])).unwrap(), None);
    }

    #[test]
    fn a_file_that_cannot_be_read_is_an_error() {
        let content = Content::Path { path: std::path::Path::new("/nonexistent").into(), len: 100 };
        assert!(read(&content).is_err());
    }
}
