//! What a kernel module says about itself: the `.modinfo` section of its ELF64 file, `key=value` strings with a NUL
//! after each.

/// What a module says about itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ModInfo {
    /// Modules that must be loaded before, normalised.
    pub depends: Vec<String>,
    /// Modules or aliases that should be loaded before, where there are any (`softdep=pre:`).
    pub pre: Vec<String>,
    /// Modules or aliases that should be loaded after (`softdep=post:`).
    pub post: Vec<String>,
    /// Patterns of the devices and names it stands for.
    pub aliases: Vec<String>,
    /// Firmware files that it may ask for, below the firmware directory; some are globs.
    pub firmware: Vec<String>,
    /// Kernel release and build flags that it fits.
    pub vermagic: Option<String>,
}

/// A module's name as the kernel knows it: `-` and `_` are the same, and `_` is how it is spelled.
#[must_use]
pub fn normalise(name: &str) -> String {
    name.replace('-', "_")
}

/// An alias as `depmod` writes it and `modprobe` looks it up: `-` becomes `_` outside of brackets.
pub(crate) fn normalise_alias(alias: &str) -> String {
    let mut bracket = false;
    let change = |c| {
        match c {
            '[' => bracket = true,
            ']' => bracket = false,
            '-' if !bracket => return '_',
            _ => {}
        }
        c
    };
    alias.chars().map(change).collect()
}

impl ModInfo {
    /// Reads it from a module's file.
    ///
    /// # Errors
    /// A sentence that says why this is no module.
    pub fn parse(elf: &[u8]) -> Result<Self, String> {
        let section = section(elf, b".modinfo")?.ok_or("it has no .modinfo section, so it is no kernel module")?;
        let mut info = Self::default();
        for field in section.split(|b| *b == 0) {
            let Ok(field) = std::str::from_utf8(field) else { continue };
            let Some((key, value)) = field.split_once('=') else { continue };
            match key {
                "depends" => info.depends.extend(value.split(',').filter(|n| !n.is_empty()).map(normalise)),
                "softdep" => info.soft_dependencies(value),
                "alias" => info.aliases.push(value.to_owned()),
                "firmware" => info.firmware.push(value.to_owned()),
                "vermagic" => info.vermagic = Some(value.to_owned()),
                _ => {}
            }
        }
        Ok(info)
    }

    /// `pre: a b post: c`; what stands before the first keyword has no meaning.
    fn soft_dependencies(&mut self, value: &str) {
        let mut list = None;
        for word in value.split_whitespace() {
            match word {
                "pre:" => list = Some(&mut self.pre),
                "post:" => list = Some(&mut self.post),
                _ => {
                    if let Some(list) = &mut list {
                        list.push(word.to_owned());
                    }
                }
            }
        }
    }
}

/// The bytes of a section by name; the first of them.
fn section<'a>(elf: &'a [u8], name: &[u8]) -> Result<Option<&'a [u8]>, String> {
    let headers = Sections::read(elf)?;
    let names = headers.data(headers.names)?;
    for index in 0..headers.count {
        let header = headers.header(index)?;
        let start = u32::from_le_bytes(array(header, 0)?) as usize;
        let found = names.get(start..).unwrap_or_default().split(|b| *b == 0).next().unwrap_or_default();
        if found == name {
            return headers.data(index).map(Some);
        }
    }
    Ok(None)
}

/// Section headers of an ELF64 file, little-endian as all machines we build for.
struct Sections<'a> {
    elf: &'a [u8],
    offset: usize,
    count: usize,
    names: usize,
}

/// Size of an `Elf64_Shdr`.
const HEADER: usize = 64;
/// In `e_shstrndx`: the index stands in the first section header.
const SHN_XINDEX: usize = 0xffff;
/// In `sh_type`: the section has no bytes in the file.
const SHT_NOBITS: u32 = 8;

impl<'a> Sections<'a> {
    fn read(elf: &'a [u8]) -> Result<Self, String> {
        if elf.get(..4) != Some(b"\x7fELF") {
            return Err("it is no ELF file".to_owned());
        }
        if elf.get(4..6) != Some(&[2, 1]) {
            return Err("it is no little-endian ELF64 file".to_owned());
        }
        let half = |at| array(elf, at).map(|bytes| usize::from(u16::from_le_bytes(bytes)));
        let mut sections = Self { elf, offset: word(elf, 40)?, count: half(60)?, names: half(62)? };
        if half(58)? != HEADER {
            return Err(format!("its section headers are not {HEADER} bytes long"));
        }
        // Numbers that do not fit stand in the first header, which is otherwise unused.
        if sections.offset != 0 && sections.count == 0 {
            sections.count = word(sections.header(0)?, 32)?;
        }
        if sections.names == SHN_XINDEX {
            sections.names = u32::from_le_bytes(array(sections.header(0)?, 40)?) as usize;
        }
        Ok(sections)
    }

    fn header(&self, index: usize) -> Result<&'a [u8], String> {
        let start = index.checked_mul(HEADER).and_then(|at| at.checked_add(self.offset));
        let range = start.and_then(|start| Some(start..start.checked_add(HEADER)?));
        range.and_then(|range| self.elf.get(range)).ok_or_else(|| "its section headers are cut off".to_owned())
    }

    fn data(&self, index: usize) -> Result<&'a [u8], String> {
        let header = self.header(index)?;
        if u32::from_le_bytes(array(header, 4)?) == SHT_NOBITS {
            return Ok(&[]);
        }
        let (start, length) = (word(header, 24)?, word(header, 32)?);
        let range = start.checked_add(length).map(|end| start..end);
        range
            .and_then(|range| self.elf.get(range))
            .ok_or_else(|| "a section lies beyond its end: it is cut off".to_owned())
    }
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], String> {
    let found = at.checked_add(N).and_then(|end| bytes.get(at..end)).and_then(|found| found.try_into().ok());
    found.ok_or_else(|| "it ends in the middle of a header".to_owned())
}

fn word(bytes: &[u8], at: usize) -> Result<usize, String> {
    usize::try_from(u64::from_le_bytes(array(bytes, at)?)).map_err(|_| "an offset in it is absurd".to_owned())
}

#[cfg(test)]
mod tests;
